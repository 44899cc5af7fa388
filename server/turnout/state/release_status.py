"""Release status of versions, and the tags that name them. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from semver import Version


class ReleaseStatus(StrEnum):
    """A version's release status."""

    CANDIDATE = "candidate"
    """Published, no more: reached by pin, digest and tag only."""
    RELEASED = "released"
    """Fit for general traffic: reached by ranges and, where highest, by the empty selector."""
    YANKED = "yanked"
    """Withdrawn; the version number is never used again."""


@dataclass(frozen=True, slots=True)
class ModelReleaseState:
    """Release status and tags of one model's versions.

    Attributes:
        release_statuses: By version; a version not named is a candidate.
        tags: Movable names.
        reasons: Why versions were yanked, if that is known.
        digests: What versions had when they were published, if that was recorded.
        pruned: Versions whose files were removed; they are yanked too.
    """

    release_statuses: Mapping[Version, ReleaseStatus] = field(default_factory=dict)
    tags: Mapping[str, Version] = field(default_factory=dict)
    reasons: Mapping[Version, str] = field(default_factory=dict)
    digests: Mapping[Version, str] = field(default_factory=dict)
    pruned: frozenset[Version] = frozenset()

    def release_status(self, version: Version) -> ReleaseStatus:
        """Returns the release status of `version`."""
        return self.release_statuses.get(version, ReleaseStatus.CANDIDATE)


@dataclass(frozen=True, slots=True)
class ReleaseState:
    """Release status and tags of all models, as of one revision of the state store.

    Attributes:
        revision: Grows by at least one with each change.
        models: By model name; a model not named has no declarations.
    """

    revision: int = 0
    models: Mapping[str, ModelReleaseState] = field(default_factory=dict)

    def of(self, model: str) -> ModelReleaseState:
        """Returns the release state of `model`; an empty one if nothing was declared."""
        return self.models.get(model) or ModelReleaseState()
