"""The rules of a rollout's machine, one by one; `tests/property` has them under random facts and commands."""

import json
from dataclasses import replace

import numpy as np
import pytest

from rollout_values import BAD, GOOD, PLAN, RUNNING, SILENT, V1, V3, S, begun, gone, reached, tick, until
from turnout.errors import ChangeRefused, InvalidRequest
from turnout.rollout.evidence import GROUPS, Count, Stratum, Tick, Units
from turnout.rollout.guards.guards import Guards
from turnout.rollout.machine.attempt import Pause, Rollout
from turnout.rollout.machine.explain import lacking
from turnout.rollout.machine.machine import Facts, advance
from turnout.rollout.machine.overrides import abort, pause, promote, resume, set_weight
from turnout.rollout.plan import Plan, PlanStep, ShadowStage

OPERATOR = Pause("operator", "wait", "ann")
JUDGED = [state for state in RUNNING if state not in (S.PENDING, S.ABORTING)]


def kinds(entries) -> list[str]:
    return [entry.kind for entry in entries]


def test_a_good_candidate_takes_every_step_once_and_in_order() -> None:
    rollout, entries = until(begun(), lambda r: r.state.final)
    assert kinds(entries) == [
        "validating", "shadowing", *("ramping", "soaking", "deciding") * 2, "promoting", "watching", "succeeded",
    ]  # fmt: skip
    assert rollout.state is S.SUCCEEDED
    assert rollout.canary_weight == 1


def test_what_has_ended_does_not_move_any_more() -> None:
    rollout = until(begun(), lambda r: r.state.final)[0]
    assert gone(rollout, BAD, GOOD, Facts(5.0, trouble="gone")) == (rollout, [])


@pytest.mark.parametrize("state", JUDGED)
@pytest.mark.parametrize(
    "hindrance",
    [
        {}, {"frozen": True}, {"ready": False}, {"other": "epoch 7, by bob"}, {"refused": "no"}, {"in_force": False},
        {"trouble": "its bytes changed"}, {"overtaken": V3},
    ],
    ids=str,
)  # fmt: skip
def test_a_verdict_beats_whatever_else_is_so_in_every_state(state, hindrance) -> None:
    rollout, entries = advance(reached(state), replace(BAD, **hindrance))
    assert rollout.state is S.ABORTING
    assert rollout.end is S.ROLLED_BACK
    assert kinds(entries) == ["verdict", "aborting"]
    assert "60 of" in rollout.verdict


@pytest.mark.parametrize("state", JUDGED)
def test_a_verdict_is_looked_for_while_paused(state) -> None:
    paused = pause(reached(state), OPERATOR)[0]
    rollout, entries = advance(paused, BAD)
    assert rollout.state is S.ABORTING
    assert not rollout.pauses
    assert kinds(entries) == ["verdict", "aborting"]


def test_a_verdict_waits_until_the_version_before_has_its_traffic_again() -> None:
    rollout, entries = gone(reached(S.ABORTING), *[replace(GOOD, in_force=False)] * 3)
    assert rollout.state is S.ABORTING
    assert not entries
    rollout, entries = gone(rollout, GOOD)
    assert rollout.state is S.ROLLED_BACK
    assert "1.0.0 has all of the traffic" in entries[0].text


def test_a_rollback_that_cannot_be_put_in_force_is_explained_once() -> None:
    facts = replace(SILENT, in_force=False, refused="it is frozen")
    rollout, entries = gone(reached(S.ABORTING), *[facts] * 30)
    assert kinds(entries) == ["pause"]
    assert "not recorded yet: it is frozen" in rollout.pauses[0].reason
    assert gone(rollout, GOOD)[0].state is S.ROLLED_BACK


@pytest.mark.parametrize("state", [s for s in JUDGED if s is not S.WATCHING])
@pytest.mark.parametrize("hindrance", [{"frozen": True}, {"ready": False}], ids=str)
def test_time_without_progress_is_idle_and_never_active(state, hindrance) -> None:
    before = reached(state)
    plan = replace(before.plan, validating_s=1e6)
    after = gone(replace(before, plan=plan), *[replace(SILENT, **hindrance)] * 10)[0]
    assert after.state is state
    assert (after.active_s, after.step_s, after.in_state_s) == (before.active_s, before.step_s, before.in_state_s)
    assert after.idle_s == 50


