"""What a policy that a rollout asks for, beside what others ask for."""

from dataclasses import replace

import pytest

from rollout_values import PLAN, V1, V2, V3, S, begun, gone, reached
from turnout.rollout.machine.attempt import Rollout
from turnout.rollout.machine.desired_policy import desired_policy
from turnout.rollout.machine.machine import Facts
from turnout.rollout.plan import PlanStep
from turnout.routing.policy import Canary, Policy, Shadow, malformed

NO_TWIN = replace(PLAN, twin=False)


def rival(state: S, **changes: object) -> Rollout:
    """Returns a rollout of 3.0.0 over 1.0.0 in a state."""
    return replace(reached(state), candidate=V3, attempt=2, **changes)


def options(rollout: Rollout, policy: Policy | None = None) -> Policy:
    found = desired_policy(rollout, policy)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (S.PENDING, None),
        (S.VALIDATING, None),
        (S.SHADOWING, Policy(V1, (), (Shadow(V2, 5000),))),
        (S.RAMPING, Policy(V1, (Canary(V2, 5000),), (), 2500)),
        (S.PROMOTING, Policy(V2, (Canary(V1, 1000),), (), 1000)),
        (S.WATCHING, Policy(V2, (Canary(V1, 1000),), (), 1000)),
        (S.ABORTING, None),  # it had put nothing in force, or somebody ended the policy
        (S.SUCCEEDED, None),
    ],
)
def test_each_state_has_a_wish_of_its_own(state, expected) -> None:
    assert desired_policy(reached(state), None) == expected


@pytest.mark.parametrize(
    ("weight", "twin"),
    [(0.05, 500), (0.25, 2500), (1 / 3, 3333), (0.4, 3000), (0.5, 2500), (0.9, 500), (0.9999, 0), (1, 0)],
)
def test_the_twin_is_the_canarys_share_and_at_most_half_of_what_the_baseline_has_left(weight, twin) -> None:
    plan = replace(PLAN, steps=(PlanStep(weight, 10.0),))
    assert options(reached(S.SOAKING, plan)).twin == twin


def test_without_a_twin_in_the_plan_one_that_is_there_stays_as_far_as_it_fits() -> None:
    rollout = reached(S.SOAKING, NO_TWIN)
    assert options(rollout).twin == 0
    beside = Policy(V1, (Canary(V3, 3000),), twin=3000)
    assert options(rollout, beside).twin == 2000
    assert not malformed(options(rollout, beside))


def test_the_version_before_keeps_nothing_where_nobody_watches() -> None:
    assert options(reached(S.PROMOTING, replace(PLAN, watch_s=0.0))) == Policy(V2)


def test_after_the_watch_the_version_before_keeps_nothing() -> None:
    assert options(replace(reached(S.WATCHING), finishing=True)) == Policy(V2)


def test_two_that_run_beside_one_another_leave_each_other_where_they_stand() -> None:
    plan = replace(PLAN, steps=(PlanStep(0.1, 10.0),))
    one, other = reached(S.SOAKING, plan), replace(reached(S.SOAKING, plan), candidate=V3)
    policy = options(other, options(one))
    assert {c.version for c in policy.canaries} == {V2, V3}
    for _ in range(3):
        assert desired_policy(one, policy) == policy
        assert desired_policy(other, policy) == policy


def test_one_that_is_overtaken_leaves_the_others_holdback_alone() -> None:
    promoted = options(reached(S.WATCHING), Policy(V1, (Canary(V2, 5000), Canary(V3, 100)), (), 100))
    overtaken = gone(rival(S.SOAKING), Facts(1.0, overtaken=V2))[0]
    assert options(overtaken, promoted) == Policy(V2, (Canary(V1, 1000),), (), 1000)


def test_a_rollback_takes_nobody_elses_canary_or_shadow_away() -> None:
    there = Policy(V2, (Canary(V1, 1000), Canary(V3, 500)), (Shadow(V3, 100),), 1000)
    assert options(gone(reached(S.WATCHING), Facts(1.0, trouble="gone"))[0], there) == Policy(
        V1, (Canary(V3, 500),), (Shadow(V3, 100),), 500
    )


def test_a_rollback_leaves_a_baseline_that_somebody_else_chose() -> None:
    assert options(reached(S.ABORTING), Policy(V3, (Canary(V2, 500), Canary(V1, 700)))).baseline == V3
    assert options(reached(S.ABORTING), Policy(V3, (Canary(V2, 500), Canary(V1, 700)))).canaries == (Canary(V1, 700),)


def test_the_version_that_becomes_the_baseline_is_no_shadow_of_itself() -> None:
    there = Policy(V3, (), (Shadow(V1, 100), Shadow(V2, 100)))
    for state in (S.SHADOWING, S.SOAKING, S.WATCHING, S.ABORTING):
        assert not malformed(options(reached(state), replace(there, baseline=V1, shadows=there.shadows[1:])))
        assert not malformed(options(reached(state), replace(there, baseline=V2, shadows=there.shadows[:1])))


def test_one_that_waits_wishes_for_nothing() -> None:
    assert desired_policy(begun(), Policy(V1, (Canary(V3, 100),))) is None


def test_a_promotion_leaves_the_others_canaries_and_shadows() -> None:
    there = Policy(V1, (Canary(V2, 5000), Canary(V3, 100)), (Shadow(V3, 7),), 100)
    assert options(reached(S.PROMOTING), there) == Policy(
        V2, (Canary(V3, 100), Canary(V1, 1000)), (Shadow(V3, 7),), 1000
    )
