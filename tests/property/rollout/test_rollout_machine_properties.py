"""The rules of a rollout's machine (docs/rollouts.md), under whatever comes in whatever order."""

import itertools
import json
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rollout_values import PLAN, V1, V2, V3, S, begun
from turnout.errors import ChangeRefused
from turnout.rollout.evidence import Count, Tick
from turnout.rollout.machine.attempt import STEPPING, Pause, Rollout
from turnout.rollout.machine.desired_policy import desired_policy
from turnout.rollout.machine.machine import Facts, advance
from turnout.rollout.machine.overrides import abort, pause, promote, resume, set_weight
from turnout.rollout.plan import PlanStep
from turnout.routing.policy import UNITS, Canary, Policy, Shadow, malformed

ANY_ABORT = {S.ABORTING}
LEGAL = {
    S.PENDING: {S.VALIDATING, S.FAILED, S.ROLLED_BACK, S.SUPERSEDED},
    S.VALIDATING: {S.SHADOWING, S.RAMPING, *ANY_ABORT},
    S.SHADOWING: {S.RAMPING, *ANY_ABORT},
    S.RAMPING: {S.SOAKING, *ANY_ABORT},
    S.SOAKING: {S.DECIDING, *ANY_ABORT},
    S.DECIDING: {S.RAMPING, S.PROMOTING, *ANY_ABORT},
    S.PROMOTING: {S.WATCHING, S.SUCCEEDED, *ANY_ABORT},
    S.WATCHING: {S.SUCCEEDED, *ANY_ABORT},
    S.ABORTING: {S.ROLLED_BACK, S.SUPERSEDED, S.FAILED},
}
"""What a tick may make of each state; a command may do more."""

COUNTED = {
    "evidence", "held", "in_state_s", "step_s", "active_s", "idle_s", "step_requests", "step_baseline", "step_counts",
    "step_excess", "step_keyed", "silent_s", "baseline_silent_s", "history", "rivals", "per_server",
}  # fmt: skip
"""What moves without a new epoch."""

COUNTS = st.integers(0, 40).flatmap(lambda n: st.builds(Count, st.just(n), st.integers(0, min(n, 2))))
BAD_COUNTS = st.just(Count(100, 70))
CANARIES = st.lists(st.sampled_from([V1, V2, V3]), unique=True, max_size=2)


@st.composite
def facts(draw, bad: bool = False) -> Facts:
    canary = draw(BAD_COUNTS if bad else COUNTS)
    odd = st.sampled_from([False] * 9 + [True])
    return Facts(
        draw(st.floats(0.0, 15.0)),
        ticks=(Tick.unkeyed(5.0, {"errors": canary}, {"errors": Count(100, 0 if bad else 2)}),),
        shadow=draw(st.sampled_from([Count(), Count(30, 0), Count(30, 1)])),
        ready=not draw(odd),
        trouble=draw(st.sampled_from([""] * 19 + ["its bytes changed"])),
        in_force=not draw(odd),
        frozen=draw(odd),
        rivals=draw(st.integers(1, 3)),
        overtaken=draw(st.sampled_from([None] * 19 + [V3])),
        other=draw(st.sampled_from([""] * 19 + ["epoch 9, by bob"])),
        refused=draw(st.sampled_from([""] * 19 + ["3.0.0 is not ready"])),
        thresholds=draw(st.sampled_from([None, {"p90": 0.01}, {"p90": 0.02}])),
        samples=7,
        shortest_timeout=0.001,
    )


