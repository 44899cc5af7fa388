"""Reloads the settings on SIGHUP. Some changes take effect immediately, others at the next load or after a restart."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from structlog.typing import FilteringBoundLogger

from turnout.config import ModelTable, Settings, in_force, reread, with_secrets
from turnout.errors import TurnoutError
from turnout.telemetry.logging import Threshold

_AT_ONCE = ("false_alarm_meter", "load", "shadow", "signing", "trials")
"""Keys of `[model.<name>]` that take effect immediately. The others apply to versions that are loaded later."""

_Path = tuple[str, ...]
"""Path of a setting as a tuple. A dotted key would be ambiguous, since a model's name may contain dots."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Dotted keys of changed settings.

    Attributes:
        at_once: Settings that take effect immediately.
        next_load: Settings that apply to versions that are loaded later.
        restart: Settings that require a restart.
    """

    at_once: tuple[str, ...]
    next_load: tuple[str, ...]
    restart: tuple[str, ...]


def changes(before: Settings, after: Settings) -> Changes:
    """Returns the differences between two settings."""
    old, new = _plain(before), _plain(after)
    at_once, next_load, restart = [], [], []
    for parts in sorted(path for path in old.keys() | new.keys() if old.get(path) != new.get(path)):
        key = ".".join(parts)
        if key == "log.level" or (parts[0] == "model" and parts[2] in _AT_ONCE):
            at_once.append(key)
        elif parts[0] == "model":
            next_load.append(key)
        else:
            restart.append(key)
    return Changes(tuple(at_once), tuple(next_load), tuple(restart))


@dataclass(eq=False, repr=False)
class Reloader:
    """Reloads the settings, and applies the changes that need no restart.

    `settings` are those in force, with the secrets that are stored in files. `certificates` reads the certificates and
    the policy file again; `refresh` applies the present settings to shadows, and loads and unloads versions.
    """

    _settings: Settings
    _models: ModelTable
    _threshold: Threshold
    _certificates: Callable[[], Awaitable[None]]
    _refresh: Callable[[], Awaitable[None]]
    _log: FilteringBoundLogger
    _one: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)

    async def reload(self, read: Callable[[], Settings]) -> None:
        """Reads the settings with their secrets, the certificates and the policy file again.

        Invalid settings are logged and not applied. `read` returns the settings, as for `reread`.
        """
        async with self._one:
            after = await reread(lambda: with_secrets(read()), self._log)
            if after is not None:
                await self._apply(after)
            await self._certificates()

    async def _apply(self, after: Settings) -> None:
        found = changes(self._settings, after)
        self._threshold.configure(after.log.level)
        self._models.replace(after.model)
        self._settings = in_force(self._settings, after)
        self._log.info(
            "settings reloaded", at_once=found.at_once, next_load=found.next_load, needs_restart=found.restart
        )
        try:
            await self._refresh()
        except TurnoutError as error:
            self._log.warning("what the settings ask for is not loaded yet", reason=error.message)


def _plain(settings: Settings) -> dict[_Path, Any]:
    """Returns the settings by path, including only the overrides of each model. Secrets remain masked."""
    data = settings.model_dump()
    data["model"] = settings.model_dump(include={"model"}, exclude_unset=True).get("model", {})
    return _flat(data)


def _flat(data: Mapping[str, Any], above: _Path = ()) -> dict[_Path, Any]:
    flat: dict[_Path, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, (*above, key))
        else:
            flat[*above, key] = value
    return flat
