"""The transitions of a rollout from one tick to the next. Pure: `advance` computes the next state from facts.

A verdict takes precedence over progress, and is possible in every state that is not final, even if paused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from semver import Version

from turnout.rollout.evidence import DISAGREEMENT, STALLED, Count, Evidence, Tick
from turnout.rollout.guards.circuit_breaker import SlotRecord, trip_text, tripped
from turnout.rollout.guards.guards import broken
from turnout.rollout.machine.analysis_verdict import (
    NO_ANALYSIS,
    Analysis,
    analysed,
    begin_step,
    rollback_cause,
    unmeasured,
)
from turnout.rollout.machine.attempt import (
    STEPPING,
    Moved,
    Pause,
    Rollout,
    RolloutHistoryEntry,
    RolloutState,
    enter,
    fresh_step,
    moved,
)
from turnout.rollout.machine.explain import counts_text, server_verdict_text, unseen, verdict_text
from turnout.rollout.machine.overrides import abort, pause, roll_back
from turnout.text.shares import share_text

_S = RolloutState
_NONE = Count()
_ABORT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts that are known at one tick.

    Attributes:
        seconds: Seconds since the last tick by the monotonic clock.
        ticks: Counts of ticks that were closed since the last tick, oldest first.
        shadow: Copies that were compared since, and those that disagreed beyond the baseline's own noise.
        incomparable: Why copies cannot be compared: the baseline's noise, or a shadow that accepts no more; "" if they
            can be compared.
        uncounted: Which copies do not count, and why; "" if all count.
        history: Outcomes of slots before the first step, as `turnout.rollout.guards.slot_history` packs them; "" if
            nothing is known.
        ready: Whether both the candidate and the previous version can answer.
        trouble: Why the candidate can never answer; "" if it may.
        in_force: Whether the desired policy is in force.
        frozen: Whether the model's traffic is frozen, so that only policies that take traffic back are accepted.
        rivals: Number of rollouts of the model that are running, including this one.
        overtaken: New baseline that another rollout or a release has made; None if there is none.
        overtaken_by: Which of the two made it.
        traffic: Versions that answer plain requests, in words; "" if only `previous` does.
        other: Who else changed the policy, and why; "" if no one did.
        refused: Why the desired policy cannot be put into force; "" if it was not refused.
        thresholds: The baseline's present quantiles by metric in seconds; None if it had too few requests.
        samples: Number of the baseline's requests that were measured.
        shortest_timeout: The baseline's present p50 in seconds.
        taken: By server, the number of its last tick in `ticks`.
        slots: Outcomes of slots that the candidate answers, for each server.
    """

    seconds: float
    ticks: Sequence[Tick] = ()
    shadow: Count = _NONE
    incomparable: str = ""
    uncounted: str = ""
    history: str = ""
    ready: bool = True
    trouble: str = ""
    in_force: bool = True
    frozen: bool = False
    rivals: int = 1
    overtaken: Version | None = None
    overtaken_by: str = "another rollout"
    traffic: str = ""
    other: str = ""
    refused: str = ""
    thresholds: Mapping[str, float] | None = None
    samples: int = 0
    shortest_timeout: float = 0.0
    taken: Mapping[str, int] = field(default_factory=dict)
    slots: Sequence[SlotRecord] = ()
    analysis: Analysis = NO_ANALYSIS


def advance(rollout: Rollout, facts: Facts) -> Moved:
    """Returns the rollout after one tick, and entries for its history. A verdict takes precedence over progress."""
    if rollout.state.final:
        return rollout, ()
    rollout, events = analysed(_observed(rollout, facts), facts.analysis)
    after, entries = _decided(rollout, facts)
    return after, (*events, *entries)


