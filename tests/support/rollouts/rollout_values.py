"""Rollouts as values: plans, facts, and ways to reach a state, for tests of the state machine."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from semver import Version

from turnout.rollout.evidence import Count, Tick
from turnout.rollout.machine.attempt import Rollout, RolloutHistoryEntry, RolloutState
from turnout.rollout.machine.machine import Facts, advance
from turnout.rollout.machine.overrides import abort
from turnout.rollout.plan import Plan, PlanStep, ShadowStage

S = RolloutState
V1, V2, V3 = Version(1), Version(2), Version(3)

PLAN = Plan(
    steps=(PlanStep(0.25, 10.0), PlanStep(0.5, 10.0)),
    shadow=ShadowStage(rate=0.5, duration_s=10.0, agreement=0.9, min_samples=20),
    metrics=("errors",),
    min_requests=20,
    step_deadline_s=60.0,
    validating_s=30.0,
    max_pause_s=300.0,
    max_duration_s=3600.0,
    watch_s=10.0,
    holdback=0.1,
)
"""A plan in which each stage lasts two ticks of five seconds."""

RUNNING = tuple(state for state in S if not state.final)


def tick(bad: int = 0, requests: int = 100, bad_baseline: int = 0) -> Tick:
    """Returns a tick of five seconds with `requests` requests in each arm."""
    invalid = {"invalid": Count(requests)}
    return Tick.unkeyed(
        5.0, {"errors": Count(requests, bad)} | invalid, {"errors": Count(requests, bad_baseline)} | invalid
    )


GOOD = Facts(5.0, ticks=(tick(),), shadow=Count(100, 0), thresholds={"stalled": 1.0}, samples=200)
"""A tick without problems."""

BAD = replace(GOOD, ticks=(tick(60),))
"""A tick that shows the candidate to be worse."""

SILENT = Facts(5.0)
"""A tick without requests."""


def begun(plan: Plan = PLAN, **changes: Any) -> Rollout:
    """Returns a rollout of 2.0.0 over 1.0.0 in its initial state."""
    return replace(Rollout.start("m", V2, V1, 1, plan, "ann", "a better one"), **changes)


def gone(rollout: Rollout, *facts: Facts) -> tuple[Rollout, list[RolloutHistoryEntry]]:
    """Returns the rollout after these ticks, and its history."""
    history: list[RolloutHistoryEntry] = []
    for one in facts:
        rollout, entries = advance(rollout, one)
        history += entries
    return rollout, history


def until(
    rollout: Rollout, fine: Callable[[Rollout], bool], facts: Facts = GOOD, most: int = 200
) -> tuple[Rollout, list[RolloutHistoryEntry]]:
    """Returns the rollout after as many such ticks as needed, and its history."""
    history: list[RolloutHistoryEntry] = []
    for _ in range(most):
        if fine(rollout):
            return rollout, history
        rollout, entries = advance(rollout, facts)
        history += entries
    raise AssertionError(f"not so after {most} ticks: {rollout.state}, {rollout.pauses}")


def reached(state: RolloutState, plan: Plan = PLAN) -> Rollout:
    """Returns a rollout in a state, reached with a good candidate; states of steps are reached in the second step."""
    if state is S.ABORTING:
        return abort(reached(S.SOAKING, plan), "by hand")[0]
    last = len(plan.steps) - 1
    steps = (S.RAMPING, S.SOAKING, S.DECIDING)
    no_copies = replace(GOOD, shadow=Count())
    begins = until(begun(plan), lambda r: r.state in (state, S.SHADOWING) or r.state in steps, no_copies)[0]
    return until(begins, lambda r: r.state is state and (state not in steps or r.step == last))[0]
