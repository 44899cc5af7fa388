"""One attempt to make a candidate the baseline, as a value. Pure.

Pending -> Validating -> Shadowing -> {Ramping -> Soaking -> Deciding} a step -> Promoting -> Watching -> Succeeded
any of them -> Aborting -> RolledBack | Superseded;   Failed if the candidate cannot be served at all
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Self

from semver import Version

from turnout.errors import ChangeRefused, InvalidRequest
from turnout.registry.manifest.json_form import JsonForm
from turnout.rollout.evidence import Count, Evidence
from turnout.rollout.evidence.per_server import PerServer
from turnout.rollout.guards.guards import Guards
from turnout.rollout.guards.slot_history import SlotRecords
from turnout.rollout.machine.confirmation import Confirmation
from turnout.rollout.machine.measurements import ProbeRecord
from turnout.rollout.plan import Plan

_SCHEMA = 1


class RolloutState(StrEnum):
    """Where a rollout is."""

    PENDING = "pending"
    """It waits for its first tick, or for the rollout of the model that came before it."""
    VALIDATING = "validating"
    """The candidate is loaded and warmed, and the baseline shows its latency."""
    SHADOWING = "shadowing"
    """The candidate gets copies, and its answers are compared; no client sees one."""
    RAMPING = "ramping"
    """The step's weight is being put in force."""
    SOAKING = "soaking"
    """The step's time runs."""
    DECIDING = "deciding"
    """The time is over, and what is still to be seen is waited for."""
    PROMOTING = "promoting"
    """The candidate is being made the baseline."""
    WATCHING = "watching"
    """The candidate is the baseline, and can still be rolled back."""
    SUCCEEDED = "succeeded"
    """The candidate is the baseline, and the version before has no traffic left."""
    ABORTING = "aborting"
    """Traffic goes back."""
    ROLLED_BACK = "rolled_back"
    """The version before has all of the traffic."""
    SUPERSEDED = "superseded"
    """Another rollout, or a release, took its place."""
    FAILED = "failed"
    """The candidate could not be served at all."""

    @property
    def final(self) -> bool:
        """The rollout has ended."""
        return self in _FINAL


_S = RolloutState
_FINAL = (_S.SUCCEEDED, _S.ROLLED_BACK, _S.SUPERSEDED, _S.FAILED)
STEPPING = (_S.RAMPING, _S.SOAKING, _S.DECIDING)
PROMOTED = (_S.PROMOTING, _S.WATCHING, _S.SUCCEEDED)


@dataclass(frozen=True, slots=True)
class Pause(JsonForm):
    """Why a rollout is paused.

    Attributes:
        kind: `operator`, `gate`, `veto`, `insufficient`, `traffic` or `refused`.
        reason: In words.
        actor: Who; "" for the rollout itself.
    """

    kind: str
    reason: str
    actor: str = ""

    AS_LIST = True