@pytest.mark.parametrize("kind", ["operator", "gate", "insufficient", "traffic", "refused"])
def test_every_kind_of_pause_counts_as_idle_and_runs_out(kind) -> None:
    facts = {"traffic": replace(SILENT, other="epoch 3"), "refused": replace(SILENT, refused="no")}.get(kind, SILENT)
    paused = pause(reached(S.SOAKING), Pause(kind, "because"))[0]
    after = gone(paused, *[facts] * 10)[0]
    assert after.idle_s == 50
    assert after.step_s == paused.step_s
    ended, entries = until(after, lambda r: r.state is S.ABORTING, facts)
    assert "there was no progress for 305 s" in ended.verdict
    assert kinds(entries) == ["verdict", "aborting"] or kinds(entries) == ["pause", "verdict", "aborting"]


def test_progress_ends_idleness() -> None:
    idle = gone(reached(S.SOAKING), *[replace(SILENT, ready=False)] * 10)[0]
    assert gone(idle, SILENT)[0].idle_s == 0


def test_a_pause_by_a_stranger_says_so_once() -> None:
    rollout, entries = gone(reached(S.SOAKING), *[replace(SILENT, other="epoch 7, by bob: mine")] * 3)
    assert kinds(entries) == ["pause"]
    assert rollout.pauses == (Pause("traffic", "someone else changed the traffic: epoch 7, by bob: mine"),)


# Deadlines


def test_a_candidate_that_is_never_ready_fails() -> None:
    rollout, _ = until(begun(), lambda r: r.state.final, replace(SILENT, ready=False))
    assert rollout.state is S.FAILED
    assert "was not ready within 30 s" in rollout.verdict


@pytest.mark.parametrize("state", JUDGED)
def test_a_candidate_that_cannot_be_served_fails_with_the_reason(state) -> None:
    rollout, entries = gone(reached(state), replace(SILENT, trouble="its bytes changed"), SILENT)
    assert rollout.state is S.FAILED
    assert "its bytes changed" in rollout.verdict
    assert kinds(entries) == ["verdict", "aborting", "failed"]


TIMED = replace(PLAN, metrics=("errors", "p90"), shadow=None, threshold_samples=50)


@pytest.mark.parametrize(("choice", "state"), [("pause", S.VALIDATING), ("abort", S.ABORTING), ("promote", S.RAMPING)])
def test_validating_without_traffic_comes_to_what_the_plan_says(choice, state) -> None:
    plan = replace(TIMED, on_insufficient=choice)
    rollout, entries = until(begun(plan), lambda r: bool(r.pauses) or r.state is state is not S.VALIDATING, SILENT)
    assert rollout.state is state
    assert 30 < rollout.active_s <= 40
    explained = rollout.verdict or "".join(p.reason for p in rollout.pauses)
    assert choice == "promote" or "only 0 of the 50 requests" in explained, entries


@pytest.mark.parametrize(("choice", "state"), [("pause", S.SHADOWING), ("abort", S.ABORTING), ("promote", S.RAMPING)])
def test_a_shadow_stage_without_copies_comes_to_what_the_plan_says(choice, state) -> None:
    rollout = reached(S.SHADOWING, replace(PLAN, on_insufficient=choice))
    silent = replace(SILENT, uncounted="7 copies were dropped (7 stale)")
    rollout, _ = until(rollout, lambda r: bool(r.pauses) or r.state is not S.SHADOWING, silent)
    assert rollout.state is state
    explained = rollout.verdict or "".join(p.reason for p in rollout.pauses)
    assert choice == "promote" or "copies were compared in 105 s" in explained
    assert choice == "promote" or explained.endswith("; 7 copies were dropped (7 stale)")


