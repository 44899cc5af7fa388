"""What a version was declared fit for, and which names move over versions. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from semver import Version


class ReleaseStatus(StrEnum):
    """What a version was declared fit for."""

    CANDIDATE = "candidate"
    """Published, no more: reached by pin, digest and tag only."""
    RELEASED = "released"
    """Fit for general traffic: reached by ranges and, where highest, by the empty selector."""
    YANKED = "yanked"
    """Withdrawn; the version number is never used again."""


@dataclass(frozen=True, slots=True)
class ModelReleaseState:
    """All that was declared about one model's versions after their publication.

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
    """The declarations about all models, as of one revision of the state store.

    Attributes:
        revision: Grows by at least one with each change.
        models: By model name; a model not named has no declarations.
    """

    revision: int = 0
    models: Mapping[str, ModelReleaseState] = field(default_factory=dict)

    def of(self, model: str) -> ModelReleaseState:
        """Returns the declarations about `model`, empty ones if there are none."""
        return self.models.get(model) or ModelReleaseState()
