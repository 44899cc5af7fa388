"""Compares the environment that a version declares with that of the machine that loads it."""

from typing import Literal

from turnout.errors import ConfigError
from turnout.registry.manifest.environment import differences
from turnout.registry.manifest.manifest import Manifest
from turnout.registry.publishing.environment_record import this_environment

Strictness = Literal["warn", "refuse", "ignore"]


def check_environment(manifest: Manifest, strictness: Strictness) -> tuple[str, ...]:
    """Returns the differences between the declared environment and this machine's, as sentences for the log.

    Raises:
        ConfigError: There are differences, and `strictness` is `refuse`.
    """
    if strictness == "ignore":
        return ()
    found = differences(manifest.provenance.environment, this_environment())
    if found and strictness == "refuse":
        raise ConfigError(
            f"{manifest.model} {manifest.version} declares another environment: {'; '.join(found)}"
            " (loading.environment is refuse)"
        )
    return found
