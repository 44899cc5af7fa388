"""Divides the server's limits between its workers. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ByteSize

from turnout.config import Settings
from turnout.config.sections import Section
from turnout.config.settings import ModelOverrides
from turnout.config.values import Provider
from turnout.errors import ConfigError

SHARED_OUT: Mapping[str, tuple[str, ...]] = {
    "limits": (
        "max_queue_requests",
        "max_queue_bytes",
        "max_requests",
        "max_connections",
        "max_unfinished_bytes",
        "max_unsent_bytes",
    ),
    "runtime": ("runners", "processes", "arena_limit_bytes"),
    "shadow": ("max_inflight", "max_queue_requests", "max_queue_bytes"),
    "loading": ("concurrency", "memory_budget_bytes", "gpu_memory_budget_bytes"),
}
"""The settings that are divided equally, by section. 0 stays 0, which means "no limit", or "as many as fit". In the
latter case, each worker uses its share of the cores."""

_HOLD_MESSAGES = frozenset({"max_queue_bytes", "max_unfinished_bytes", "max_unsent_bytes"})
"""Settings that are at least the maximum message size in each worker, so that each can handle such a message."""

S = TypeVar("S", bound=Section)


def share_of(settings: Settings, index: int) -> Settings:
    """Returns the settings of the worker `index`, from 0, with its share of each limit, which is at least 1."""
    division = _Division(index, settings.workers, int(settings.limits.max_message_bytes))
    update: dict[str, Any] = {
        name: division.of_section(getattr(settings, name), keys) for name, keys in SHARED_OUT.items()
    }
    update["model"] = {model: division.of_model(own) for model, own in settings.model.items()}
    return settings.model_copy(update=update)


def part(whole: int, index: int, count: int) -> int:
    """Returns a worker's share of a total: at least 1, or 0 if the total is 0."""
    return max(whole // count + (index < whole % count), 1) if whole else 0


@dataclass(frozen=True, slots=True)
class _Division:
    index: int
    count: int
    message_bytes: int

    def of_model(self, own: ModelOverrides) -> ModelOverrides:
        """Divides the settings of one model. Unset settings stay unset, so that those of all models apply."""
        update: dict[str, Any] = {}
        for name, keys in SHARED_OUT.items():
            if name in own.model_fields_set:
                section = getattr(own, name)
                update[name] = self.of_section(section, [key for key in keys if key in section.model_fields_set])
        return own.model_copy(update=update)

    def of_section(self, section: S, keys: Iterable[str]) -> S:
        """Divides the values of the given keys in a section."""
        return section.model_copy(update={key: self._share(key, getattr(section, key)) for key in keys})

    def _share(self, key: str, whole: int) -> int:
        least = min(whole, self.message_bytes) if key in _HOLD_MESSAGES else 0
        share = max(part(whole, self.index, self.count), least)
        return ByteSize(share) if isinstance(whole, ByteSize) else share


def check_gpus(settings: Settings) -> None:
    """Checks that several workers do not load versions on a GPU, unless the configuration asks for that.

    Raises:
        ConfigError: Several workers would load versions on a GPU. The message says what to set.
    """
    if settings.workers == 1:
        return
    for name in ("", *settings.model):
        runtime = settings.for_model(name).runtime
        on_cpu = runtime.providers != "auto" and all(provider is Provider.CPU for provider in runtime.providers)
        if not on_cpu and not runtime.gpu_in_each_worker:
            section = f"[model.{name}.runtime]" if name else "[runtime]"
            raise ConfigError(
                f"workers = {settings.workers} would load each version on a GPU {settings.workers} times: set {section}"
                ' gpu_in_each_worker = true if the GPU has the memory, or providers = ["cpu"], or workers = 1'
            )