def _decided(rollout: Rollout, facts: Facts) -> Moved:
    if rollout.state is _S.ABORTING:
        return _aborting(rollout, facts)
    if (found := _against(rollout, facts)) is not None:
        cause, why = found
        return roll_back(rollout, why, cause)
    if facts.trouble:
        return abort(rollout, f"{rollout.candidate} cannot be served: {facts.trouble}", _S.FAILED)
    if facts.overtaken is not None:
        taken = f"{facts.overtaken_by} made {facts.overtaken} the baseline"
        why = f"{taken}, so {rollout.previous} can no longer be compared with"
        return abort(rollout, why, _S.SUPERSEDED, kind="superseded")
    if facts.other:
        return _stopped(rollout, facts, Pause("traffic", f"someone else changed the traffic: {facts.other}"))
    if rollout.pauses or facts.frozen or not facts.ready:
        return _idle(rollout, facts)
    if facts.refused:
        return _stopped(rollout, facts, Pause("refused", f"the traffic cannot be changed: {facts.refused}"))
    asked = rollout.confirmation
    rollout = replace(
        rollout,
        idle_s=0.0,
        held="",
        in_state_s=rollout.in_state_s + facts.seconds,
        step_s=rollout.step_s + facts.seconds,
        active_s=rollout.active_s + facts.seconds,
        confirmation=asked and replace(asked, waited_s=asked.waited_s + facts.seconds),
    )
    if rollout.active_s > rollout.plan.max_duration_s and rollout.state is not _S.WATCHING:
        return abort(rollout, f"it took longer than its {rollout.plan.max_duration_s:.0f} s")
    return _PROGRESS[rollout.state](rollout, facts)


def _against(rollout: Rollout, facts: Facts) -> tuple[str, str] | None:
    """Returns what is against the candidate, and why, in words and numbers; None if nothing is."""
    if rollout.evidence.worse(rollout.alpha):
        return "evidence", verdict_text(rollout)
    if (server := rollout.per_server.worse(rollout.servers_alpha)) is not None:
        return "evidence", server_verdict_text(rollout, server)
    if (record := tripped(rollout.plan.breaker, facts.slots)) is not None:
        return "breaker", trip_text(record)
    if why := broken(rollout.guards, rollout.step_counts, rollout.step_excess, rollout.evidence.phi):
        return "guard", why
    return rollback_cause(rollout)


def _stopped(rollout: Rollout, facts: Facts, why: Pause) -> Moved:
    """Returns the rollout after a tick in which there was a reason to pause, or still is."""
    stopped, events = pause(rollout, why)
    idle, entries = _idle(stopped, facts)
    return idle, (*events, *entries)


def _idle(rollout: Rollout, facts: Facts) -> Moved:
    held = "the traffic is frozen" if facts.frozen else "" if facts.ready else "a version is not ready"
    idle = replace(rollout, idle_s=rollout.idle_s + facts.seconds, held=held)
    begins = rollout.state in (_S.PENDING, _S.VALIDATING)
    if not facts.ready and begins and not rollout.pauses and idle.idle_s > rollout.plan.validating_s:
        return abort(idle, f"{rollout.candidate} was not ready within {rollout.plan.validating_s:.0f} s", _S.FAILED)
    if idle.idle_s > rollout.plan.max_pause_s:
        why = "; ".join(p.reason for p in rollout.pauses) or held
        return abort(idle, f"there was no progress for {idle.idle_s:.0f} s: {why}")
    return idle, ()


