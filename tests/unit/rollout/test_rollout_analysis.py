"""What probes and the confirm webhook do to a rollout: the rules, on the pure machine."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout_values import BAD, GOOD, PLAN, RUNNING, S, begun, gone, reached, until
from turnout.errors import InvalidRequest
from turnout.rollout.machine.analysis_verdict import Analysis, ConfirmAnswer
from turnout.rollout.machine.attempt import Pause, Rollout
from turnout.rollout.machine.confirmation import Reply
from turnout.rollout.machine.measurements import NOT_ASKED, Measurement, ProbeLimits, ProbeOutcome
from turnout.rollout.machine.overrides import abort, pause, promote, resume
from turnout.rollout.plan import Plan

NOW = datetime(2026, 1, 2, tzinfo=UTC)
PASSED, FAILED, NEITHER = ProbeOutcome
PROBED = replace(PLAN, shadow=None, probes=("qa",))
CONFIRMS = replace(GOOD, analysis=Analysis(confirms=True))


def measured(rollout: Rollout, *outcomes: ProbeOutcome, probe: str = "qa", stage: int | None = None):
    """Returns a tick in which all is well, with these measurements of the rollout's present stage."""
    where = rollout.stage if stage is None else stage
    assert where is not None
    made = [Measurement(probe, where, o, "0.5", "why", NOW, ProbeLimits(1, 1, 1)) for o in outcomes]
    return replace(GOOD, analysis=Analysis(made))


def answered(step: int, reply: Reply, reason: str = "") -> object:
    return replace(GOOD, analysis=Analysis(confirms=True, answer=ConfirmAnswer(step, reply, reason)))


def test_without_a_measurement_a_step_is_not_passed_and_with_one_that_passes_it_is() -> None:
    waits, _ = gone(reached(S.SOAKING, replace(PROBED, probes=())), GOOD)
    waits = replace(waits, plan=PROBED)
    waits, _ = gone(waits, GOOD, GOOD, GOOD)
    assert waits.state is S.DECIDING
    assert gone(waits, measured(waits, NEITHER))[0].state is S.DECIDING
    assert gone(waits, measured(waits, PASSED))[0].state is S.PROMOTING


def test_more_failures_than_may_take_the_candidate_back_in_every_state_that_is_asked() -> None:
    for state in (S.SOAKING, S.DECIDING, S.WATCHING):
        rollout = replace(reached(state, replace(PROBED, probes=())), plan=PROBED)
        once, entries = gone(rollout, measured(rollout, FAILED))
        assert once.state is not S.ABORTING
        assert [e.text for e in entries if e.kind == "probe"] == ["probe qa failed: why (1 in this step, 1 allowed)"]
        twice, entries = gone(once, measured(once, FAILED)) if once.stage is not None else (once, entries)
        assert (twice.state, twice.cause) == (S.ABORTING, "probe")
        assert twice.verdict == "probe qa failed 2 times in this step (1 allowed), the last: why"
        paused = replace(once, pauses=reached(S.SOAKING).pauses)
        assert gone(paused, measured(paused, FAILED))[0].state is S.ABORTING


def test_a_verdict_by_evidence_goes_before_a_probe() -> None:
    rollout = replace(reached(S.SOAKING, replace(PROBED, probes=())), plan=PROBED)
    both = replace(measured(rollout, FAILED, FAILED), ticks=BAD.ticks)
    assert gone(rollout, both)[0].cause == "evidence"


def test_what_was_asked_in_another_step_or_of_another_probe_counts_for_nothing() -> None:
    rollout = replace(reached(S.SOAKING, replace(PROBED, probes=())), plan=PROBED)
    for facts in (measured(rollout, FAILED, FAILED, stage=0), measured(rollout, FAILED, FAILED, probe="other")):
        after, entries = gone(rollout, facts)
        assert (after.state, dict(after.probes)) == (S.SOAKING, {})
        assert not [e for e in entries if e.kind == "probe"]
    for state in RUNNING:
        elsewhere = replace(reached(state, replace(PLAN, probes=())), plan=replace(PLAN, probes=("qa",)))
        if elsewhere.stage is None:
            assert gone(elsewhere, measured(rollout, FAILED, FAILED))[0].cause == ""


