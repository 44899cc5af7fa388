"""Decides which versions of a model can be removed, and why the others are kept. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from semver import Version

from turnout.routing.rollback import default_version
from turnout.state.release_status import ModelReleaseState, ReleaseStatus


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """The facts about a version in the repository that decide whether it can be removed.

    Attributes:
        published: When the version was published, UTC; None if it is not known.
        holders: Descriptions of everything that needs the version: parts of the policy, rollouts, tags.
        pinned: Whether the `load` setting names the version.
    """

    size_bytes: int
    published: datetime | None
    holders: Sequence[str] = ()
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Keep:
    """The versions that are always kept.

    Attributes:
        released: Number of latest releases to keep.
        newer_than: Age below which a version is kept.
    """

    released: int
    newer_than: timedelta


@dataclass(frozen=True, slots=True)
class PruningDecision:
    """The decision on one version.

    Attributes:
        reasons: Why the version is kept or, if it is removed, its release status and date of publication.
    """

    version: Version
    goes: bool
    reasons: tuple[str, ...]
    size_bytes: int


def prune_plan(
    versions: Mapping[Version, VersionFacts],
    model_releases: ModelReleaseState,
    targets: Collection[Version],
    keep: Keep,
    now: datetime,
) -> tuple[PruningDecision, ...]:
    """Decides on each version of a model, the highest first. Of `targets`, the versions that a rollback can go back to,
    only the nearest, which is the first, is kept for this.
    """
    present = {v: model_releases.release_status(v) for v in versions}
    default = default_version(present)
    releases = sorted((v for v, s in present.items() if s is ReleaseStatus.RELEASED), reverse=True)
    newest = set(releases[: keep.released])
    nearest = next(iter(targets), None)
    found = []
    for version in sorted(versions, reverse=True):
        facts, status = versions[version], present[version]
        if version in model_releases.pruned:
            found.append(
                PruningDecision(version, True, ("pruned before, and its files are still here",), facts.size_bytes)
            )
            continue
        reasons = list(facts.holders)
        reasons += ["`latest` gets it"] * (version == default)
        reasons += ["a rollback goes back to it"] * (version == nearest)
        reasons += ["the load setting names it"] * facts.pinned
        reasons += [f"it is among the {keep.released} latest releases"] * (version in newest)
        if facts.published is None:
            reasons.append("its publish time is unknown; `turnout verify` records it")
        elif now - facts.published < keep.newer_than:
            reasons.append(f"it was published less than {keep.newer_than.days} days ago")
        what = status.value if facts.published is None else f"{status.value}, published {facts.published:%Y-%m-%d}"
        found.append(PruningDecision(version, not reasons, tuple(reasons) or (what,), facts.size_bytes))
    return tuple(found)