def _observed(rollout: Rollout, facts: Facts) -> Rollout:
    evidence, counts, excess = rollout.evidence, dict(rollout.step_counts), dict(rollout.step_excess)
    canary = baseline = 0
    per_server = replace(rollout.per_server, taken={**rollout.per_server.taken, **facts.taken})
    fresh = Evidence.start(rollout.plan.evidence_metrics, rollout.plan.max_duration_s)
    keyed = rollout.step_keyed
    for tick in facts.ticks:
        keyed = _with_keyed(keyed, tick)
        evidence = evidence.taken(tick)
        per_server = per_server.with_tick(tick, fresh)
        canary += max((count.requests for count in tick.canary.values()), default=0)
        baseline += max((count.requests for count in tick.baseline.values()), default=0)
        counts |= {metric: counts.get(metric, _NONE).plus(count) for metric, count in tick.canary.items()}
        for stratum in tick.strata:
            for metric, value in stratum.dispersion.items():
                bad = stratum.canary_count(metric).bad
                excess[metric] = excess.get(metric, 0.0) + (value - 1.0) * bad
    if facts.shadow.requests:
        evidence = evidence.taken(Tick.unkeyed(0.0, {DISAGREEMENT: facts.shadow}, {}, 1))
    return replace(
        rollout,
        evidence=evidence,
        per_server=per_server,
        step_requests=rollout.step_requests + canary,
        step_baseline=rollout.step_baseline + baseline,
        step_keyed=keyed,
        step_counts=counts,
        step_excess=excess,
        silent_s=0.0 if canary else rollout.silent_s + facts.seconds,
        baseline_silent_s=0.0 if baseline else rollout.baseline_silent_s + facts.seconds,
        rivals=max(rollout.rivals, facts.rivals),
        history=rollout.history or (facts.history if rollout.state in STEPPING or rollout.promoted else ""),
    )


def _with_keyed(keyed: tuple[int, int], tick: Tick) -> tuple[int, int]:
    """Adds a tick to the requests with a key, of the canary and of the arm that it is compared with."""
    canary, baseline = (
        sum(max((units.total.requests for units in arm.values()), default=0) for arm in arms)
        for arms in ([s.keyed_canary for s in tick.strata], [s.keyed_baseline for s in tick.strata])
    )
    return keyed[0] + canary, keyed[1] + baseline


def _pending(rollout: Rollout, _: Facts) -> Moved:
    text = f"waits until {rollout.candidate} is ready and the baseline's latency is known"
    return enter(rollout, _S.VALIDATING, text)


def _validating(rollout: Rollout, facts: Facts) -> Moved:
    # Stalls are part of every plan, but a plan that is otherwise only about errors must not wait for latencies.
    if any(name != STALLED for name in rollout.plan.timed) and facts.thresholds is None:
        if rollout.in_state_s <= rollout.plan.validating_s:
            return rollout, ()
        why = (
            f"only {facts.samples} of the {rollout.plan.threshold_samples} requests that latency thresholds need were "
            f"seen in {rollout.in_state_s:.0f} s; if {rollout.previous} is broken and {rollout.candidate} its fix, "
            "roll it out with --from-broken"
        )
        if (held := _insufficient(rollout, why)) is not None:
            return held
    if rollout.plan.shadow is not None:
        return enter(rollout, _S.SHADOWING, f"{share_text(rollout.plan.shadow.rate)} of the requests are copied")
    return begin_step(_fixed(rollout, facts), facts.analysis, 0, rollout.plan.validating_s)


def _shadowing(rollout: Rollout, facts: Facts) -> Moved:
    stage = rollout.plan.shadow
    assert stage is not None
    if rollout.in_state_s < stage.duration_s:
        return rollout, ()
    longest = 4 * stage.duration_s + 60.0
    first_step = partial(begin_step, _fixed(rollout, facts), facts.analysis, 0, longest)
    if facts.incomparable:
        return _insufficient(rollout, facts.incomparable) or first_step()
    known = rollout.evidence.accumulators[DISAGREEMENT].canary
    fit = rollout.evidence.fit(DISAGREEMENT) >= 1 / rollout.plan.beta
    if known.requests >= stage.min_samples and fit:
        return first_step()
    if rollout.in_state_s <= longest:
        return rollout, ()
    why = (
        f"{known.requests} copies were compared in {rollout.in_state_s:.0f} s and {known.bad} disagreed, "
        f"which does not show an agreement of {share_text(stage.agreement)}"
    )
    if facts.uncounted:
        why = f"{why}; {facts.uncounted}"
    return _insufficient(rollout, why) or first_step()