def test_a_step_asks_its_own_probes_beside_the_plans_and_begins_with_none_measured() -> None:
    steps = (replace(PLAN.steps[0], probes=("one", "qa")), PLAN.steps[1])
    plan = replace(PROBED, steps=steps)
    assert [plan.probes_of(step) for step in (0, 1, None)] == [("qa", "one"), ("qa",), ("qa",)]
    first = until(begun(plan), lambda r: r.state is S.DECIDING)[0]
    assert first.asked_probes == ("qa", "one")
    both = Analysis(
        [*measured(first, PASSED).analysis.measurements, *measured(first, PASSED, probe="one").analysis.measurements]
    )
    second, _ = gone(first, replace(GOOD, analysis=both))
    assert (second.step, dict(second.probes)) == (1, {})


@pytest.mark.parametrize("on_insufficient", ["pause", "abort", "promote"])
def test_for_want_of_an_answer_nothing_is_promoted_or_rolled_back(on_insufficient) -> None:
    plan = replace(PROBED, on_insufficient=on_insufficient)
    rollout = until(begun(plan), lambda r: r.state is S.DECIDING)[0]
    for _ in range(40):
        rollout, _ = gone(rollout, measured(rollout, NEITHER))
    assert (rollout.state, rollout.step) == (S.DECIDING, 0)
    (why,) = rollout.pauses
    assert why.kind == "insufficient"
    assert "probe qa: inconclusive" in why.reason
    on, _ = resume(rollout, "ann", "")
    assert until(on, lambda r: r.step == 1, measured(on, PASSED), most=5)
    assert promote(rollout, "ann", "", full=False)[0].step == 1


@given(st.lists(st.sampled_from([*ProbeOutcome, None]), max_size=60))
def test_no_step_is_passed_on_anything_but_a_pass_and_none_is_rolled_back_below_the_limit(outcomes) -> None:
    rollout = until(begun(PROBED), lambda r: r.stage is not None)[0]
    for outcome in outcomes:
        before = rollout
        facts = measured(rollout, outcome) if outcome is not None and rollout.stage is not None else GOOD
        rollout, _ = gone(rollout, facts)
        known = before.probes.get("qa", NOT_ASKED)
        if facts is not GOOD:
            (one,) = facts.analysis.measurements
            known = known.taken(one)
        if rollout.state is S.ABORTING:
            assert before.state is S.ABORTING or known.failed == 2
            return
        if before.state is S.DECIDING and rollout.state is not S.DECIDING:
            assert known.lacking == ""
        assert Rollout.from_json(json.loads(json.dumps(rollout.to_json()))) == rollout


def test_the_webhook_is_asked_once_for_each_step_and_for_promotion_before_anything_goes_on() -> None:
    plan, asked = replace(PLAN, shadow=None), []
    rollout = begun(plan)
    for _ in range(60):
        wanted = rollout.confirmation
        if wanted is not None and wanted.reply is Reply.WAITING:
            asked.append((wanted.step, rollout.canary_weight))
            rollout, _ = gone(rollout, answered(wanted.step, Reply.GO))
        else:
            rollout, _ = gone(rollout, CONFIRMS)
        if rollout.state.final:
            break
    assert rollout.state is S.SUCCEEDED
    assert asked == [(0, 0.0), (1, 0.25), (2, 0.5)]


def waiting(plan: Plan = PLAN) -> Rollout:
    """Returns a rollout that waits for the webhook before its second step."""
    plan = replace(plan, shadow=None)
    first = until(begun(plan), lambda r: r.confirmation is not None, CONFIRMS)[0]
    rollout, _ = gone(first, answered(0, Reply.GO))
    return until(rollout, lambda r: r.confirmation is not None, CONFIRMS)[0]


