"""Which versions of a model may be removed, and why each other one stays. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from semver import Version

from turnout.routing.rollback import default_version
from turnout.state.release_status import ModelReleaseState, ReleaseStatus


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """What is known of one version on disk.

    Attributes:
        size_bytes: Of its files.
        published: When, UTC; None where nobody knows.
        holders: What holds on to it, a clause each: parts of the policy, rollouts, tags.
        pinned: The `load` setting names it.
    """

    size_bytes: int
    published: datetime | None
    holders: Sequence[str] = ()
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Keep:
    """What stays whatever happens.

    Attributes:
        released: So many of the latest releases.
        newer_than: What was published less long ago.
    """

    released: int
    newer_than: timedelta


@dataclass(frozen=True, slots=True)
class PruningDecision:
    """What becomes of one version.

    Attributes:
        goes: It is removed.
        reasons: Why it stays, or what it is that goes.
        size_bytes: Of its files.
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
    """Decides on each version of a model, the highest first.

    Args:
        versions: That are on disk.
        model_releases: Release status and tags.
        targets: What a rollback can go back to, the nearest first; only the nearest one stays for it.
        keep: What stays in any case.
        now: UTC.
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
            reasons.append("nobody knows when it was published; `turnout verify` records it")
        elif now - facts.published < keep.newer_than:
            reasons.append(f"it was published less than {keep.newer_than.days} days ago")
        what = status.value if facts.published is None else f"{status.value}, published {facts.published:%Y-%m-%d}"
        found.append(PruningDecision(version, not reasons, tuple(reasons) or (what,), facts.size_bytes))
    return tuple(found)