@pytest.mark.parametrize(("choice", "state"), [("pause", S.DECIDING), ("abort", S.ABORTING), ("promote", S.PROMOTING)])
def test_a_step_without_requests_comes_to_what_the_plan_says(choice, state) -> None:
    rollout = reached(S.RAMPING, replace(PLAN, on_insufficient=choice))
    rollout, _ = until(rollout, lambda r: bool(r.pauses) or r.state in (S.ABORTING, S.PROMOTING), SILENT)
    assert rollout.state is state
    assert 60 < rollout.step_s <= 65
    explained = rollout.verdict or "".join(p.reason for p in rollout.pauses)
    assert choice == "promote" or "the canary had 0 of 20 requests" in explained


@pytest.mark.parametrize("state", [S.RAMPING, S.PROMOTING])
def test_a_weight_that_is_never_in_force_ends_with_the_longest_duration(state) -> None:
    facts = replace(GOOD, in_force=False)
    rollout, _ = until(reached(state), lambda r: r.state is S.ABORTING, facts, most=1000)
    assert "it took longer than its 3600 s" in rollout.verdict


def test_watching_is_not_cut_short_by_the_longest_duration() -> None:
    rollout = replace(reached(S.WATCHING), active_s=3600.0)
    assert until(rollout, lambda r: r.state.final)[0].state is S.SUCCEEDED


def test_a_watch_whose_end_is_never_in_force_ends_with_the_longest_pause() -> None:
    finishing = until(reached(S.WATCHING), lambda r: r.finishing)[0]
    rollout, _ = until(finishing, lambda r: r.state is S.ABORTING, replace(GOOD, in_force=False), most=100)
    assert "its end could not be put in force for 300 s" in rollout.verdict


def test_promotion_takes_requests_and_not_only_time() -> None:
    rollout = gone(reached(S.RAMPING), *[SILENT] * 6)[0]
    assert rollout.state is S.DECIDING
    assert until(rollout, lambda r: r.state is S.PROMOTING)[0].step == 1


# Commands


def test_a_gate_holds_until_somebody_promotes_and_resume_does_not_open_it() -> None:
    plan = replace(PLAN, steps=(PlanStep(0.25, 10.0), PlanStep(0.5, 10.0, gate=True)))
    held, _ = until(begun(plan), lambda r: bool(r.pauses))
    assert (held.state, held.step) == (S.DECIDING, 0)
    assert [p.kind for p in held.pauses] == ["gate"]
    with pytest.raises(ChangeRefused, match="promote opens it"):
        resume(held, "ann", "")
    both = pause(held, OPERATOR)[0]
    assert [p.kind for p in resume(both, "ann", "")[0].pauses] == ["gate"]
    opened, entries = promote(held, "ann", "looks fine", full=False)
    assert (opened.state, opened.step, opened.pauses) == (S.RAMPING, 1, ())
    assert kinds(entries) == ["promote", "ramping"]
    assert until(opened, lambda r: r.state.final)[0].state is S.SUCCEEDED


def test_a_gate_before_the_first_step_holds_it_and_is_opened_to_that_step() -> None:
    plan = replace(PLAN, steps=(PlanStep(0.25, 10.0, gate=True), PlanStep(0.5, 10.0)))
    held, _ = until(begun(plan), lambda r: bool(r.pauses))
    assert held.state is S.SHADOWING
    opened = promote(held, "ann", "", full=False)[0]
    assert (opened.state, opened.step, opened.canary_weight) == (S.RAMPING, 0, 0.25)


@pytest.mark.parametrize("state", [S.PENDING, S.VALIDATING, S.SHADOWING])
def test_promote_before_the_steps_goes_to_the_first(state) -> None:
    after = promote(reached(state), "ann", "", full=False)[0]
    assert (after.state, after.step) == (S.RAMPING, 0)


@pytest.mark.parametrize("state", [S.RAMPING, S.SOAKING, S.DECIDING])
def test_promote_in_the_last_step_promotes(state) -> None:
    assert promote(reached(state), "ann", "", full=False)[0].state is S.PROMOTING