def test_a_veto_holds_is_not_asked_again_and_a_resume_asks_at_once() -> None:
    held, _ = gone(waiting(), answered(1, Reply.VETO, "not now"))
    assert [(p.kind, p.reason) for p in held.pauses] == [
        ("veto", "the confirm webhook vetoes step 2 of 2 (50%): not now")
    ]
    still, _ = gone(held, *[CONFIRMS] * 20)
    assert (still.pauses, still.step) == (held.pauses, 0)
    on, _ = resume(still, "ann", "")
    assert on.confirmation is None
    again, _ = gone(on, CONFIRMS)
    assert again.confirmation is not None, "all that the step takes was there before"
    assert gone(again, answered(1, Reply.GO))[0].step == 1


def test_nobody_is_asked_about_what_somebody_has_decided() -> None:
    """The webhook has no say in a rollback, nor where an operator goes on without it."""
    rollout = waiting()
    for decided in (
        abort(rollout, "by hand"),
        promote(rollout, "ann", "", full=True),
        promote(rollout, "ann", "", full=False),
    ):
        assert decided[0].confirmation is None
    rolled_back, _ = gone(rollout, replace(CONFIRMS, ticks=BAD.ticks))
    assert (rolled_back.state, rolled_back.confirmation) == (S.ABORTING, None)


def test_an_answer_to_another_question_is_no_answer() -> None:
    rollout = waiting()
    for answer in (answered(0, Reply.GO), answered(2, Reply.GO), answered(0, Reply.ROLLBACK)):
        assert gone(rollout, answer)[0].step == 0
    nobody = begun(replace(PLAN, shadow=None))
    assert gone(nobody, answered(0, Reply.ROLLBACK))[0].cause == ""


def test_a_yes_that_comes_while_somebody_has_paused_it_is_kept() -> None:
    paused, _ = pause(waiting(), Pause("operator", "lunch", "ann"))
    kept, _ = gone(paused, answered(1, Reply.GO))
    assert kept.step == 0
    on, _ = resume(kept, "ann", "")
    assert gone(on, CONFIRMS)[0].step == 1


@pytest.mark.parametrize("on_insufficient", ["pause", "abort", "promote"])
def test_neither_yes_nor_no_waits_until_the_deadline_and_then_stands_still(on_insufficient) -> None:
    rollout = waiting(replace(PLAN, on_insufficient=on_insufficient))
    for _ in range(40):
        rollout, _ = gone(rollout, answered(1, Reply.WAITING, "it answered 500"))
    assert (rollout.state, rollout.step) == (S.DECIDING, 0)
    assert [p.kind for p in rollout.pauses] == ["insufficient"]


def test_a_webhook_that_wants_it_back_has_it_back_though_somebody_paused_it() -> None:
    for rollout in (waiting(), pause(waiting(), Pause("operator", "lunch", "ann"))[0]):
        after, _ = gone(rollout, answered(1, Reply.ROLLBACK, "incident 7"))
        assert (after.state, after.cause) == (S.ABORTING, "webhook")


def test_a_plan_without_probes_is_as_earlier_releases_wrote_it() -> None:
    body = PLAN.to_json()
    assert "probes" not in body
    assert all("probes" not in step for step in body["steps"])
    named = replace(PLAN, probes=("a",), steps=(replace(PLAN.steps[0], probes=("b",)), PLAN.steps[1]))
    assert Plan.from_json(json.loads(json.dumps(named.to_json()))) == named
    assert named.digest != PLAN.digest
    old = {k: v for k, v in begun().to_json().items() if k not in ("probes", "confirmation")}
    assert Rollout.from_json(old) == begun()


@pytest.mark.parametrize("probes", [["a", "a"], [f"p{n}" for n in range(21)], "a", [3]])
def test_a_plan_names_each_probe_once_and_not_too_many(probes) -> None:
    with pytest.raises(InvalidRequest):
        Plan.from_json({"probes": probes})
