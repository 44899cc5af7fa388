"""Release status of versions, and the tags that name them. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from semver import Version


class ReleaseStatus(StrEnum):
    """A version's release status."""

    CANDIDATE = "candidate"
    """Published only. Reached by pin, digest and tag."""
    RELEASED = "released"
    """Fit for general traffic. Also reached by ranges and, if it is the highest, by the empty selector."""
    YANKED = "yanked"
    """Withdrawn for good. The version number is never used again."""


@dataclass(frozen=True, slots=True)
class ModelReleaseState:
    """Release status and tags of one model's versions.

    release_statuses: Release status by version. A version that is not listed is a candidate.
    tags: Versions by tag.
    reasons: Why versions were yanked, if known.
    digests: Digests that versions had when they were published, if recorded.
    pruned: Versions whose files were removed. They are also yanked.
    """

    release_statuses: Mapping[Version, ReleaseStatus] = field(default_factory=dict)
    tags: Mapping[str, Version] = field(default_factory=dict)
    reasons: Mapping[Version, str] = field(default_factory=dict)
    digests: Mapping[Version, str] = field(default_factory=dict)
    pruned: frozenset[Version] = frozenset()

    def release_status(self, version: Version) -> ReleaseStatus:
        """Returns the release status of `version`."""
        return self.release_statuses.get(version, ReleaseStatus.CANDIDATE)

    @property
    def yanked(self) -> list[Version]:
        """The yanked versions, whose numbers must not be used again."""
        return [version for version, status in self.release_statuses.items() if status is ReleaseStatus.YANKED]


@dataclass(frozen=True, slots=True)
class ReleaseState:
    """Release status and tags of all models, as of one revision of the state store.

    Attributes:
    revision: Revision of the store. It increases by at least one with each change.
    models: Release state by model name. A model that is not listed has none.
    """

    revision: int = 0
    models: Mapping[str, ModelReleaseState] = field(default_factory=dict)

    def of(self, model: str) -> ModelReleaseState:
        """Returns the release state of `model`; an empty one if nothing was recorded."""
        return self.models.get(model) or ModelReleaseState()
