"""How a rollout stands, as JSON that other systems decide by. Pure.

The keys and the words of `phase` and `verdict` stay as they are from release to release; more may come.
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
    """How far a rollout is."""

    PENDING = "pending"
    """It waits for its first tick, or for the rollout before it."""
    PROGRESSING = "progressing"
    """It goes on, or takes its candidate back."""
    PAUSED = "paused"
    """It stands still: for an operator, a gate, or want of traffic."""
    SUCCEEDED = "succeeded"
    """The candidate is the baseline."""
    ROLLED_BACK = "rolled_back"
    """The version before has all of the traffic."""
    SUPERSEDED = "superseded"
    """Another rollout, or a release, took its place."""
    FAILED = "failed"
    """The candidate could not be served at all."""
    UNREADABLE = "unreadable"
    """This release cannot read what was recorded."""


class Verdict(StrEnum):
    """What is known of the candidate."""

    UNDECIDED = "undecided"
    """Nothing yet that decides."""
    ACCEPTED = "accepted"
    """It is the baseline, and the watch after that is over."""
    REJECTED = "rejected"
    """The evidence, a breaker, a guard, or what is asked outside spoke against it, or it could not be served."""
    INCONCLUSIVE = "inconclusive"
    """The rollout ended for another reason: an operator, a deadline, another version."""


_PHASES = {
    _S.PENDING: Phase.PENDING,
    _S.SUCCEEDED: Phase.SUCCEEDED,
    _S.ROLLED_BACK: Phase.ROLLED_BACK,
    _S.SUPERSEDED: Phase.SUPERSEDED,
    _S.FAILED: Phase.FAILED,
}


def phase_of(rollout: Rollout) -> Phase:
    """Returns how far a rollout is."""
    if rollout.pauses and not rollout.state.final and rollout.state is not _S.ABORTING:
        return Phase.PAUSED
    return _PHASES.get(rollout.state, Phase.PROGRESSING)


def verdict_of(rollout: Rollout) -> Verdict:
    """Returns what is known of the candidate: as soon as it is decided, and not only once traffic is back."""
    end = rollout.end if rollout.state is _S.ABORTING else rollout.state
    if end is _S.SUCCEEDED:
        return Verdict.ACCEPTED
    if end is _S.FAILED or (end is _S.ROLLED_BACK and rollout.cause):
        return Verdict.REJECTED
    return Verdict.INCONCLUSIVE if end in (_S.ROLLED_BACK, _S.SUPERSEDED) else Verdict.UNDECIDED


def status(rollout: Rollout | UnreadableRollout, record: RolloutRecord) -> Mapping[str, Any]:
    """Returns how a rollout stands, as JSON values.

    Args:
        rollout: Which.
        record: As the state store has it.
    """
    times = {"started_at": record.started.isoformat(), "changed_at": record.changed.isoformat()}
    if isinstance(rollout, UnreadableRollout):
        names = {part: rollout.record.document.get(part) for part in ("candidate", "previous")}
        return {
            "model": record.model, "attempt": record.attempt,
            **{part: name if isinstance(name, str) else "" for part, name in names.items()},
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
    """Returns the nearest number that JSON has: it knows no infinity."""
    return min(value, sys.float_info.max)