@pytest.mark.parametrize("state", [s for s in RUNNING if s not in (S.ABORTING, S.PROMOTING, S.WATCHING)])
def test_promote_full_passes_all_steps(state) -> None:
    paused = pause(reached(state), OPERATOR)[0]
    after, entries = promote(paused, "ann", "I know it", full=True)
    assert (after.state, after.pauses) == (S.PROMOTING, ())
    assert entries[0].actor == "ann"


@pytest.mark.parametrize("state", [S.ABORTING, S.PROMOTING, S.WATCHING])
@pytest.mark.parametrize("full", [True, False])
def test_what_is_promoted_or_rolled_back_is_not_promoted(state, full) -> None:
    with pytest.raises(ChangeRefused, match="nothing to promote"):
        promote(reached(state), "ann", "", full=full)


def test_a_weight_that_was_set_holds_until_the_next_step() -> None:
    soaking = until(begun(), lambda r: r.state is S.SOAKING)[0]
    after = set_weight(soaking, 0.4, "ann", "more of it")[0]
    assert after.canary_weight == 0.4
    later = until(after, lambda r: r.step == 1)[0]
    assert later.canary_weight == 0.5


@pytest.mark.parametrize("state", [s for s in RUNNING if s not in (S.RAMPING, S.SOAKING, S.DECIDING)])
def test_only_a_step_has_a_weight(state) -> None:
    with pytest.raises(ChangeRefused, match="only a step has a weight"):
        set_weight(reached(state), 0.4, "ann", "")


def test_resume_gives_the_time_that_ran_out_once_more() -> None:
    paused = gone(reached(S.RAMPING, replace(PLAN, step_deadline_s=20.0)), *[SILENT] * 12)[0]
    assert paused.pauses
    assert paused.state is S.DECIDING
    after = resume(paused, "ann", "traffic is back")[0]
    assert (after.step_s, after.pauses, after.step) == (0.0, (), paused.step)
    assert until(after, lambda r: r.state is S.PROMOTING)[0].step == paused.step


def test_what_does_not_stand_still_is_not_resumed() -> None:
    with pytest.raises(ChangeRefused, match="is not paused"):
        resume(reached(S.SOAKING), "ann", "")


def test_pausing_a_rollback_is_refused() -> None:
    with pytest.raises(ChangeRefused, match="which cannot be stopped"):
        pause(reached(S.ABORTING), OPERATOR, by_hand=True)


def test_an_abort_of_what_is_rolled_back_keeps_the_first_reason() -> None:
    aborting = gone(reached(S.SOAKING), BAD)[0]
    assert abort(aborting, "by hand", kind="abort", actor="ann") == (aborting, ())


def test_an_abort_before_the_first_tick_ends_at_once() -> None:
    after, entries = abort(begun(), "a mistake", kind="abort", actor="ann")
    assert after.state is S.ROLLED_BACK
    assert kinds(entries) == ["abort", "rolled_back"]
    after, entries = abort(begun(), "in its place", S.SUPERSEDED, kind="superseded")
    assert kinds(entries) == ["superseded"]


@pytest.mark.parametrize(
    "act",
    [
        lambda r: pause(r, OPERATOR, by_hand=True), lambda r: resume(r, "", ""), lambda r: set_weight(r, 0.5, "", ""),
        lambda r: promote(r, "", "", full=True), lambda r: abort(r, ""),
    ],
)  # fmt: skip
def test_what_has_ended_takes_no_command(act) -> None:
    with pytest.raises(ChangeRefused, match="has ended: succeeded"):
        act(until(begun(), lambda r: r.state.final)[0])


# Rivals, releases


def test_one_that_another_overtook_is_superseded() -> None:
    rollout, entries = gone(reached(S.SOAKING), replace(GOOD, overtaken=V3), GOOD)
    assert rollout.state is S.SUPERSEDED
    assert "another rollout made 3.0.0 the baseline" in rollout.verdict
    assert kinds(entries) == ["superseded", "aborting", "superseded"]


