"""Determines which versions a rollback can return to. Pure.

A rollback follows, backwards, the order in which versions came to answer plain requests. When a version comes to answer
again, all versions that came after it were rolled back, so they are no longer targets.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from semver import Version

from turnout.registry.manifest.versions import precedence
from turnout.state.release_status import ReleaseStatus


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One change that may have changed which version answers plain requests.

    Attributes:
        revision: Revision of the change. Entries are processed in this order.
        is_policy: Whether the policy changed; otherwise a release status did.
        baseline: The new policy's baseline; None if there is no policy from then on.
    """

    revision: int
    is_policy: bool
    baseline: Version | None = None
    version: Version | None = None
    status: ReleaseStatus = ReleaseStatus.CANDIDATE


def answered(changes: Iterable[HistoryEntry]) -> tuple[Version, ...]:
    """Returns the versions that answered plain requests, in order, the present one last.

    While there was a policy, its baseline answered; otherwise the highest released version that is not a prerelease. A
    version occurs once for each time that it came to answer.
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
    """Returns the versions that a rollback can return to, nearest first.

    Args:
        history: Versions that answered plain requests, in order, the present one last (from `answered`).
        statuses: Present release statuses. A version that is not listed is a candidate, as is a version that was
            rolled back; neither candidates nor yanked versions are targets.
        present: Versions that exist.
    """
    target: list[Version] = []
    for version in history:
        if version in target:
            del target[target.index(version) :]
        target.append(version)
    return tuple(v for v in reversed(target[:-1]) if v in present and statuses.get(v) is ReleaseStatus.RELEASED)
