"""One attempt to make a candidate the baseline, as a value. Pure.

Pending -> Validating -> Shadowing -> {Ramping -> Soaking -> Deciding} a step -> Promoting -> Watching -> Succeeded
any of them -> Aborting -> RolledBack | Superseded;   Failed if the candidate cannot be served at all
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Self

from semver import Version

from turnout.errors import ChangeRefused, InvalidRequest
from turnout.registry.manifest.json_form import JsonForm, fields_from_json, fields_to_json
from turnout.rollout.evidence import Count, Evidence
from turnout.rollout.evidence.per_server import PerServer
from turnout.rollout.guards.guards import Guards
from turnout.rollout.guards.slot_history import SlotRecords
from turnout.rollout.machine.confirmation import Confirmation
from turnout.rollout.machine.measurements import ProbeRecord
from turnout.rollout.plan import Plan

_SCHEMA = 1


class RolloutState(StrEnum):
    """The state of a rollout."""

    PENDING = "pending"
    """It waits for its first tick, or for an earlier rollout of the model to end."""
    VALIDATING = "validating"
    """The candidate is loaded and warmed up, and the baseline's latency is measured."""
    SHADOWING = "shadowing"
    """The candidate gets copies of requests, and its answers are compared but not returned to clients."""
    RAMPING = "ramping"
    """The step's weight is being put into force."""
    SOAKING = "soaking"
    """The step's soak time is running."""
    DECIDING = "deciding"
    """The soak time is over, and the rollout waits for the conditions that are still missing."""
    PROMOTING = "promoting"
    """The candidate is being made the baseline."""
    WATCHING = "watching"
    """The candidate is the baseline, and can still be rolled back."""
    SUCCEEDED = "succeeded"
    """The candidate is the baseline, and the previous version has no traffic left."""
    ABORTING = "aborting"
    """Traffic is being moved back."""
    ROLLED_BACK = "rolled_back"
    """The previous version has all of the traffic."""
    SUPERSEDED = "superseded"
    """Another rollout or a release replaced it."""
    FAILED = "failed"
    """The candidate could not be served at all."""

    @property
    def final(self) -> bool:
        """Whether the rollout has ended."""
        return self in _FINAL


_S = RolloutState
_FINAL = (_S.SUCCEEDED, _S.ROLLED_BACK, _S.SUPERSEDED, _S.FAILED)
STEPPING = (_S.RAMPING, _S.SOAKING, _S.DECIDING)
PROMOTED = (_S.PROMOTING, _S.WATCHING, _S.SUCCEEDED)


@dataclass(frozen=True, slots=True)
class Pause(JsonForm):
    """A reason why a rollout is paused.

    Attributes:
        kind: `operator`, `gate`, `veto`, `insufficient`, `traffic` or `refused`.
        actor: Who paused it; "" for the rollout itself.
    """

    kind: str
    reason: str
    actor: str = ""

    AS_LIST = True


@dataclass(frozen=True, slots=True)
class RolloutHistoryEntry:
    """One entry of a rollout's history.

    Attributes:
        kind: What happened: the name of a state or command, `verdict` (by evidence, or a deadline), `breaker`, `guard`,
            `probe`, `webhook`, `confirm`, `pause` or `resume`.
        actor: Who caused it; "" for the rollout itself.
    """

    kind: str
    text: str
    actor: str = ""