def test_rivals_share_alpha_and_a_share_never_grows_back() -> None:
    rollout = reached(S.SOAKING)
    assert rollout.alpha == 0.01
    for rivals, alpha in ((2, 0.005), (4, 0.0025), (1, 0.0025), (3, 0.0025)):
        rollout = gone(rollout, replace(SILENT, rivals=rivals))[0]
        assert rollout.alpha == pytest.approx(alpha)


def test_alpha_shared_is_what_the_verdict_takes() -> None:
    bad = replace(SILENT, ticks=(tick(6, bad_baseline=0),))
    alone = until(reached(S.SOAKING), lambda r: r.state is S.ABORTING, bad)[0]
    e = alone.evidence.combined
    assert e >= 100
    rivals = 2 * int(e)
    crowded = gone(reached(S.SOAKING), replace(bad, rivals=rivals))[0]
    assert crowded.evidence.combined < rivals * 100
    assert crowded.state is not S.ABORTING


def test_a_promotion_releases_the_candidate_only_where_it_was_none_before() -> None:
    assert reached(S.PROMOTING).released
    assert not reached(S.DECIDING).released
    before = replace(reached(S.DECIDING), was_released=True)
    assert not until(before, lambda r: r.state is S.PROMOTING)[0].released


def test_a_release_is_remembered_by_what_takes_it_back() -> None:
    rollout = gone(reached(S.WATCHING), BAD)[0]
    assert rollout.state is S.ABORTING
    assert rollout.released


def test_without_watching_a_promotion_succeeds_once_it_is_in_force() -> None:
    promoting = reached(S.PROMOTING, replace(PLAN, watch_s=0.0))
    assert promoting.canary_weight == 1, "nobody watches, so the version before keeps nothing"
    assert gone(promoting, replace(GOOD, in_force=False))[0].state is S.PROMOTING
    assert gone(promoting, GOOD)[0].state is S.SUCCEEDED


def test_the_version_before_gives_its_share_back_before_success() -> None:
    watching = reached(S.WATCHING)
    assert watching.canary_weight == 0.9
    last = until(watching, lambda r: r.finishing)[0]
    assert (last.state, last.canary_weight) == (S.WATCHING, 1.0)
    waits = gone(last, *[replace(GOOD, in_force=False)] * 3)[0]
    assert waits.state is S.WATCHING
    assert gone(waits, GOOD)[0].state is S.SUCCEEDED


# Records


@pytest.mark.parametrize("state", [*RUNNING, S.SUCCEEDED, S.ROLLED_BACK])
def test_a_rollout_comes_back_from_its_record_exactly_as_it_was(state) -> None:
    rollout = gone(reached(S.ABORTING), GOOD)[0] if state is S.ROLLED_BACK else reached(state)
    odd = replace(
        rollout, thresholds={"p90": 0.1 + 0.2}, shortest_timeout=1 / 3, weight=0.07, idle_s=1e-9,
        pauses=(OPERATOR, Pause("gate", "é\n")), rivals=3,
    )  # fmt: skip
    for one in (rollout, odd):
        assert Rollout.from_json(json.loads(json.dumps(one.to_json(), allow_nan=False))) == one


@pytest.mark.parametrize(
    "change", [{"schema": 2}, {"state": "dancing"}, {"plan": {"from_a_later_release": 1}}, {"evidence": None}], ids=str
)
def test_a_record_that_this_release_cannot_read_is_an_error_of_value(change) -> None:
    with pytest.raises(ValueError, match=r"rollout|schema|dancing"):
        Rollout.from_json(begun().to_json() | change)


@pytest.mark.parametrize(
    "wrong",
    [
        {"slo_ms": float("inf")}, {"slo_ms": float("nan")}, {"alpha": float("nan")},
        {"guards": {"error_share": float("inf")}}, {"guards": {"p99_ms": 0}}, {"breaker": {"requests": 0}},
        {"breaker": {"bad": 2}}, {"steps": [{"weight": 0.5, "soak_s": 1, "guards": {"invalid_share": -1}}]},
        {"metrics": ["p99"], "from_broken": True},
        {"threshold_samples": 4097}, {"max_duration_s": float("nan")},
        {"shadow": {"min_samples": float("inf")}}, {"shadow": {"rate": float("nan")}}, {"steps": []},
        {"steps": [{"weight": float("nan"), "soak_s": 1}]}, {"steps": [{"weight": 0.5, "soak_s": float("inf")}]},
        {"watch_s": 10, "holdback": 0}, {"steps": [{"weight": 0.5, "soak_s": 1}, {"weight": 0.1, "soak_s": 1}]},
    ],
    ids=str,
)  # fmt: skip
def test_a_plan_that_cannot_be_kept_or_met_is_refused(wrong) -> None:
    with pytest.raises(InvalidRequest, match=r"expected .*, got |cannot be read"):
        Plan.from_json(wrong)