def _ramping(rollout: Rollout, facts: Facts) -> Moved:
    if not facts.in_force:
        return rollout, ()
    fixed = fresh_step(_fixed(rollout, facts))
    return enter(fixed, _S.SOAKING, f"{share_text(rollout.canary_weight)} of the traffic goes to {rollout.candidate}")


def _soaking(rollout: Rollout, _: Facts) -> Moved:
    if rollout.step_s < rollout.plan.steps[rollout.step].soak_s:
        return rollout, ()
    return enter(rollout, _S.DECIDING, "the soak is over")


def _deciding(rollout: Rollout, facts: Facts) -> Moved:
    longest = rollout.plan.deadline(rollout.plan.steps[rollout.step])
    if missing := unseen(rollout):
        if rollout.step_s <= longest:
            return rollout, ()
        if (held := _insufficient(rollout, f"after {rollout.step_s:.0f} s {' and '.join(missing)}")) is not None:
            return held
    if missing := unmeasured(rollout):
        if rollout.step_s <= longest:
            return rollout, ()
        # Regardless of `on_insufficient`: if a probe could not be asked, the rollout neither promotes nor rolls back.
        return pause(rollout, Pause("insufficient", f"after {rollout.step_s:.0f} s {' and '.join(missing)}"))
    return begin_step(rollout, facts.analysis, rollout.step + 1, longest)


def _promoting(rollout: Rollout, facts: Facts) -> Moved:
    if not facts.in_force:
        return rollout, ()
    if rollout.plan.watch_s == 0:
        return _succeed(replace(rollout, finishing=True), facts)
    kept = f"{rollout.previous}, which keeps {share_text(rollout.plan.holdback)}"
    return enter(fresh_step(rollout), _S.WATCHING, f"watched for {rollout.plan.watch_s:.0f} s beside {kept}")


def _watching(rollout: Rollout, facts: Facts) -> Moved:
    if rollout.in_state_s < rollout.plan.watch_s:
        return rollout, ()
    if not rollout.finishing:
        return moved(rollout, finishing=True), ()
    if not facts.in_force and rollout.in_state_s > rollout.plan.watch_s + rollout.plan.max_pause_s:
        return abort(rollout, f"its end could not be put in force for {rollout.plan.max_pause_s:.0f} s")
    return _succeed(rollout, facts)


def _succeed(rollout: Rollout, facts: Facts) -> Moved:
    if not facts.in_force:
        return rollout, ()
    text = f"{rollout.candidate} is the baseline: {counts_text(rollout)}"
    return enter(replace(rollout, verdict=text), _S.SUCCEEDED, text)


def _aborting(rollout: Rollout, facts: Facts) -> Moved:
    after = replace(rollout, in_state_s=rollout.in_state_s + facts.seconds)
    if facts.in_force:
        has = f"plain requests: {facts.traffic}" if facts.traffic else f"{rollout.previous} has all of the traffic"
        return enter(after, rollout.end, f"{has}: {rollout.verdict}")
    if after.in_state_s > _ABORT_SECONDS and not rollout.pauses:
        why = facts.refused or "the state store does not answer"
        late = Pause("refused", f"the rollback is not recorded yet: {why}")
        return moved(after, pauses=(late,)), (RolloutHistoryEntry("pause", late.reason),)
    return after, ()


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
    """Returns the consequence of a deadline that passed before there was enough traffic; None to continue."""
    match rollout.plan.on_insufficient:
        case "abort":
            return abort(rollout, why)
        case "promote":
            return None
        case _:
            return pause(rollout, Pause("insufficient", why))


def _fixed(rollout: Rollout, facts: Facts) -> Rollout:
    """Returns the rollout with present thresholds; with its previous ones if nothing is known."""
    if facts.thresholds is None:
        return rollout
    return replace(rollout, thresholds=dict(facts.thresholds), shortest_timeout=facts.shortest_timeout)
