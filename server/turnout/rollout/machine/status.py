"""The status of a rollout as JSON, on which other systems base decisions. Pure.

The keys and the values of `phase` and `verdict` are stable between releases; new ones may be added.
"""

import sys
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from turnout.rollout.machine.attempt import Rollout, RolloutState
from turnout.rollout.machine.explain import lacking
from turnout.rollout.machine.records import UnreadableRollout
from turnout.state.rollouts import RolloutRecord

_S = RolloutState


class Phase(StrEnum):
    """How far a rollout has progressed."""

    PENDING = "pending"
    """It waits for its first tick, or for an earlier rollout."""
    PROGRESSING = "progressing"
    """It is in progress, or is rolling its candidate back."""
    PAUSED = "paused"
    """It is paused: by an operator, by a gate, or because of too little traffic."""
    SUCCEEDED = "succeeded"
    """The candidate is the baseline."""
    ROLLED_BACK = "rolled_back"
    """The previous version has all of the traffic."""
    SUPERSEDED = "superseded"
    """Another rollout or a release replaced it."""
    FAILED = "failed"
    """The candidate could not be served at all."""
    UNREADABLE = "unreadable"
    """This release cannot read the stored rollout."""


class Verdict(StrEnum):
    """The verdict on the candidate."""

    UNDECIDED = "undecided"
    """There is no decision yet."""
    ACCEPTED = "accepted"
    """It is the baseline, and the watch after promotion is over."""
    REJECTED = "rejected"
    """The evidence, a breaker, a guard, a probe or the webhook was against it, or it could not be served."""
    INCONCLUSIVE = "inconclusive"
    """The rollout ended for another reason: an operator, a deadline, another version."""


def phase_of(rollout: Rollout) -> Phase:
    """Returns how far a rollout has progressed."""
    if rollout.pauses and not rollout.state.final and rollout.state is not _S.ABORTING:
        return Phase.PAUSED
    return Phase(rollout.state) if rollout.state.final or rollout.state is _S.PENDING else Phase.PROGRESSING


def verdict_of(rollout: Rollout) -> Verdict:
    """Returns the verdict on the candidate, as soon as it is decided and before traffic has moved back."""
    end = rollout.end if rollout.state is _S.ABORTING else rollout.state
    if end is _S.SUCCEEDED:
        return Verdict.ACCEPTED
    if end is _S.FAILED or (end is _S.ROLLED_BACK and rollout.cause):
        return Verdict.REJECTED
    return Verdict.INCONCLUSIVE if end in (_S.ROLLED_BACK, _S.SUPERSEDED) else Verdict.UNDECIDED


def status(rollout: Rollout | UnreadableRollout, record: RolloutRecord) -> Mapping[str, Any]:
    """Returns the status of a rollout as JSON values."""
    times = {"started_at": record.started.isoformat(), "changed_at": record.changed.isoformat()}
    if isinstance(rollout, UnreadableRollout):
        return {
            "model": record.model, "attempt": record.attempt,
            "candidate": rollout.named("candidate"), "previous": rollout.named("previous"),
            "phase": str(Phase.UNREADABLE), "state": record.state, "final": record.final,
            "verdict": str(Verdict.INCONCLUSIVE if record.final else Verdict.UNDECIDED), "cause": "",
            "message": rollout.sentence, "evidence": 0.0, "threshold": 0.0, "step": 0, "steps": 0, "weight": 0.0,
            "epoch": 0, "metrics": [], "pauses": [], "lacking": [], **times,
        }  # fmt: skip
    evidence = rollout.evidence
    metrics = []
    for metric in evidence.metrics:
        known = evidence.accumulators[metric.name]
        metrics.append(
            {
                "name": metric.name,
                "evidence": json_number(evidence.of(metric.name)),
                "candidate": {"requests": known.canary.requests, "bad": known.canary.bad},
                "previous": {"requests": known.baseline.requests, "bad": known.baseline.bad},
            }
        )
    return {
        "model": rollout.model, "attempt": rollout.attempt,
        "candidate": str(rollout.candidate), "previous": str(rollout.previous),
        "phase": str(phase_of(rollout)), "state": str(rollout.state), "final": rollout.state.final,
        "verdict": str(verdict_of(rollout)), "cause": rollout.cause, "message": rollout.verdict,
        "evidence": json_number(evidence.combined), "threshold": json_number(1 / rollout.alpha),
        "step": rollout.step + 1, "steps": len(rollout.plan.steps), "weight": rollout.canary_weight,
        "epoch": rollout.epoch, "metrics": metrics, "pauses": [pause.reason for pause in rollout.pauses],
        "lacking": lacking(rollout), **times,
    }  # fmt: skip


def json_number(value: float) -> float:
    """Returns the nearest number that JSON can represent, which excludes infinity."""
    return min(value, sys.float_info.max)