METRICS = "errors, invalid, p90, p95, p99, stalled, slo"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"metrics": ["errors", "error", "p42"]}, f"metrics: expected some of {METRICS}, got error, p42"),
        ({"metrics": []}, f"metrics: expected some of {METRICS}, got none"),
        ({"metrics": ["slo"]}, "slo_ms: expected a number where `slo` is a metric, got none"),
        ({"on_newer": "wait"}, "on_newer: expected refuse or queue or replace or beside, got wait"),
        ({"guards": {"p99_ms": 0}}, "guards.p99_ms: expected milliseconds above 0, at most an hour, got 0.0"),
        ({"breaker": {"bad": 0}}, "breaker.bad: expected a share above 0, at most 1, got 0.0"),
        (
            {"steps": [{"weight": 0.5, "soak_s": 1}, {"weight": 0.1, "soak_s": 1}]},
            "steps: expected weights that do not fall, got 0.5, 0.1",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_a_refusal_names_the_field_what_was_expected_and_what_was_given(wrong, message) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Plan.from_json(wrong)
    assert refused.value.message == message


def test_the_shadow_stage_ends_with_enough_copies_that_agree() -> None:
    plan = replace(PLAN, shadow=ShadowStage(0.5, 10.0, 0.9, min_samples=250))
    rollout = gone(reached(S.SHADOWING, plan), GOOD, GOOD)[0]
    assert rollout.state is S.SHADOWING, "200 of 250"
    assert gone(rollout, GOOD)[0].state is S.RAMPING


def test_copies_that_disagree_are_a_verdict_before_any_step() -> None:
    rollout = gone(reached(S.SHADOWING), replace(SILENT, shadow=Count(100, 40)))[0]
    assert rollout.state is S.ABORTING
    assert "40 of 100 copies disagreed" in rollout.verdict


def test_the_version_that_is_gone_back_to_is_named() -> None:
    assert "traffic goes back to 1.0.0" in gone(reached(S.SOAKING), BAD)[1][-1].text
    assert reached(S.SOAKING).previous == V1


# One arm alone, tenants too few, and a baseline that is broken


def one_arm(canary: int, baseline: int) -> Facts:
    return replace(GOOD, ticks=(Tick.unkeyed(5.0, {"errors": Count(canary)}, {"errors": Count(baseline)}),))


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (one_arm(100, 0), "the part of 1.0.0 that it is compared with had no request in this step"),
        (one_arm(0, 100), "the canary had no request in this step"),
    ],
)
def test_a_step_that_sees_one_arm_alone_holds_and_says_why(facts: Facts, message: str) -> None:
    plan = replace(PLAN, min_requests=0)
    ramping = reached(S.RAMPING, replace(plan, steps=plan.steps[:1]))
    held = until(ramping, lambda r: bool(r.pauses), facts)[0]
    assert held.state is S.DECIDING
    assert message in held.pauses[0].reason


def test_an_arm_that_has_fallen_silent_holds_a_step_and_goes_on_where_it_speaks_again() -> None:
    plan = replace(PLAN, steps=(PlanStep(0.25, 200.0), PlanStep(0.5, 10.0)), step_deadline_s=1000.0)
    soaking = until(begun(plan), lambda r: r.state is S.SOAKING)[0]
    heard = gone(soaking, *[GOOD] * 20)[0]
    silent = until(heard, lambda r: r.state is S.DECIDING, one_arm(100, 0))[0]
    silent = gone(silent, *[one_arm(100, 0)] * 3)[0]
    assert (silent.state, silent.step) == (S.DECIDING, 0)
    assert any("had no request for" in text for text in lacking(silent))
    assert gone(silent, GOOD)[0].step == 1


