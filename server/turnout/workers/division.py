"""What each worker may take of what is set for the server. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import ByteSize

from turnout.config import Settings
from turnout.config.sections import Section
from turnout.config.settings import ModelOverrides
from turnout.config.values import Provider
from turnout.errors import ConfigError

SHARED_OUT: Mapping[str, tuple[str, ...]] = {
    "limits": ("max_queue_requests", "max_queue_bytes"),
    "runtime": ("runners", "processes", "arena_limit_bytes"),
    "shadow": ("max_inflight", "max_queue_requests", "max_queue_bytes"),
    "loading": ("concurrency",),
}
"""By section, what the workers get equal parts of. 0 stays 0, which means "no bound", or "as many as fit": then each
worker reckons with its part of the cores."""

S = TypeVar("S", bound=Section)


def share_of(settings: Settings, index: int) -> Settings:
    """Returns what holds for one of `settings.workers` workers: parts that add up to the whole, of 1 at least each.

    Args:
        settings: Of the server.
        index: Of the worker, from 0.
    """
    count = settings.workers
    update: dict[str, Any] = {
        name: _divided(getattr(settings, name), keys, index, count) for name, keys in SHARED_OUT.items()
    }
    update["model"] = {model: _of_model(own, index, count) for model, own in settings.model.items()}
    return settings.model_copy(update=update)


def part(whole: int, index: int, count: int) -> int:
    """Returns the part of a worker in a whole, 1 at least; 0 of 0."""
    return max(whole // count + (index < whole % count), 1) if whole else 0


def _of_model(own: ModelOverrides, index: int, count: int) -> ModelOverrides:
    """Divides what is set for one model; what is not set there stays unset, since the sections of all hold then."""
    update: dict[str, Any] = {}
    for name, keys in SHARED_OUT.items():
        if name in own.model_fields_set:
            section = getattr(own, name)
            update[name] = _divided(section, [key for key in keys if key in section.model_fields_set], index, count)
    return own.model_copy(update=update)


def _divided(section: S, keys: Iterable[str], index: int, count: int) -> S:
    return section.model_copy(update={key: _like(getattr(section, key), index, count) for key in keys})


def _like(whole: int, index: int, count: int) -> int:
    share = part(whole, index, count)
    return ByteSize(share) if isinstance(whole, ByteSize) else share


def check_gpus(settings: Settings) -> None:
    """Refuses several workers where versions may be loaded on a GPU in each of them, and nobody asked for that.

    Raises:
        ConfigError: A version may; the message says what to set.
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
