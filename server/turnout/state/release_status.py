"""What a version was declared fit for, and which names move over versions. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from semver import Version


class Standing(StrEnum):
    """What a version was declared fit for."""

    CANDIDATE = "candidate"
    """Published, no more: reached by pin, digest and tag only."""
    RELEASED = "released"
    """Fit for general traffic: reached by ranges and, where highest, by the empty selector."""
    YANKED = "yanked"
    """Withdrawn; the version number is never used again."""


@dataclass(frozen=True, slots=True)
class Declarations:
    """All that was declared about one model's versions after their publication.

    Attributes:
        standings: By version; a version not named is a candidate.
        tags: Movable names.
        reasons: Why versions were yanked, where that is known.
        digests: What versions had when they were published, where that was recorded.
        pruned: Versions whose files were removed; they are yanked too.
    """

    standings: Mapping[Version, Standing] = field(default_factory=dict)
    tags: Mapping[str, Version] = field(default_factory=dict)
    reasons: Mapping[Version, str] = field(default_factory=dict)
    digests: Mapping[Version, str] = field(default_factory=dict)
    pruned: frozenset[Version] = frozenset()

    def standing(self, version: Version) -> Standing:
        """Returns the standing of `version`."""
        return self.standings.get(version, Standing.CANDIDATE)


@dataclass(frozen=True, slots=True)
class Declared:
    """The declarations about all models, as of one revision of the state store.

    Attributes:
        revision: Grows by at least one with each change.
        models: By model name; a model not named has no declarations.
    """

    revision: int = 0
    models: Mapping[str, Declarations] = field(default_factory=dict)

    def of(self, model: str) -> Declarations:
        """Returns the declarations about `model`, empty ones where there are none."""
        return self.models.get(model) or Declarations()