def test_traffic_that_is_slow_by_nature_is_not_silent() -> None:
    plan = replace(PLAN, steps=(PlanStep(0.25, 3000.0),), step_deadline_s=9000.0, max_duration_s=9e4)
    soaking = until(begun(plan), lambda r: r.state is S.SOAKING)[0]
    sparse = gone(soaking, *[one_arm(1, 1), *[SILENT] * 19] * 10)[0]
    assert sparse.silent_s > 90
    assert not any("had no request" in text for text in lacking(sparse))


def few_tenants(tenants: int) -> Facts:
    groups = [[*range(tenants)], [20] * tenants, [4] * tenants, [4.0] * tenants]
    arm = {"errors": Units.from_json(groups)}
    return replace(GOOD, ticks=(Tick(5.0, (Stratum("", {}, {}, arm, arm),)),))


def test_tenants_too_few_for_a_verdict_are_said_to_be_so_and_promote_nothing() -> None:
    held = until(begun(replace(PLAN, shadow=None)), lambda r: bool(r.pauses), few_tenants(9))[0]
    assert (held.state, held.step) == (S.DECIDING, 1)
    assert "9 effective tenants carry this canary; at least 10 are needed" in held.pauses[0].reason
    enough = until(begun(replace(PLAN, shadow=None)), lambda r: r.state.final, few_tenants(40))[0]
    assert enough.state is S.SUCCEEDED


def test_a_broken_baseline_does_not_hold_its_fix() -> None:
    plan = replace(PLAN, shadow=None, metrics=("errors", "p99"))
    fix = replace(GOOD, thresholds=None, samples=0, ticks=(tick(0, 100, 100),))
    stuck = until(begun(plan), lambda r: bool(r.pauses), fix)[0]
    assert stuck.state is S.VALIDATING
    assert "--from-broken" in stuck.pauses[0].reason
    mended = until(begun(replace(plan, from_broken=True)), lambda r: r.state.final, fix)[0]
    assert mended.state is S.SUCCEEDED
    alone = replace(fix, ticks=(Tick.unkeyed(5.0, {"errors": Count(100)}, {}),))
    assert until(begun(replace(plan, from_broken=True)), lambda r: r.state.final, alone)[0].state is S.SUCCEEDED


def test_a_fix_that_fails_too_is_not_promoted_for_failing_less() -> None:
    plan = replace(PLAN, shadow=None, from_broken=True)
    less = replace(GOOD, ticks=(tick(30, 100, 100),))
    assert begun(plan).evidence.metrics
    held = until(begun(plan), lambda r: bool(r.pauses), less)[0]
    assert held.step == 1
    assert "no evidence of fitness for promotion yet in errors" in held.pauses[0].reason


def test_every_new_rollout_looks_at_stalls_and_invalid_answers() -> None:
    assert begun(replace(PLAN, metrics=("errors",))).plan.metrics == ("errors", "invalid", "stalled")
    assert set(Plan().complete.metrics) == set(Plan().metrics)


def test_what_earlier_releases_recorded_is_read_as_it_was() -> None:
    rollout = gone(begun(), *[GOOD] * 4)[0]
    old = json.loads(json.dumps(rollout.to_json()))
    old["plan"] |= {"key_cap": 3, "key_window_s": 60.0, "metrics": ["errors"]}
    for field in ("breaker", "guards", "from_broken"):
        del old["plan"][field]
    for step in old["plan"]["steps"]:
        del step["guards"]
    for field in ("cause", "step_baseline", "silent_s", "baseline_silent_s", "step_counts", "step_excess"):
        del old[field]
    for metric in ("invalid", "stalled"):
        del old["evidence"]["accumulators"][metric]
    read = Rollout.from_json(old)
    assert read.plan.metrics == ("errors",), "evidence that was begun goes on with the weights that it has"
    assert (read.plan.breaker, read.evidence.combined) == (Plan().breaker, read.evidence.of("errors") * 0.4 / 0.65)
    assert until(read, lambda r: r.state.final)[0].state is S.SUCCEEDED


