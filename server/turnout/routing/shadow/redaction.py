"""Decides which part of the inputs of disagreements may be stored."""

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from turnout.errors import ConfigError
from turnout.serving.sessions.tensor import Array

if TYPE_CHECKING:
    from turnout.config import Settings, ShadowLane

Redact = Callable[[str, Mapping[str, Array]], Mapping[str, Array]]
"""Returns the part of a model's inputs that may be stored."""


class Redaction:
    """The hooks that the settings name. Hooks are called in threads."""

    def __init__(self, settings: "Settings") -> None:
        """Imports the hooks in `settings`.

        Raises:
            ConfigError: A hook cannot be imported.
        """
        names = {settings.shadow.redact, *(settings.for_model(name).shadow.redact for name in settings.model)}
        self._hooks = {name: _imported(name) for name in names if name}

    def of(self, lane: "ShadowLane") -> Redact | None:
        """Returns what redacts the inputs of a lane with these settings; None if no inputs are stored."""
        if not lane.keep_inputs:
            return None
        return functools.partial(self._redact, lane.redact) if lane.redact else lambda _, inputs: inputs

    def _redact(self, name: str, model: str, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Calls a hook. One that the settings have named since the start is imported at its first call.

        Raises:
            ConfigError: It cannot be imported, so that nothing may be stored.
        """
        hook = self._hooks.get(name)
        if hook is None:
            hook = self._hooks[name] = _imported(name)
        return hook(model, inputs)


def _imported(name: str) -> Redact:
    module, _, function = name.partition(":")
    try:
        hook: Redact = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"shadow.redact: {name} cannot be imported: {error}") from error
    if not callable(hook):
        raise ConfigError(f"shadow.redact: {name} is not a function")
    return hook
