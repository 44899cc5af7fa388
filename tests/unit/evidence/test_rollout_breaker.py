"""What takes a candidate back beside the evidence: the circuit breaker and a plan's guards."""

import json
from dataclasses import replace

import pytest

from rollout_values import GOOD, PLAN, RUNNING, SILENT, S, begun, gone, reached, tick, until
from turnout.rollout.evidence import Count, Stratum, Tick
from turnout.rollout.guards.circuit_breaker import Breaker, Outcomes, SlotRecord, trip_text, tripped
from turnout.rollout.guards.guards import LIMIT, Guards, broken
from turnout.rollout.machine.attempt import Rollout
from turnout.rollout.machine.machine import advance
from turnout.rollout.machine.overrides import abort
from turnout.rollout.plan import Plan, PlanStep

JUDGED = [state for state in RUNNING if state not in (S.PENDING, S.ABORTING)]
BREAKER = Breaker()


def failed(requests: int, of_them: int, stalled: int = 0) -> Outcomes:
    return Outcomes(requests, of_them, of_them + stalled)


def stalled(requests: int, of_them: int) -> Outcomes:
    return failed(requests, 0, of_them)


FAILING = SlotRecord("a", 7, failed(20, 20), failed(200, 0), failed(500, 3))
STALLING = replace(FAILING, candidate=stalled(20, 20), elsewhere=stalled(500, 3))


def test_a_slot_that_did_well_and_fails_now_trips_it_and_is_named() -> None:
    worst = replace(FAILING, slot=9, candidate=failed(200, 150, 20), before=stalled(200, 2))
    assert tripped(BREAKER, [FAILING, worst, replace(FAILING, candidate=failed(50, 0))]) is worst
    assert trip_text(worst) == (
        "circuit breaker: of 200 requests of slot 9 on a 150 failed and 20 stalled on the candidate; "
        "of 200 before on the baseline 0 failed and 2 stalled; "
        "of 500 others there in the same time 3 failed and 0 stalled"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"candidate": (19, 19)}, {"candidate": (200, 99)}, {"before": (19, 0)},
        {"before": (200, 3)}, {"before": (50, 2)}, {"elsewhere": (100, 5)}, {"elsewhere": (1, 1)},
    ],
    ids=str,
)  # fmt: skip
def test_too_little_a_bad_past_or_trouble_for_everybody_trips_nothing(changes) -> None:
    assert tripped(BREAKER, [replace(FAILING, **{arm: failed(*counts) for arm, counts in changes.items()})]) is None
    assert tripped(BREAKER, [replace(STALLING, **{arm: stalled(*counts) for arm, counts in changes.items()})]) is None


@pytest.mark.parametrize("changes", [{"before": (200, 60)}, {"elsewhere": (100, 50)}, {"before": (40, 40)}], ids=str)
def test_stalls_of_a_busy_machine_hide_no_failures(changes) -> None:
    """Requests of every slot stall there, the baseline's too: 3 of 200 once kept a tenant on a candidate for good."""
    record = replace(FAILING, **{arm: stalled(*counts) for arm, counts in changes.items()})
    assert tripped(BREAKER, [record]) is record
    assert tripped(BREAKER, [replace(record, candidate=stalled(20, 20))]) is None


def test_failures_and_stalls_add_up() -> None:
    mixed = replace(FAILING, candidate=failed(20, 6, 4))
    assert tripped(BREAKER, [mixed]) is mixed


