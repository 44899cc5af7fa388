"""What asks for versions to be loaded, beside the settings and operators."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from semver import Version

from turnout.serving.versions.hold import Hold
from turnout.serving.versions.load_policy import Fallbacks, Resolve
from turnout.state.release_status import ReleaseState


@dataclass(frozen=True, slots=True)
class VersionDemand:
    """What says which versions should be loaded.

    Attributes:
        release_state: Reads what was declared from the state store.
        resolve: Finds what a selector in `load` names.
        pinned_versions: Tells which of a model's versions have to stay loaded, as what, and what lets go of them.
        fallbacks: Tells which versions of a model may have to answer next.
    """

    release_state: Callable[[], Awaitable[ReleaseState]]
    resolve: Resolve
    pinned_versions: Callable[[str], Mapping[Version, Hold]]
    fallbacks: Callable[[str], Fallbacks]