@dataclass(frozen=True, slots=True)
class RolloutHistoryEntry:
    """One line of a rollout's history.

    Attributes:
        kind: What happened: a state's name, a command's, `verdict` (by evidence, or a deadline), `breaker`, `guard`,
            `probe`, `webhook`, `confirm`, `pause` or `resume`.
        text: A sentence.
        actor: Who; "" for the rollout itself.
    """

    kind: str
    text: str
    actor: str = ""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One attempt to make a candidate the baseline.

    Attributes:
        candidate, previous: The version that is to be the baseline, and the one that is good now.
        attempt: 1, 2, 3 ... of the model.
        plan: How it goes.
        evidence: What was seen so far.
        step: Number of the present step, from 0.
        epoch: Moves with every change but the counts; what an operator decides on.
        in_state_s: Active seconds in this state.
        step_s: Active seconds in this step.
        active_s: Active seconds of all of it.
        idle_s: Seconds on end without progress: paused, frozen, or without a ready candidate.
        held: What keeps it from going on without being a pause, in words; "" while nothing does.
        step_requests, step_baseline: Requests of the canary in this step, and of what it is compared with.
        step_counts: The canary's counts in this step, by metric: what guards look at.
        step_excess: By metric, the canary's bad events in this step, each times how much more than 1 of those that
            came with it were one occasion (`Stratum.dispersion`); nothing where each was its own.
        step_keyed: Requests with a key in this step, of the canary and of what it is compared with.
        history: What slots did before the first step, as `turnout.rollout.guards.slot_history` packs it; "" before
            that.
        silent_s, baseline_silent_s: Active seconds since either had its last request in this step.
        thresholds: Seconds, by latency metric, as fixed before this step.
        shortest_timeout: The baseline's p50, seconds: a caller who waits for less has itself to blame for a timeout.
        weight: What an operator set in place of the step's; None for the step's own.
        passed_gate: Number of the last step whose gate was opened.
        pauses: Why it stands still; none while it goes on.
        verdict: Why it ended, or is ending; "" before that.
        per_server: What is known of each server's part.
        cause: What took the candidate back, of `evidence`, `breaker`, `guard`, `probe` and `webhook`; "" if it was
            something else.
        policy_epoch: Of the policy that was put in force for it last.
        routed: That policy, or the one that it began with, as text; another one is somebody else's.
        was_released: The candidate was released before.
        released: The candidate's release is withdrawn when it is rolled back: it is this rollout's work, or the
            evidence speaks against the candidate, whoever released it.
        finishing: The watch is over; the version before gives back its share.
        rivals: Most rollouts of the model that ran at once since this one began; they share alpha.
        end: The state that `aborting` leads to.
        actor, reason: Who began it, and why.
        probes: What probes measured in this step, by name.
        confirmation: What the confirm webhook says of the next step; None if it was not asked.
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

    @classmethod
    def start(
        cls, model: str, candidate: Version, previous: Version, attempt: int, plan: Plan, actor: str, reason: str
    ) -> Self:
        """Returns a rollout that has not begun, by its plan made complete."""
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
        """The share that the previous version keeps once the candidate is the baseline; 0 without a watch."""
        return 0.0 if self.finishing or self.plan.watch_s == 0 else self.plan.holdback

    @property
    def alpha(self) -> float:
        """Chance that this rollout rolls back a candidate that is not worse.

        Rollouts of one model that run at once share the plan's: the chance that any of them is wrong is the sum of
        theirs at most. A share once given away stays so, since what was looked at under it cannot be looked at anew.
        """
        return self.plan.alpha / self.rivals * self.per_server.share

    @property
    def servers_alpha(self) -> float:
        """The same by one server's part alone, for all servers together."""
        return self.plan.alpha / self.rivals * (1.0 - self.per_server.share)

    @property
    def guards(self) -> Guards:
        """The absolute limits on the candidate now."""
        return self.plan.guards_of(self.step if self.state in STEPPING else None)

    @property
    def stage(self) -> int | None:
        """Number of the step whose weight is in force, from 0; the number of steps while it is watched; else None."""
        if self.state in (_S.SOAKING, _S.DECIDING):
            return self.step
        return len(self.plan.steps) if self.state is _S.WATCHING else None

    @property
    def asked_probes(self) -> tuple[str, ...]:
        """The probes that are asked now."""
        stage = self.stage
        return () if stage is None else self.plan.probes_of(self.step if self.state in STEPPING else None)

    @property
    def promoted(self) -> bool:
        """The candidate is the baseline, or about to be."""
        return self.state in PROMOTED

    def to_json(self) -> dict[str, Any]:
        """Returns the form that the state store holds."""
        return {key: getattr(self, name) for name, key in _KEYS.items()} | {
            "schema": _SCHEMA, "candidate": str(self.candidate), "previous": str(self.previous),
            "plan": self.plan.to_json(), "plan_digest": self.plan.digest, "evidence": self.evidence.to_json(),
            "state": str(self.state), "end": str(self.end), "thresholds": dict(self.thresholds), "weight": self.weight,
            "pauses": [pause.to_json() for pause in self.pauses], "step_keyed": list(self.step_keyed),
            "step_counts": {metric: [c.requests, c.bad] for metric, c in self.step_counts.items()},
            "step_excess": dict(self.step_excess), "per_server": self.per_server.to_json(),
            "probes": {name: record.to_json() for name, record in self.probes.items()},
            "confirmation": self.confirmation and self.confirmation.to_json(),
        }  # fmt: skip

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: It did not write that, or a later release of Turnout did.
        """
        try:
            if body["schema"] != _SCHEMA:
                raise ValueError(f"rollout schema {body['schema']!r} is not {_SCHEMA}, the one this release reads")
            plan = Plan.from_json(body["plan"])
            plain = {
                name: body[_KEYS[name]] if kind is str else kind(body[_KEYS[name]])  # what is not text is told below
                for name, kind in _PLAIN.items()
                if _KEYS[name] in body or name not in _LATER
            }
            read = cls(
                candidate=Version.parse(body["candidate"]),
                previous=Version.parse(body["previous"]),
                plan=plan,
                evidence=Evidence.from_json(body["evidence"], plan.evidence_metrics),
                state=RolloutState(body["state"]),
                end=RolloutState(body["end"]),
                thresholds={k: float(v) for k, v in body["thresholds"].items()},
                weight=None if body["weight"] is None else float(body["weight"]),
                pauses=tuple(map(Pause.from_json, body["pauses"])),
                # Of a release that did not write these: nothing is known of the step so far.
                step_keyed=_two(body.get("step_keyed", (0, 0))),
                step_counts={name: Count.from_json(counted) for name, counted in body.get("step_counts", {}).items()},
                step_excess={name: float(excess) for name, excess in body.get("step_excess", {}).items()},
                per_server=PerServer.from_json(
                    body.get("per_server", {"taken": {}, "evidence": {}}), plan.evidence_metrics
                ),
                probes={name: ProbeRecord.from_json(record) for name, record in body.get("probes", {}).items()},
                confirmation=Confirmation.from_json(asked) if (asked := body.get("confirmation")) else None,
                **plain,
            )
        except (KeyError, IndexError, TypeError, AttributeError, ArithmeticError, InvalidRequest) as error:
            raise ValueError(f"not a rollout: {type(error).__name__} {error}") from error
        if read.history:
            SlotRecords.unpacked(read.history)  # what is read must not fail at the next tick
        if problem := read._problem():
            raise ValueError(f"not a rollout: {problem}")
        return read

    def _problem(self) -> str:
        """Returns what is wrong with a rollout that was read, "" if nothing is: it must not fail at the next tick."""
        texts = [getattr(self, name) for name, kind in _PLAIN.items() if kind is str]
        texts += [part for pause in self.pauses for part in (pause.kind, pause.reason, pause.actor)]
        seconds = [getattr(self, name) for name, kind in _PLAIN.items() if kind is float]
        seconds += [*self.thresholds.values(), *self.step_excess.values()]
        counts = (self.step, self.epoch, self.step_requests, self.step_baseline, *self.step_keyed, self.policy_epoch)
        checks = (
            (all(isinstance(text, str) for text in texts), "a text is missing"),
            (all(0 <= value < math.inf for value in seconds), "a time or an excess is negative or not a number"),
            (all(value >= 0 for value in counts) and self.attempt >= 1 and self.rivals >= 1, "a number is too small"),
            (self.step < len(self.plan.steps), f"it is in step {self.step + 1} of {len(self.plan.steps)}"),
            (self.weight is None or 0 < self.weight <= 1, "its weight is not a share"),
            (self.state is not _S.SHADOWING or self.plan.shadow is not None, "it shadows, and its plan does not"),
            (self.end.final, f"it is to end as {self.end}"),
        )
        problems = [what for fine, what in checks if not fine]
        return next(iter(problems), "") or self.evidence.problem() or self.per_server.problem()


_PLAIN: Mapping[str, Callable[[Any], Any]] = {
    one.name: kind for one in fields(Rollout) for kind in (str, int, float, bool) if one.type is kind
}
"""Fields that JSON holds as they are, and their types."""

_KEYS = {name: name for name in _PLAIN} | {"shortest_timeout": "patience"}
"""Their keys in JSON. A field that is renamed keeps its key, or no server could read what an earlier release stored."""

_LATER = ("cause", "step_baseline", "silent_s", "baseline_silent_s", "history")
"""Those of them that not every release has written."""


def _two(numbers: Sequence[Any]) -> tuple[int, int]:
    first, second = map(int, numbers)
    return first, second


Moved = tuple[Rollout, tuple[RolloutHistoryEntry, ...]]
"""A rollout as it is now, and what is to be told of how it came to be so."""


def enter(rollout: Rollout, state: RolloutState, text: str) -> Moved:
    """Returns the rollout in another state, and the line that tells of it."""
    released = rollout.released or (state is _S.PROMOTING and not rollout.was_released)
    return moved(rollout, state=state, in_state_s=0.0, released=released), (RolloutHistoryEntry(str(state), text),)


def fresh_step(rollout: Rollout) -> Rollout:
    """Returns the rollout with nothing counted in its step yet."""
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