@pytest.mark.parametrize(
    "changes",
    [
        {"candidate": (20, 10)}, {"before": (20, 0)}, {"before": (20, 1)}, {"before": (100, 1)}, {"before": (200, 2)},
        {"elsewhere": (100, 4)}, {"elsewhere": (0, 0)},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize(("one", "how"), [(FAILING, failed), (STALLING, stalled)], ids=["failing", "stalling"])
def test_its_limits_are_those_of_the_plan(changes, one, how) -> None:
    record = replace(one, **{arm: how(*counts) for arm, counts in changes.items()})
    assert tripped(BREAKER, [record]) is record
    assert tripped(replace(BREAKER, on=False), [record]) is None


def test_a_plan_that_allows_no_bad_past_allows_none() -> None:
    strict = replace(BREAKER, bad_before=0.0)
    assert tripped(strict, [FAILING]) is FAILING
    assert tripped(strict, [replace(FAILING, before=failed(200, 1))]) is None


@pytest.mark.parametrize("state", JUDGED)
@pytest.mark.parametrize("hindrance", [{}, {"frozen": True}, {"ready": False}, {"other": "epoch 7"}], ids=str)
def test_it_takes_back_in_every_state_whatever_else_is_so(state, hindrance) -> None:
    after, entries = advance(reached(state), replace(SILENT, slots=[FAILING], **hindrance))
    assert (after.state, after.end, after.cause) == (S.ABORTING, S.ROLLED_BACK, "breaker")
    assert [entry.kind for entry in entries] == ["breaker", "aborting"]
    assert "slot 7 on a" in after.verdict
    assert after.released


def test_what_took_a_candidate_back_is_kept_apart() -> None:
    plan = replace(PLAN, guards=Guards(error_share=0.01))
    soaking = reached(S.SOAKING, plan)
    by_guard = gone(soaking, *[replace(GOOD, ticks=(tick(20, 100, 20),))])[0]
    assert (by_guard.cause, by_guard.state) == ("guard", S.ABORTING)
    assert gone(soaking, replace(GOOD, ticks=(tick(60),)))[0].cause == "evidence"
    assert abort(soaking, "by hand")[0].cause == ""


def test_a_guard_takes_back_what_is_no_worse_than_the_baseline_and_too_bad_all_the_same() -> None:
    both = replace(GOOD, ticks=(tick(20, 100, 20),))
    free = gone(reached(S.SOAKING), *[both] * 5)[0]
    assert free.state is not S.ABORTING
    held = gone(reached(S.SOAKING, replace(PLAN, guards=Guards(error_share=0.01))), both)[0]
    assert "20 of 100 requests failed, where the plan allows 1.000%" in held.verdict
    watched = gone(reached(S.WATCHING, replace(PLAN, guards=Guards(error_share=0.01))), both)[0]
    assert watched.cause == "guard"


def test_a_guard_wants_more_than_chance_and_a_limit_of_nothing_wants_none() -> None:
    limits = Guards(error_share=0.01, invalid_share=0.0, p99_ms=200.0)
    assert broken(limits, {"errors": Count(50, 1), "invalid": Count(50, 0), LIMIT: Count(50, 1)}, {}, 1) == ""
    assert broken(limits, {"errors": Count(10_000, 100)}, {}, 1) == ""
    assert "100 of 2000 requests failed" in broken(limits, {"errors": Count(2000, 100)}, {}, 1)
    assert "1 of 5000 answers had NaN" in broken(limits, {"invalid": Count(5000, 1)}, {}, 1)
    assert "60 of 1000 requests took longer than the 200.0 ms" in broken(limits, {LIMIT: Count(1000, 60)}, {}, 1)
    assert broken(Guards(), {"errors": Count(10, 10)}, {}, 1) == ""
    eight = {"errors": Count(160, 8)}
    assert broken(limits, eight, {}, 1)
    assert not broken(limits, eight, {}, 8), "requests of one batch count as one"
    assert not broken(limits, eight, {"errors": 8 * 7.0}, 1), "nor is a stall of eight more than one"


def test_a_steps_own_limit_goes_before_the_plans_and_the_watch_has_the_plans() -> None:
    plan = Plan(
        steps=(PlanStep(0.1, 10.0, guards=Guards(p99_ms=50.0)), PlanStep(0.5, 10.0)),
        guards=Guards(error_share=0.02, p99_ms=200.0),
    )
    assert plan.guards_of(0) == Guards(0.02, 50.0)
    assert plan.guards_of(1) == plan.guards_of(None) == Guards(0.02, 200.0)
    assert Plan.from_json(plan.to_json()) == plan
    assert Plan().guards_of(0) == Guards()


def test_a_guard_looks_at_its_own_step() -> None:
    first = until(begun(replace(PLAN, shadow=None)), lambda r: r.state is S.SOAKING)[0]
    first = gone(first, replace(GOOD, ticks=(tick(6, 100, 6),)))[0]
    assert first.step_counts["errors"] == Count(100, 6)
    second = until(first, lambda r: r.state is S.SOAKING and r.step == 1)[0]
    assert not second.step_counts
    assert not reached(S.WATCHING).step_counts


def test_one_stall_in_a_step_breaks_no_limit_and_stall_after_stall_does() -> None:
    limits = replace(PLAN, guards=Guards(p99_ms=200.0))

    def held_up(count: int) -> Tick:
        arms = {LIMIT: Count(100, count)}, {LIMIT: Count(100, 0)}
        return Tick(1.0, (Stratum("", *arms, dispersion={LIMIT: float(count)} if count else {}),))

    rollout = gone(reached(S.SOAKING, limits), replace(GOOD, ticks=(held_up(40),)))[0]
    assert rollout.step_excess == {LIMIT: 40 * 39.0}
    assert rollout.state is S.SOAKING
    read = Rollout.from_json(json.loads(json.dumps(rollout.to_json())))
    assert read == rollout
    rollout = gone(read, *[replace(GOOD, seconds=0.0, ticks=(held_up(40),))] * 20)[0]
    assert rollout.cause == "guard"
