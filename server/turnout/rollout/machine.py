"""The state machine of a rollout. Pure: `advance` makes the next state out of facts, `wished` says what is to route.

    Pending -> Validating -> Shadowing -> {Ramping -> Soaking -> Deciding} a step -> Promoting -> Watching -> Succeeded
    any of them -> Aborting -> RolledBack | Superseded;   Failed where the candidate cannot be served at all

What a state wishes to route follows from the state alone, so that putting it in force twice is harmless, and a restart
needs nothing but the state.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from semver import Version

from turnout.errors import ChangeRefused
from turnout.rollout.evidence import DISAGREEMENT, Count, Evidence, Tick
from turnout.rollout.plan import Plan
from turnout.routing.policy import UNITS, Canary, Policy, Shadow

_SCHEMA = 1
_NONE = Count()
_ABORT_SECONDS = 60.0


class RolloutState(StrEnum):
    """Where a rollout is."""

    PENDING = "pending"
    VALIDATING = "validating"
    SHADOWING = "shadowing"
    RAMPING = "ramping"
    SOAKING = "soaking"
    DECIDING = "deciding"
    PROMOTING = "promoting"
    WATCHING = "watching"
    SUCCEEDED = "succeeded"
    ABORTING = "aborting"
    ROLLED_BACK = "rolled_back"
    SUPERSEDED = "superseded"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        """Nothing comes after it."""
        return self in _FINAL


_S = RolloutState
_FINAL = (_S.SUCCEEDED, _S.ROLLED_BACK, _S.SUPERSEDED, _S.FAILED)
_STEPPING = (_S.RAMPING, _S.SOAKING, _S.DECIDING)
_PROMOTED = (_S.PROMOTING, _S.WATCHING, _S.SUCCEEDED)


@dataclass(frozen=True, slots=True)
class Pause:
    """Why a rollout stands still.

    Attributes:
        kind: `operator`, `gate`, `insufficient`, `traffic` or `refused`.
        reason: In words.
        actor: Who; "" for the rollout itself.
    """

    kind: str
    reason: str
    actor: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a rollout's history.

    Attributes:
        kind: What happened: a state's name, a command's, `verdict`, `pause` or `resume`.
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
        model: Its model.
        candidate, previous: The version that is to be the baseline, and the one that is good now.
        attempt: 1, 2, 3 ... of the model.
        plan: How it goes.
        evidence: What was seen so far.
        state: Where it is.
        step: Number of the present step, from 0.
        epoch: Moves with every change but the counts; what an operator decides on.
        in_state_s: Active seconds in this state.
        step_s: Active seconds in this step.
        active_s: Active seconds of all of it.
        idle_s: Seconds on end without progress: paused, or without a ready candidate.
        step_requests: Requests of the canary in this step.
        thresholds: Seconds, by latency metric, as fixed before this step.
        patience: The baseline's p50, seconds.
        weight: What an operator set in place of the step's; None for the step's own.
        passed_gate: Number of the last step whose gate was opened.
        pauses: Why it stands still; none while it goes on.
        verdict: Why it ended, or is ending; "" before that.
        policy_epoch: Of the policy that was put in force for it last.
        finishing: The watch is over; the version before gives back its share.
        end: The state that `aborting` leads to.
        actor, reason: Who began it, and why.
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
    step_requests: int = 0
    thresholds: Mapping[str, float] = field(default_factory=dict)
    patience: float = 0.0
    weight: float | None = None
    passed_gate: int = -1
    pauses: tuple[Pause, ...] = ()
    verdict: str = ""
    policy_epoch: int = 0
    finishing: bool = False
    end: RolloutState = RolloutState.ROLLED_BACK
    actor: str = ""
    reason: str = ""

    @classmethod
    def start(
        cls, model: str, candidate: Version, previous: Version, attempt: int, plan: Plan, actor: str, reason: str
    ) -> Self:
        """Returns a rollout that has not begun."""
        evidence = Evidence.start(plan.evidence_metrics, plan.max_duration_s)
        return cls(model, candidate, previous, attempt, plan, evidence, actor=actor, reason=reason)

    @property
    def canary_weight(self) -> float:
        """The candidate's wished share of the unpinned traffic."""
        if self.state in _STEPPING:
            return self.plan.steps[self.step].weight if self.weight is None else self.weight
        if self.state in _PROMOTED:
            return 1.0 if self.finishing or self.state is _S.SUCCEEDED else 1.0 - self.plan.holdback
        return 0.0

    @property
    def promoted(self) -> bool:
        """The candidate is the baseline, or about to be."""
        return self.state in _PROMOTED

    def to_json(self) -> dict[str, Any]:
        """Returns the form that the state store holds."""
        return {
            "schema": _SCHEMA, "model": self.model, "candidate": str(self.candidate), "previous": str(self.previous),
            "attempt": self.attempt, "plan": self.plan.to_json(), "plan_digest": self.plan.digest,
            "evidence": self.evidence.to_json(), "state": str(self.state), "step": self.step, "epoch": self.epoch,
            "in_state_s": self.in_state_s, "step_s": self.step_s, "active_s": self.active_s, "idle_s": self.idle_s,
            "step_requests": self.step_requests, "thresholds": dict(self.thresholds), "patience": self.patience,
            "weight": self.weight, "passed_gate": self.passed_gate,
            "pauses": [[p.kind, p.reason, p.actor] for p in self.pauses], "verdict": self.verdict,
            "policy_epoch": self.policy_epoch, "finishing": self.finishing, "end": str(self.end),
            "actor": self.actor, "reason": self.reason,
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
            return cls(
                body["model"], Version.parse(body["candidate"]), Version.parse(body["previous"]), int(body["attempt"]),
                plan, Evidence.from_json(body["evidence"], plan.evidence_metrics), RolloutState(body["state"]),
                int(body["step"]), int(body["epoch"]), float(body["in_state_s"]), float(body["step_s"]),
                float(body["active_s"]), float(body["idle_s"]), int(body["step_requests"]),
                {k: float(v) for k, v in body["thresholds"].items()}, float(body["patience"]), body["weight"],
                int(body["passed_gate"]), tuple(Pause(*p) for p in body["pauses"]), body["verdict"],
                int(body["policy_epoch"]), bool(body["finishing"]), RolloutState(body["end"]), body["actor"],
                body["reason"],
            )  # fmt: skip
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a rollout: {type(error).__name__} {error}") from error


@dataclass(frozen=True, slots=True)
class Facts:
    """What is so, at one tick.

    Attributes:
        seconds: Since the last tick; the clock on the wall has no part in it.
        ticks: Counts that were closed since the last tick, the oldest first.
        shadow: Copies that were compared since, and those that disagreed beyond the baseline's own noise.
        ready: The candidate and the version to go back to can both answer.
        trouble: Why the candidate can never answer; "" while it may.
        in_force: What is wished is in force.
        other: Who else changed the policy, and why; "" where nobody did.
        refused: Why what is wished cannot be put in force; "" where nothing was refused.
        thresholds: The baseline's quantiles by metric now, seconds; None where too few requests were seen.
        samples: How many of the baseline's requests were seen.
        patience: The baseline's p50 now, seconds.
    """

    seconds: float
    ticks: Sequence[Tick] = ()
    shadow: Count = _NONE
    ready: bool = True
    trouble: str = ""
    in_force: bool = True
    other: str = ""
    refused: str = ""
    thresholds: Mapping[str, float] | None = None
    samples: int = 0
    patience: float = 0.0


Moved = tuple[Rollout, tuple[Entry, ...]]


def advance(rollout: Rollout, facts: Facts) -> Moved:
    """Returns the rollout after one tick, and what is to be told of it. A verdict goes before any progress."""
    if rollout.state.final:
        return rollout, ()
    rollout = _observed(rollout, facts)
    if rollout.state is not _S.ABORTING and rollout.evidence.worse(rollout.plan.alpha):
        return abort(rollout, _verdict(rollout))
    if facts.trouble and rollout.state is not _S.ABORTING:
        return abort(rollout, f"{rollout.candidate} cannot be served: {facts.trouble}", _S.FAILED)
    if rollout.state is _S.ABORTING:
        return _aborting(rollout, facts)
    if facts.other:
        return pause(rollout, Pause("traffic", f"somebody else changed the traffic: {facts.other}"))
    if rollout.pauses or not facts.ready:
        idle = replace(rollout, idle_s=rollout.idle_s + facts.seconds)
        if idle.idle_s > rollout.plan.max_pause_s:
            why = "; ".join(p.reason for p in rollout.pauses) or f"{rollout.candidate} was not ready"
            return abort(idle, f"nothing went on for {idle.idle_s:.0f} s: {why}")
        return idle, ()
    rollout = replace(
        rollout,
        idle_s=0.0,
        in_state_s=rollout.in_state_s + facts.seconds,
        step_s=rollout.step_s + facts.seconds,
        active_s=rollout.active_s + facts.seconds,
    )
    if facts.refused:
        return pause(rollout, Pause("refused", f"the traffic cannot be changed: {facts.refused}"))
    if rollout.active_s > rollout.plan.max_duration_s and rollout.state is not _S.WATCHING:
        return abort(rollout, f"it took longer than its {rollout.plan.max_duration_s:.0f} s")
    return _PROGRESS[rollout.state](rollout, facts)


def wished(rollout: Rollout, policy: Policy | None) -> Policy | None:
    """Returns the policy that `rollout` wishes for, given the one in force; None where it wishes for nothing else.

    Canaries and shadows that are not its own stay. What comes out for its own wish comes out again for the result.
    """
    ours = (rollout.candidate, rollout.previous)
    canaries = tuple(c for c in policy.canaries if c.version not in ours) if policy else ()
    shadows = tuple(s for s in policy.shadows if s.version != rollout.candidate) if policy else ()
    match rollout.state:
        case _S.PENDING | _S.VALIDATING:
            return None
        case _S.SHADOWING:
            assert rollout.plan.shadow is not None
            rate = max(round(rollout.plan.shadow.rate * UNITS), 1)
            return Policy(rollout.previous, canaries, (*shadows, Shadow(rollout.candidate, rate)))
        case _S.RAMPING | _S.SOAKING | _S.DECIDING:
            weight = round(rollout.canary_weight * UNITS)
            return Policy(rollout.previous, (*canaries, Canary(rollout.candidate, weight)), shadows)
        case _S.PROMOTING | _S.WATCHING:
            held = round(rollout.plan.holdback * UNITS)
            if held and not rollout.finishing:
                canaries = (*canaries, Canary(rollout.previous, held))
            return Policy(rollout.candidate, canaries, shadows)
        case _S.ABORTING:
            return Policy(rollout.previous, canaries, shadows)
        case _:
            return None


def pause(rollout: Rollout, why: Pause, *, by_hand: bool = False) -> Moved:
    """Returns the rollout standing still for one more reason; each kind of reason stands once.

    Raises:
        ChangeRefused: Somebody asks for it, and it has ended or is being taken back.
    """
    if by_hand:
        _refuse_final(rollout)
        if rollout.state is _S.ABORTING:
            raise ChangeRefused(f"{rollout.candidate} is being taken back, and nothing stops that")
    pauses = (*(p for p in rollout.pauses if p.kind != why.kind), why)
    if pauses == rollout.pauses:
        return rollout, ()
    return _changed(rollout, pauses=pauses), (Entry("pause", why.reason, why.actor),)


def resume(rollout: Rollout, actor: str, reason: str) -> Moved:
    """Returns the rollout going on; a gate stays shut, as only `promote` opens it.

    Raises:
        ChangeRefused: It does not stand still, or a gate is all that holds it.
    """
    _refuse_final(rollout)
    gates = tuple(p for p in rollout.pauses if p.kind == "gate")
    if gates == rollout.pauses:
        raise ChangeRefused(
            "a gate holds it: promote opens that" if gates else f"the rollout of {rollout.candidate} is not paused"
        )
    # What ran out while it waited starts anew: to resume is to give it that time once more.
    after = _changed(rollout, pauses=gates, in_state_s=0.0, step_s=0.0, idle_s=0.0)
    return after, (Entry("resume", reason or "resumed", actor),)


def promote(rollout: Rollout, actor: str, reason: str, *, full: bool) -> Moved:
    """Returns the rollout one step on, or promoted, whatever there is to see; the evidence goes on counting.

    Raises:
        ChangeRefused: There is nothing to promote to.
    """
    _refuse_final(rollout)
    if rollout.promoted or rollout.state is _S.ABORTING:
        raise ChangeRefused(f"the rollout of {rollout.candidate} is {rollout.state}: there is nothing to promote")
    told = Entry("promote_full" if full else "promote", reason or "promoted by hand", actor)
    held = replace(rollout, pauses=())
    if full:
        after, entries = _enter(held, _S.PROMOTING, "promoted by hand, past the steps that were left")
    elif rollout.state in (_S.PENDING, _S.VALIDATING, _S.SHADOWING):
        after, entries = _step_to(replace(held, passed_gate=0), 0)
    else:
        gated = any(p.kind == "gate" for p in rollout.pauses)
        following = rollout.step if gated and rollout.state is _S.RAMPING else rollout.step + 1
        after, entries = _step_to(replace(held, passed_gate=following), following)
    return after, (told, *entries)


def set_weight(rollout: Rollout, weight: float, actor: str, reason: str) -> Moved:
    """Returns the rollout with another weight until its next step.

    Raises:
        ChangeRefused: It is in no step.
    """
    _refuse_final(rollout)
    if rollout.state not in _STEPPING:
        raise ChangeRefused(f"the rollout of {rollout.candidate} is {rollout.state}: only a step has a weight")
    text = f"weight {weight:.2%}{': ' + reason if reason else ''}"
    return _changed(rollout, weight=weight), (Entry("set_weight", text, actor),)


def abort(
    rollout: Rollout, why: str, end: RolloutState = RolloutState.ROLLED_BACK, *, kind: str = "verdict", actor: str = ""
) -> Moved:
    """Returns the rollout taking its candidate back.

    Raises:
        ChangeRefused: It has ended.
    """
    _refuse_final(rollout)
    after = _changed(
        rollout, state=_S.ABORTING, in_state_s=0.0, pauses=(), verdict=why, end=end, finishing=False, weight=None
    )
    return after, (Entry(kind, why, actor), Entry(str(_S.ABORTING), f"traffic goes back to {rollout.previous}"))


def _observed(rollout: Rollout, facts: Facts) -> Rollout:
    evidence, seen = rollout.evidence, 0
    for tick in facts.ticks:
        evidence = evidence.taken(tick)
        seen += max((count.requests for count in tick.canary.values()), default=0)
    if facts.shadow.requests:
        evidence = evidence.taken(Tick(0.0, {DISAGREEMENT: facts.shadow}, {}, 1))
    return replace(rollout, evidence=evidence, step_requests=rollout.step_requests + seen)


def _pending(rollout: Rollout, _: Facts) -> Moved:
    text = f"waits until {rollout.candidate} is ready and the baseline's latency is known"
    return _enter(rollout, _S.VALIDATING, text)


def _validating(rollout: Rollout, facts: Facts) -> Moved:
    if rollout.plan.timed and facts.thresholds is None:
        if rollout.in_state_s <= rollout.plan.validating_s:
            return rollout, ()
        why = (
            f"only {facts.samples} of the {rollout.plan.threshold_samples} requests that latency thresholds take were "
            f"seen in {rollout.in_state_s:.0f} s"
        )
        if (held := _insufficient(rollout, why)) is not None:
            return held
    if rollout.plan.shadow is not None:
        return _enter(rollout, _S.SHADOWING, f"{rollout.plan.shadow.rate:.2%} of the requests are copied")
    return _step_to(_fixed(rollout, facts), 0)


def _shadowing(rollout: Rollout, facts: Facts) -> Moved:
    stage = rollout.plan.shadow
    assert stage is not None
    if rollout.in_state_s < stage.duration_s:
        return rollout, ()
    known = rollout.evidence.accumulators[DISAGREEMENT].canary
    fit = rollout.evidence.fit(DISAGREEMENT) >= 1 / rollout.plan.beta
    if known.requests >= stage.min_samples and fit:
        return _step_to(_fixed(rollout, facts), 0)
    if rollout.in_state_s <= 4 * stage.duration_s + 60.0:
        return rollout, ()
    why = (
        f"{known.requests} copies were compared in {rollout.in_state_s:.0f} s and {known.bad} disagreed, "
        f"which does not show an agreement of {stage.agreement:.2%}"
    )
    return _insufficient(rollout, why) or _step_to(_fixed(rollout, facts), 0)


def _ramping(rollout: Rollout, facts: Facts) -> Moved:
    if not facts.in_force:
        return rollout, ()
    fixed = replace(_fixed(rollout, facts), step_s=0.0, step_requests=0)
    return _enter(fixed, _S.SOAKING, f"{rollout.canary_weight:.2%} of the traffic goes to {rollout.candidate}")


def _soaking(rollout: Rollout, _: Facts) -> Moved:
    if rollout.step_s < rollout.plan.steps[rollout.step].soak_s:
        return rollout, ()
    return _enter(rollout, _S.DECIDING, "the soak is over")


def _deciding(rollout: Rollout, _: Facts) -> Moved:
    plan, step = rollout.plan, rollout.plan.steps[rollout.step]
    last = rollout.step + 1 == len(plan.steps)
    lacking: list[str] = []
    if rollout.step_requests < plan.min_requests:
        lacking.append(f"the canary had {rollout.step_requests} of {plan.min_requests} requests")
    if last and (unproven := [m for m in unproven_metrics(rollout) if m != DISAGREEMENT]):
        lacking.append(f"no evidence yet that {', '.join(unproven)} fit for promotion")
    if lacking:
        if rollout.step_s <= plan.deadline(step):
            return rollout, ()
        if (held := _insufficient(rollout, f"after {rollout.step_s:.0f} s {' and '.join(lacking)}")) is not None:
            return held
    if last:
        return _enter(rollout, _S.PROMOTING, f"{rollout.candidate} becomes the baseline")
    return _step_to(rollout, rollout.step + 1)


def _promoting(rollout: Rollout, facts: Facts) -> Moved:
    if not facts.in_force:
        return rollout, ()
    if rollout.plan.watch_s == 0:
        return _succeed(replace(rollout, finishing=True), facts)
    kept = f"{rollout.previous}, which keeps {rollout.plan.holdback:.2%}"
    return _enter(rollout, _S.WATCHING, f"watched for {rollout.plan.watch_s:.0f} s beside {kept}")


def _watching(rollout: Rollout, facts: Facts) -> Moved:
    if rollout.in_state_s < rollout.plan.watch_s:
        return rollout, ()
    if not rollout.finishing:
        return _changed(rollout, finishing=True), ()
    return _succeed(rollout, facts)


def _succeed(rollout: Rollout, facts: Facts) -> Moved:
    if not facts.in_force:
        return rollout, ()
    text = f"{rollout.candidate} is the baseline: {_counts(rollout)}"
    return _enter(replace(rollout, verdict=text), _S.SUCCEEDED, text)


def _aborting(rollout: Rollout, facts: Facts) -> Moved:
    after = replace(rollout, in_state_s=rollout.in_state_s + facts.seconds)
    if facts.in_force:
        return _enter(after, rollout.end, f"{rollout.previous} has all of the traffic: {rollout.verdict}")
    if after.in_state_s > _ABORT_SECONDS and not rollout.pauses:
        why = facts.refused or "the state store does not answer"
        late = Pause("refused", f"the rollback is not on record yet: {why}")
        return _changed(after, pauses=(late,)), (Entry("pause", late.reason),)
    return after, ()


def unproven_metrics(rollout: Rollout) -> list[str]:
    """Returns the metrics that do not yet show the candidate fit for promotion."""
    plan = rollout.plan
    soaked = rollout.step_s >= plan.steps[rollout.step].soak_s
    enough = 0 if soaked else plan.exposure_requests
    return rollout.evidence.unproven(plan.beta, {m.name: enough for m in rollout.evidence.metrics})


_PROGRESS = {
    _S.PENDING: _pending,
    _S.VALIDATING: _validating,
    _S.SHADOWING: _shadowing,
    _S.RAMPING: _ramping,
    _S.SOAKING: _soaking,
    _S.DECIDING: _deciding,
    _S.PROMOTING: _promoting,
    _S.WATCHING: _watching,
}


def _insufficient(rollout: Rollout, why: str) -> Moved | None:
    """Returns what follows where a deadline came before there was enough to see; None: it goes on."""
    match rollout.plan.on_insufficient:
        case "abort":
            return abort(rollout, why)
        case "promote":
            return None
        case _:
            return pause(rollout, Pause("insufficient", why))


def _step_to(rollout: Rollout, number: int) -> Moved:
    if number >= len(rollout.plan.steps):
        return _enter(rollout, _S.PROMOTING, f"{rollout.candidate} becomes the baseline")
    step = rollout.plan.steps[number]
    if step.gate and rollout.passed_gate < number:
        waits = f"step {number + 1} of {len(rollout.plan.steps)} ({step.weight:.2%}) waits for somebody to promote"
        return pause(rollout, Pause("gate", waits))
    text = f"step {number + 1} of {len(rollout.plan.steps)}: {step.weight:.2%}"
    return _enter(replace(rollout, step=number, step_s=0.0, step_requests=0, weight=None), _S.RAMPING, text)


def _fixed(rollout: Rollout, facts: Facts) -> Rollout:
    """Returns the rollout with the thresholds of now; where nothing is known, with those that it has."""
    if facts.thresholds is None:
        return rollout
    return replace(rollout, thresholds=dict(facts.thresholds), patience=facts.patience)


def _enter(rollout: Rollout, state: RolloutState, text: str) -> Moved:
    return _changed(rollout, state=state, in_state_s=0.0), (Entry(str(state), text),)


def _changed(rollout: Rollout, **changes: Any) -> Rollout:
    return replace(rollout, epoch=rollout.epoch + 1, **changes)


def _refuse_final(rollout: Rollout) -> None:
    if rollout.state.final:
        raise ChangeRefused(f"the rollout of {rollout.candidate} has ended: {rollout.state}")


def _verdict(rollout: Rollout) -> str:
    """Returns in words and numbers why the candidate is taken back."""
    evidence, plan = rollout.evidence, rollout.plan
    strongest = max(evidence.metrics, key=lambda m: m.weight * evidence.of(m.name))
    known = evidence.accumulators[strongest.name]
    share = f"{known.canary.bad} of {known.canary.requests}"
    if strongest.one_armed:
        seen = f"{share} copies disagreed, where {strongest.null:.2%} may"
    else:
        other = f"{known.baseline.bad} of {known.baseline.requests}"
        seen = f"{_NOUNS.get(strongest.name, strongest.name)}: {share}, the baseline {other}"
    shown = f"E = {evidence.combined:.3g}, threshold {1 / plan.alpha:.0f}"
    return f"{rollout.candidate} is worse than {rollout.previous} ({seen}; {shown})"


_NOUNS = {
    "errors": "errors",
    "p90": "slower than the baseline's p90",
    "p95": "slower than the baseline's p95",
    "p99": "slower than the baseline's p99",
    "slo": "slower than the objective",
}


def _counts(rollout: Rollout) -> str:
    parts = [
        f"{m.name} {a.canary.bad} of {a.canary.requests} against {a.baseline.bad} of {a.baseline.requests}"
        for m in rollout.evidence.metrics
        if (a := rollout.evidence.accumulators[m.name]) and not m.one_armed
    ]
    return "; ".join(parts)
