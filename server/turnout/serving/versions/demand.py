"""The sources that determine which versions should be loaded, besides the settings and operators."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from semver import Version

from turnout.serving.versions.hold import Hold
from turnout.serving.versions.load_policy import Fallbacks, Resolve
from turnout.state.release_status import ReleaseState


@dataclass(frozen=True, slots=True)
class VersionDemand:
    """Callbacks that determine which versions should be loaded.

    Attributes:
        release_state: Reads the declared release state from the state store.
        resolve: Resolves a selector of the `load` setting.
        pinned_versions: Returns the versions of a model that must stay loaded, and what holds them.
        fallbacks: Returns the versions of a model that may have to answer next.
    """

    release_state: Callable[[], Awaitable[ReleaseState]]
    resolve: Resolve
    pinned_versions: Callable[[str], Mapping[Version, Hold]]
    fallbacks: Callable[[str], Fallbacks]