@dataclass(frozen=True, slots=True)
class Rollout(JsonForm):
    """One attempt to make a candidate the baseline.

    Attributes:
        candidate, previous: The version that is to become the baseline, and the version that it is compared with.
        attempt: Number of the attempt, 1, 2, 3 ... for each model.
        step: Number of the present step, from 0.
        epoch: Incremented by every change except counts. Operators' decisions refer to it.
        in_state_s: Active seconds in this state.
        step_s: Active seconds in this step.
        active_s: Active seconds of the whole rollout.
        idle_s: Consecutive seconds without progress: paused, frozen, or without a ready candidate.
        held: What prevents progress without being a pause, in words; "" if nothing does.
        step_requests, step_baseline: Requests in this step, of the canary and of the arm that it is compared with.
        step_counts: The canary's counts in this step by metric, which guards are applied to.
        step_excess: By metric, the sum of the canary's bad events in this step, each times the excess of its tick's
            dispersion over 1 (`Stratum.dispersion`).
        step_keyed: Requests with a key in this step, of the canary and of the arm that it is compared with.
        history: Outcomes of slots before the first step, as `turnout.rollout.guards.slot_history` packs them; "" before
            that step.
        silent_s, baseline_silent_s: Active seconds since each arm's last request in this step.
        thresholds: Thresholds by latency metric in seconds, as set before this step.
        shortest_timeout: The baseline's p50 in seconds. A timeout of a caller that waits for less is its own fault.
        weight: Weight set by an operator in place of the step's; None for the step's.
        passed_gate: Number of the last step whose gate was opened.
        pauses: Reasons why the rollout is paused; empty if it is not.
        verdict: Why the rollout ended or is ending; "" before that.
        per_server: Evidence of each server alone.
        cause: What rolled the candidate back, of `evidence`, `breaker`, `guard`, `probe` and `webhook`; "" if it was
            something else.
        policy_epoch: Epoch of the policy that was last put into force for the rollout.
        routed: That policy as text, or the one at the beginning. A different policy was set by someone else.
        was_released: Whether the candidate was released before the rollout.
        released: Whether a rollback withdraws the candidate's release: because the rollout released it, or because the
            evidence is against the candidate, in which case it does not matter who released it.
        finishing: Whether the watch is over, so that the previous version gives back its share.
        rivals: Maximum number of concurrent rollouts of the model since this one began. They share alpha.
        end: The final state that `aborting` leads to.
        actor, reason: Who started the rollout, and why.
        probes: Measurements of probes in this step, by name.
        confirmation: State of the confirm webhook's answer about the next step; None if it was not asked.
    """

    model: str
    candidate: Version
    previous: Version
    attempt: int
    plan: Plan
    evidence: Evidence
    state: RolloutState = RolloutState.PENDING
    step: int = 0
    epoch: int = 1
    in_state_s: float = 0.0
    step_s: float = 0.0
    active_s: float = 0.0
    idle_s: float = 0.0
    held: str = ""
    step_requests: int = 0
    thresholds: Mapping[str, float] = field(default_factory=dict)
    shortest_timeout: float = 0.0
    weight: float | None = None
    passed_gate: int = -1
    pauses: tuple[Pause, ...] = ()
    verdict: str = ""
    policy_epoch: int = 0
    routed: str = ""
    was_released: bool = False
    released: bool = False
    finishing: bool = False
    rivals: int = 1
    end: RolloutState = RolloutState.ROLLED_BACK
    actor: str = ""
    reason: str = ""
    cause: str = ""
    step_baseline: int = 0
    step_counts: Mapping[str, Count] = field(default_factory=dict)
    step_excess: Mapping[str, float] = field(default_factory=dict)
    silent_s: float = 0.0
    baseline_silent_s: float = 0.0
    step_keyed: tuple[int, int] = (0, 0)
    history: str = ""
    per_server: PerServer = field(default_factory=PerServer)
    probes: Mapping[str, ProbeRecord] = field(default_factory=dict)
    confirmation: Confirmation | None = None

    ADDED = (
        "cause", "step_baseline", "silent_s", "baseline_silent_s", "history", "step_keyed", "step_counts",
        "step_excess", "per_server", "probes", "confirmation",
    )  # fmt: skip

    @classmethod
    def start(
        cls, model: str, candidate: Version, previous: Version, attempt: int, plan: Plan, actor: str, reason: str
    ) -> Self:
        """Returns a rollout that has not begun, with its plan completed."""
        plan = plan.complete
        evidence = Evidence.start(plan.evidence_metrics, plan.max_duration_s)
        return cls(model, candidate, previous, attempt, plan, evidence, actor=actor, reason=reason)

    @property
    def canary_weight(self) -> float:
        """The candidate's desired share of the unpinned traffic."""
        if self.state in STEPPING:
            return self.plan.steps[self.step].weight if self.weight is None else self.weight
        if self.state in PROMOTED:
            return 1.0 if self.state is _S.SUCCEEDED else 1.0 - self.holdback
        return 0.0

    @property
    def holdback(self) -> float:
        """The share that the previous version keeps while the candidate is watched; 0 without a watch."""
        return 0.0 if self.finishing or self.plan.watch_s == 0 else self.plan.holdback

    @property
    def alpha(self) -> float:
        """Probability that the evidence of all servers rolls back a candidate that is not worse.

        Concurrent rollouts of one model share the plan's alpha, since the probability that any of them is wrong is at
        most the sum of theirs. The share never grows again, since traffic that was judged with it cannot be judged
        anew.
        """
        return self.plan.alpha / self.rivals * self.per_server.share

    @property
    def servers_alpha(self) -> float:
        """The same probability for the evidence of single servers, for all servers together."""
        return self.plan.alpha / self.rivals * (1.0 - self.per_server.share)

    @property
    def guards(self) -> Guards:
        """The absolute limits on the candidate now."""
        return self.plan.guards_of(self.step if self.state in STEPPING else None)

    @property
    def stage(self) -> int | None:
        """Number of the step in force, from 0; the number of steps while the candidate is watched; None otherwise."""
        if self.state in (_S.SOAKING, _S.DECIDING):
            return self.step
        return len(self.plan.steps) if self.state is _S.WATCHING else None

    @property
    def asked_probes(self) -> tuple[str, ...]:
        """The names of the probes that run now."""
        stage = self.stage
        return () if stage is None else self.plan.probes_of(self.step if self.state in STEPPING else None)

    @property
    def promoted(self) -> bool:
        """Whether the candidate is the baseline, or about to be."""
        return self.state in PROMOTED

    def to_json(self) -> dict[str, Any]:
        """Returns the form in which the state store keeps it."""
        body = fields_to_json(self)
        return body | {
            "schema": _SCHEMA, "plan": self.plan.to_json(), "plan_digest": self.plan.digest,
            "evidence": self.evidence.to_json(), "per_server": self.per_server.to_json(),
            "patience": body.pop("shortest_timeout"),  # as earlier releases call it
        }  # fmt: skip

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """Parses the output of `to_json`.

        Raises:
            ValueError: The document is not in that form, or a later release of Turnout wrote it.
        """
        try:
            if body["schema"] != _SCHEMA:
                raise ValueError(f"rollout schema {body['schema']!r} is not {_SCHEMA}, the one this release reads")
            plan = Plan.from_json(body["plan"])
            several = body.get("per_server", {"taken": {}, "evidence": {}})
            parts = {
                "plan": plan,
                "evidence": Evidence.from_json(body["evidence"], plan.evidence_metrics),
                "per_server": PerServer.from_json(several, plan.evidence_metrics),
                "shortest_timeout": body["patience"],
            }
            read = fields_from_json(cls, {**body, **parts})
        except (KeyError, IndexError, TypeError, AttributeError, ArithmeticError, InvalidRequest) as error:
            raise ValueError(f"not a rollout: {type(error).__name__} {error}") from error
        if read.history:
            SlotRecords.unpacked(read.history)  # raises now instead of at the next tick
        if problem := read._problem():
            raise ValueError(f"not a rollout: {problem}")
        return read

    def _problem(self) -> str:
        """Returns what is wrong with a rollout that was read, which would fail at the next tick; "" if nothing is."""
        seconds = [getattr(self, one.name) for one in fields(self) if one.type is float]
        seconds += [*self.thresholds.values(), *self.step_excess.values()]
        counts = (self.step, self.epoch, self.step_requests, self.step_baseline, *self.step_keyed, self.policy_epoch)
        checks = (
            (
                all(0 <= value <= sys.float_info.max for value in seconds),
                "a time or an excess is negative or not a number",
            ),
            (all(value >= 0 for value in counts) and self.attempt >= 1 and self.rivals >= 1, "a number is too small"),
            (self.step < len(self.plan.steps), f"it is in step {self.step + 1} of {len(self.plan.steps)}"),
            (self.weight is None or 0 < self.weight <= 1, "its weight is not a share"),
            (self.state is not _S.SHADOWING or self.plan.shadow is not None, "it shadows, and its plan does not"),
            (self.end.final, f"it is to end as {self.end}"),
        )
        problems = [what for fine, what in checks if not fine]
        return next(iter(problems), "") or self.evidence.problem() or self.per_server.problem()