def test_the_keys_that_are_stored_stay_when_a_field_is_renamed() -> None:
    """Field names are most of the keys: with another, a server could not read what another release stored."""
    rollout = """
        active_s actor attempt baseline_silent_s candidate cause confirmation end epoch evidence finishing held history
        idle_s in_state_s model passed_gate patience pauses per_server plan plan_digest policy_epoch previous probes
        reason released rivals routed schema silent_s state step step_baseline step_counts step_excess step_keyed
        step_requests step_s thresholds verdict was_released weight
    """
    plan = """
        alpha beta breaker exposure_requests from_broken guards holdback max_duration_s max_pause_s metrics min_requests
        on_insufficient on_newer shadow slo_ms step_deadline_s steps threshold_samples twin validating_s warm_requests
        watch_s
    """
    body = begun().to_json()
    assert sorted(body) == rollout.split()
    assert sorted(body["plan"]) == plan.split()
    assert Rollout.from_json(body | {"patience": 0.25}).shortest_timeout == 0.25


def test_a_rollout_with_all_that_there_is_comes_back_from_its_record() -> None:
    plan = replace(PLAN, guards=Guards(error_share=0.5), shadow=None)
    rollout = gone(begun(plan), *[few_tenants(30)] * 5)[0]
    assert rollout.step_counts
    assert Rollout.from_json(json.loads(json.dumps(rollout.to_json()))) == rollout


def step(**counts: object) -> Rollout:
    return replace(reached(S.DECIDING), step_s=1000.0, step_requests=500, step_baseline=500, **counts)


def test_keyed_traffic_that_only_the_canary_has_is_compared_with_nothing() -> None:
    blind = step(step_keyed=(400, 3))
    assert any("400 requests with a routing key" in one for one in lacking(blind))
    assert not any("routing key" in one for one in lacking(step(step_keyed=(400, 100))))
    assert not any("routing key" in one for one in lacking(step(step_keyed=(12, 0)))), "so few say nothing"


def test_a_step_whose_keyed_traffic_meets_the_canary_alone_holds_until_its_deadline() -> None:
    ones = np.ones(GROUPS)
    units = {"errors": Units(ones, 0 * ones, ones), "invalid": Units(ones, 0 * ones, ones)}
    counts = {"errors": Count(100), "invalid": Count(100)}
    alone = Tick(5.0, (Stratum("", counts, counts, keyed_canary=units),))
    held, _ = until(reached(S.SOAKING), lambda r: bool(r.pauses), replace(GOOD, ticks=(alone,)))
    assert held.state is S.DECIDING
    assert "requests with a routing key" in held.pauses[0].reason


@pytest.mark.parametrize(("says", "ends"), [("pause", S.SHADOWING), ("abort", S.ABORTING), ("promote", S.RAMPING)])
def test_a_shadow_with_nothing_to_compare_says_so_and_goes_by_the_plan(says, ends) -> None:
    why = "the baseline disagrees with itself in 16 of 16 repeats"
    seen = replace(GOOD, ticks=(), shadow=Count(), incomparable=why)
    shadowing = until(begun(replace(PLAN, on_insufficient=says)), lambda r: r.state is S.SHADOWING)[0]
    after, entries = until(shadowing, lambda r: bool(r.pauses) or r.state is not S.SHADOWING, seen)
    assert after.state is ends
    if says != "promote":
        assert why in " ".join([entry.text for entry in entries] + [pause.reason for pause in after.pauses])


def test_the_history_is_kept_from_the_first_step_on() -> None:
    seen = replace(GOOD, history="packed")
    before = until(begun(), lambda r: r.state is S.SHADOWING, seen)[0]
    assert before.history == ""
    stepping = until(before, lambda r: r.state is S.SOAKING, seen)[0]
    assert stepping.history == "packed"
    assert until(stepping, lambda r: r.state.final, replace(GOOD, history="later"))[0].history == "packed"
