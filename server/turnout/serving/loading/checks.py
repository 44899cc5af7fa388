"""Checks a version before it is loaded: its signatures, and the environment that it declares."""

from typing import Literal

from turnout.config import Signing
from turnout.errors import ConfigError
from turnout.registry.manifest.environment import differences
from turnout.registry.manifest.manifest import Manifest
from turnout.registry.publishing.environment_record import this_environment
from turnout.registry.signing.trust import Trust
from turnout.registry.storage.listing import Published
from turnout.registry.storage.repository import Repository
from turnout.serving.versions.catalog import VersionEntry

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


def trusted(repository: Repository, entry: VersionEntry, signing: Signing) -> bool:
    """Returns whether a version may be served."""
    trust = Trust.of(signing)
    return not trust.required or not trust.doubt(repository, Published(entry.manifest, entry.digest))


def doubt_of(repository: Repository, published: Published, signing: Signing) -> str:
    """Returns why a version's signatures are insufficient although it is served; "" if there is no such reason."""
    trust = Trust.of(signing)
    return "" if trust.required else trust.doubt(repository, published)