Moved = tuple[Rollout, tuple[RolloutHistoryEntry, ...]]
"""The new state of a rollout, and entries for its history."""


def enter(rollout: Rollout, state: RolloutState, text: str) -> Moved:
    """Returns the rollout in another state, with an entry for its history."""
    released = rollout.released or (state is _S.PROMOTING and not rollout.was_released)
    return moved(rollout, state=state, in_state_s=0.0, released=released), (RolloutHistoryEntry(str(state), text),)


def fresh_step(rollout: Rollout) -> Rollout:
    """Returns the rollout with the counts of its step reset."""
    return replace(
        rollout,
        step_s=0.0,
        step_requests=0,
        step_baseline=0,
        step_keyed=(0, 0),
        step_counts={},
        step_excess={},
        silent_s=0.0,
        baseline_silent_s=0.0,
        probes={},
        confirmation=None,
    )


def moved(rollout: Rollout, **changes: Any) -> Rollout:
    """Returns the rollout with `changes`, at its next epoch."""
    return replace(rollout, epoch=rollout.epoch + 1, **changes)


def refuse_final(rollout: Rollout) -> None:
    """Raises ChangeRefused if the rollout has ended."""
    if rollout.state.final:
        raise ChangeRefused(f"the rollout of {rollout.candidate} has ended: {rollout.state}")
