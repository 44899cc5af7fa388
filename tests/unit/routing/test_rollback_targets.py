"""What a rollback can go back to, by who answered plain requests before and by what is released now."""

import pytest
from semver import Version

from turnout.routing.rollback import HistoryEntry, answered, rollback_targets
from turnout.state.release_status import ReleaseStatus

A, B, C, RC = Version(1), Version(1, 1), Version(1, 2), Version(2, prerelease="rc.1")
RELEASED = dict.fromkeys((A, B, C), ReleaseStatus.RELEASED)


@pytest.mark.parametrize(
    ("history", "targets"),
    [
        ((), ()),
        ((A,), ()),
        ((A, B), (A,)),
        ((A, B, C), (B, A)),
        ((A, B, A), ()),
        ((A, B, C, A), ()),
        ((A, B, C, B), (A,)),
        ((A, B, A, B), (A,)),
        ((A, B, A, C), (A,)),
        ((C, B, A), (B, C)),
    ],
)
def test_what_was_gone_back_from_is_no_place_to_go_back_to(history, targets) -> None:
    assert rollback_targets(history, RELEASED, {A, B, C}) == targets


@pytest.mark.parametrize("status", [ReleaseStatus.CANDIDATE, ReleaseStatus.YANKED])
def test_only_what_is_released_now_is_gone_back_to(status) -> None:
    assert rollback_targets((A, B, C), {**RELEASED, B: status}, {A, B, C}) == (A,)


def test_what_is_gone_is_not_gone_back_to() -> None:
    assert rollback_targets((A, B, C), RELEASED, {A, C}) == (A,)


def _released(revision: int, version: Version, status: ReleaseStatus = ReleaseStatus.RELEASED) -> HistoryEntry:
    return HistoryEntry(revision, False, version=version, status=status)


def _policy(revision: int, baseline: Version | None) -> HistoryEntry:
    return HistoryEntry(revision, True, baseline=baseline)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([], ()),
        ([_released(1, A), _released(2, B)], (A, B)),
        ([_released(1, B), _released(2, A)], (B,)),
        ([_released(1, A), _released(2, RC)], (A,)),
        ([_released(2, B), _released(1, A)], (A, B)),
        ([_released(1, A), _policy(2, A), _released(3, C), _policy(4, C)], (A, C)),
        ([_released(1, A), _policy(2, A), _released(3, B), _policy(4, None)], (A, B)),
        ([_released(1, A), _released(2, B), _released(3, B, ReleaseStatus.CANDIDATE)], (A, B, A)),
        ([_released(1, A), _released(2, B), _released(3, B, ReleaseStatus.YANKED)], (A, B, A)),
        ([_policy(1, C)], (C,)),
    ],
)
def test_who_answered_is_told_by_policies_and_without_one_by_releases(changes, expected) -> None:
    assert answered(changes) == expected