@st.composite
def policies(draw) -> Policy | None:
    if draw(st.booleans()):
        return None
    baseline = draw(st.sampled_from([V1, V2, V3]))
    others = [v for v in draw(CANARIES) if v != baseline]
    weights = [draw(st.integers(0, UNITS // 2)) for _ in others]
    left = UNITS - sum(weights)
    shadows = tuple(Shadow(v, 100) for v in draw(CANARIES) if v != baseline)
    return Policy(baseline, tuple(map(Canary, others, weights)), shadows, draw(st.integers(0, left)))


class RolloutMachine(RuleBasedStateMachine):
    """A rollout under random facts and commands."""

    rollout: Rollout

    @initialize(
        gates=st.tuples(st.booleans(), st.booleans(), st.booleans()), shadow=st.booleans(), twin=st.booleans(),
        timed=st.booleans(), watch=st.sampled_from([0.0, 10.0]),
        insufficient=st.sampled_from(["pause", "abort", "promote"]),
    )  # fmt: skip
    def begin(self, gates, shadow, twin, timed, watch, insufficient) -> None:
        weights = (0.05, 0.25, 0.5)
        plan = replace(
            PLAN, steps=tuple(PlanStep(w, 10.0, gate) for w, gate in zip(weights, gates, strict=True)), twin=twin,
            shadow=PLAN.shadow if shadow else None, metrics=("errors", "p90") if timed else ("errors",),
            watch_s=watch, on_insufficient=insufficient, min_requests=5, step_deadline_s=40.0, max_duration_s=900.0,
        )  # fmt: skip
        self.rollout = begun(plan)

    def moved_to(self, after: Rollout, entries, *, by_hand: bool) -> None:
        before = self.rollout
        # The epoch grows with every change but the counts, and each change is told.
        assert after.epoch >= before.epoch
        was, now = before.to_json(), after.to_json()
        changed = {key for key in was if was[key] != now[key]}
        if changed - COUNTED - {"epoch"}:
            assert after.epoch > before.epoch, changed
        if entries:
            assert after.epoch > before.epoch
        if after.state is not before.state:
            assert any(entry.kind == str(after.state) for entry in entries)
        if not by_hand:
            # A gate that holds may be followed by nothing; what ran out may abort from a wait too.
            assert after.state is before.state or after.state in LEGAL[before.state], (before.state, after.state)
            # No step is skipped or doubled.
            steps = after.step - before.step
            assert steps in (0, 1)
            if steps:
                assert (before.state, after.state) == (S.DECIDING, S.RAMPING)
                gate = after.plan.steps[after.step].gate
                assert not gate or after.passed_gate >= after.step
        # What was looked at cannot be looked at anew, and a share never grows back.
        assert after.alpha <= before.alpha
        assert after.evidence.left <= before.evidence.left
        assert after.evidence.peak >= before.evidence.peak
        assert after.active_s >= before.active_s
        # Whoever ends says why.
        assert not (after.state.final or after.state is S.ABORTING) or after.verdict
        self.rollout = after

    def tick(self, seen: Facts) -> None:
        before = self.rollout
        after, entries = advance(before, seen)
        waits = before.pauses or seen.frozen or not seen.ready or seen.other or seen.refused
        if waits and not before.state.final and before.state is not S.ABORTING:
            assert after.active_s == before.active_s, "what stands still is not active"
            assert after.state in (before.state, S.ABORTING, S.FAILED, S.ROLLED_BACK, S.SUPERSEDED)
            if after.state is before.state:
                assert (after.step_s, after.in_state_s) == (before.step_s, before.in_state_s)
                assert after.idle_s == before.idle_s + seen.seconds
        if after.evidence.worse(after.alpha) and not before.state.final:
            assert after.state in (S.ABORTING, S.ROLLED_BACK, S.FAILED, S.SUPERSEDED), "a verdict goes before all"
        self.moved_to(after, entries, by_hand=False)

    @rule(seen=facts())
    def whatever(self, seen) -> None:
        self.tick(seen)

    @rule(times=st.integers(1, 6))
    def all_is_well(self, times) -> None:
        one = Tick.unkeyed(
            5.0, {"errors": Count(50, 0), "p90": Count(50, 0)}, {"errors": Count(50, 1), "p90": Count(50, 9)}
        )
        for _ in range(times):
            self.tick(Facts(5.0, (one,), Count(60, 0), rivals=self.rollout.rivals, thresholds={"p90": 0.01}))

    @precondition(lambda self: self.rollout.active_s > 60)
    @rule(seen=facts(bad=True))
    def it_is_worse(self, seen) -> None:
        self.tick(seen)

    def command(self, decide) -> None:
        try:
            after, entries = decide(self.rollout)
        except ChangeRefused:
            return
        self.moved_to(after, entries, by_hand=True)

    @rule()
    def paused(self) -> None:
        self.command(lambda r: pause(r, Pause("operator", "wait", "ann"), by_hand=True))

    @rule()
    def resumed(self) -> None:
        self.command(lambda r: resume(r, "ann", ""))

    @rule(full=st.sampled_from([False, False, False, True]))
    def promoted(self, full) -> None:
        self.command(lambda r: promote(r, "ann", "", full=full))

    @rule(weight=st.floats(0.0001, 1.0))
    def weighed(self, weight) -> None:
        self.command(lambda r: set_weight(r, weight, "ann", ""))

    @precondition(lambda self: self.rollout.active_s > 100)
    @rule()
    def aborted(self) -> None:
        self.command(lambda r: abort(r, "by hand", kind="abort", actor="ann"))

    @invariant()
    def it_comes_back_from_its_record(self) -> None:
        text = json.dumps(self.rollout.to_json(), allow_nan=False)
        assert Rollout.from_json(json.loads(text)) == self.rollout

    @rule(policy=policies())
    def its_wish_is_stable_and_leaves_the_others(self, policy) -> None:
        rollout = self.rollout
        desired = desired_policy(rollout, policy)
        if desired is None:
            return
        assert desired_policy(rollout, desired) == desired
        ours = {V1, V2}
        if policy is not None:
            kept = {c for c in policy.canaries if c.version not in ours and c.version != desired.baseline}
            assert kept <= set(desired.canaries)
            assert {s for s in policy.shadows if s.version not in ours} - {Shadow(desired.baseline, 100)} <= set(
                desired.shadows
            )
        assert (
            {c.version for c in desired.canaries} <= {c.version for c in policy.canaries if policy} | ours
            if policy
            else ours
        )
        if sum(c.weight for c in desired.canaries) <= UNITS:
            assert not malformed(desired)
        if rollout.state is S.ABORTING:
            assert V2 not in desired.versions, "nothing goes to what is rolled back"
        if rollout.state in STEPPING:
            assert desired.weight(V2) == round(rollout.canary_weight * UNITS)
            assert desired.baseline == V1

    def teardown(self) -> None:
        if not hasattr(self, "rollout"):
            return
        # However it stands, it ends by itself: nothing waits for ever.
        for number in itertools.count():
            if self.rollout.state.final:
                break
            assert number < 2000, (self.rollout.state, self.rollout.pauses)
            waits = self.rollout.state is S.ABORTING
            self.tick(Facts(5.0, in_force=waits, rivals=self.rollout.rivals))


RolloutMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
test_rollouts_keep_the_rules_whatever_happens = RolloutMachine.TestCase
