"""Which versions a rollback can go back to. Pure.

A rollback goes back in the order in which versions came to answer plain requests, and never forward: where a version
comes to answer again, all that came after it was gone back from, and is no place to go back to any more.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from semver import Version

from turnout.registry.manifest.versions import precedence
from turnout.routing.policy import Policy
from turnout.state.release_status import ReleaseStatus


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One change that may have made another version answer plain requests.

    Attributes:
        revision: Of the change; entries are taken in its order.
        baseline: The policy's baseline from then on; None if there is no policy from then on.
        is_policy: The change was one of the policy; otherwise one of a release status.
        version: Whose release status changed.
        status: What it changed to.
    """

    revision: int
    is_policy: bool
    baseline: Version | None = None
    version: Version | None = None
    status: ReleaseStatus = ReleaseStatus.CANDIDATE

    @classmethod
    def of_policy(cls, revision: int, policy: Policy | None) -> "HistoryEntry":
        """Returns that of a policy that was set, or of None that was put in its place."""
        return cls(revision, True, baseline=None if policy is None else policy.baseline)

    @classmethod
    def of_status(cls, revision: int, version: Version, status: ReleaseStatus) -> "HistoryEntry":
        """Returns that of a release status that changed."""
        return cls(revision, False, version=version, status=status)


def answered(changes: Iterable[HistoryEntry]) -> tuple[Version, ...]:
    """Returns the versions that answered plain requests, each time another one came to, the present one last.

    The policy's baseline did if there was a policy, and else the highest released version that is not a prerelease.
    """
    found: list[Version] = []
    statuses: dict[Version, ReleaseStatus] = {}
    baseline: Version | None = None
    for change in sorted(changes, key=lambda one: one.revision):
        if change.is_policy:
            baseline = change.baseline
        elif change.version is not None:
            statuses[change.version] = change.status
        now = default_version(statuses) if baseline is None else baseline
        if now is not None and (not found or found[-1] != now):
            found.append(now)
    return tuple(found)


def default_version(statuses: Mapping[Version, ReleaseStatus]) -> Version | None:
    """Returns the version that plain requests and `latest` get without a policy; None if nothing is released."""
    fit = (v for v, status in statuses.items() if status is ReleaseStatus.RELEASED and v.prerelease is None)
    return max(fit, key=precedence, default=None)


def rollback_targets(
    history: Sequence[Version], statuses: Mapping[Version, ReleaseStatus], present: Collection[Version]
) -> tuple[Version, ...]:
    """Returns the versions that a rollback can go back to, the nearest first.

    Args:
        history: The versions that answered plain requests, in order, the present one last (`answered`).
        statuses: Release statuses now; a version not named is a candidate. A version that was rolled back is one, and
            a version that was yanked is no place to go back to either.
        present: Versions that exist.
    """
    target: list[Version] = []
    for version in history:
        if version in target:
            del target[target.index(version) :]
        target.append(version)
    return tuple(v for v in reversed(target[:-1]) if v in present and statuses.get(v) is ReleaseStatus.RELEASED)
