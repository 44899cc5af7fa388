"""Interventions in a rollout by an operator or by the state machine. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from turnout.errors import ChangeRefused
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
    refuse_final,
)
from turnout.rollout.machine.confirmation import Reply
from turnout.text.shares import share_text

_S = RolloutState


def pause(rollout: Rollout, why: Pause, *, by_hand: bool = False) -> Moved:
    """Returns the rollout paused for one more reason. A new reason replaces an earlier one of the same kind.

    Raises:
        ChangeRefused: An operator asks for it, and the rollout has ended or is being rolled back.
    """
    if by_hand:
        refuse_final(rollout)
        if rollout.state is _S.ABORTING:
            raise ChangeRefused(f"{rollout.candidate} is being rolled back, which cannot be stopped")
    pauses = (*(p for p in rollout.pauses if p.kind != why.kind), why)
    if pauses == rollout.pauses:
        return rollout, ()
    return moved(rollout, pauses=pauses), (RolloutHistoryEntry("pause", why.reason, why.actor),)


def resume(rollout: Rollout, actor: str, reason: str) -> Moved:
    """Returns the rollout resumed. A gate stays closed, since only `promote` opens it.

    Raises:
        ChangeRefused: The rollout is not paused, or only by a gate.
    """
    refuse_final(rollout)
    gates = tuple(p for p in rollout.pauses if p.kind == "gate")
    if gates == rollout.pauses:
        raise ChangeRefused(
            "it waits at a gate: promote opens it" if gates else f"the rollout of {rollout.candidate} is not paused"
        )
    # Deadlines that ran out start anew, so that resuming grants that time once more. If only the webhook's answer was
    # missing, only the webhook is asked again.
    asked = rollout.confirmation
    stage, soak = (0.0, 0.0) if asked is None else _least(rollout)
    after = moved(
        rollout,
        pauses=gates,
        in_state_s=min(rollout.in_state_s, stage),
        step_s=min(rollout.step_s, soak),
        idle_s=0.0,
        confirmation=asked if asked is not None and asked.reply is Reply.GO else None,
    )
    return after, (RolloutHistoryEntry("resume", reason or "resumed", actor),)


def _least(rollout: Rollout) -> tuple[float, float]:
    """Returns the minimum durations of the present state and the present step in active seconds."""
    shadow = rollout.plan.shadow if rollout.state is _S.SHADOWING else None
    return 0.0 if shadow is None else shadow.duration_s, rollout.plan.steps[rollout.step].soak_s


def promote(rollout: Rollout, actor: str, reason: str, *, full: bool) -> Moved:
    """Returns the rollout one step further, or promoted, regardless of the evidence, which continues to accumulate.

    Raises:
        ChangeRefused: The rollout has ended, or cannot be promoted any further.
    """
    refuse_final(rollout)
    if rollout.promoted or rollout.state is _S.ABORTING:
        raise ChangeRefused(f"the rollout of {rollout.candidate} is {rollout.state}: there is nothing to promote")
    events = RolloutHistoryEntry("promote_full" if full else "promote", reason or "promoted by hand", actor)
    held = replace(rollout, pauses=(), confirmation=None)
    if full:
        after, entries = enter(held, _S.PROMOTING, "promoted by hand, skipping the remaining steps")
    elif rollout.state in (_S.PENDING, _S.VALIDATING, _S.SHADOWING):
        after, entries = step_to(replace(held, passed_gate=0), 0)
    else:
        gated = any(p.kind == "gate" for p in rollout.pauses)
        following = rollout.step if gated and rollout.state is _S.RAMPING else rollout.step + 1
        after, entries = step_to(replace(held, passed_gate=following), following)
    return after, (events, *entries)


def set_weight(rollout: Rollout, weight: float, actor: str, reason: str) -> Moved:
    """Returns the rollout with another weight until its next step.

    Raises:
        ChangeRefused: It is not in a step.
    """
    refuse_final(rollout)
    if rollout.state not in STEPPING:
        raise ChangeRefused(f"the rollout of {rollout.candidate} is {rollout.state}: only a step has a weight")
    text = f"weight {share_text(weight)}{': ' + reason if reason else ''}"
    return moved(rollout, weight=weight), (RolloutHistoryEntry("set_weight", text, actor),)


def abort(
    rollout: Rollout,
    why: str,
    end: RolloutState = RolloutState.ROLLED_BACK,
    *,
    kind: str = "verdict",
    actor: str = "",
    cause: str = "",
) -> Moved:
    """Returns the rollout rolling back to the final state `end`. If it already is, its reason does not change.

    `kind` and `actor` as in `RolloutHistoryEntry`, `cause` as in `Rollout`.

    Raises:
        ChangeRefused: It has ended.
    """
    refuse_final(rollout)
    if rollout.state is _S.ABORTING:
        return rollout, ()
    if rollout.state is _S.PENDING:  # nothing was put into force for it, so it can end at once
        ended = moved(rollout, state=end, in_state_s=0.0, pauses=(), verdict=why, end=end, cause=cause)
        events = RolloutHistoryEntry(str(end), f"it had not begun: {why}", actor)
        return ended, (events,) if kind == str(end) else (RolloutHistoryEntry(kind, why, actor), events)
    after = moved(
        rollout,
        state=_S.ABORTING,
        in_state_s=0.0,
        pauses=(),
        held="",
        verdict=why,
        end=end,
        cause=cause,
        finishing=False,
        weight=None,
        confirmation=None,
    )
    return after, (
        RolloutHistoryEntry(kind, why, actor),
        RolloutHistoryEntry(str(_S.ABORTING), f"traffic goes back to {rollout.previous}"),
    )


def roll_back(rollout: Rollout, why: str, cause: str = "", end: RolloutState = RolloutState.ROLLED_BACK) -> Moved:
    """Returns the rollout rolling back because of how the candidate behaved. Arguments as of `abort`.

    If there is a cause, the candidate's release is withdrawn even if someone else released it, since ranges and
    `latest` must not reach such a version.
    """
    kind = cause if cause not in ("", "evidence") else "verdict"
    if end is RolloutState.SUPERSEDED:
        kind = "superseded"
    return abort(replace(rollout, released=rollout.released or bool(cause)), why, end, kind=kind, cause=cause)


def end_now(rollout: Rollout, why: str, end: RolloutState, text: str, *, kind: str, actor: str) -> Moved:
    """Returns the rollout ended. The caller must change its traffic in the same transaction.

    A rollout that was already being rolled back keeps its final state. Arguments as of `abort`; `text` describes who
    has its traffic from now on.
    """
    after, entries = abort(rollout, why, end, kind=kind, actor=actor)
    if after.state.final:
        return after, entries
    ended, last = enter(after, after.end, f"{text}: {after.verdict}")
    return ended, (*entries, *last)


def step_to(rollout: Rollout, number: int) -> Moved:
    """Returns the rollout at the beginning of a step, at its gate, or promoted if there is no further step."""
    if number >= len(rollout.plan.steps):
        return enter(rollout, _S.PROMOTING, f"{rollout.candidate} becomes the baseline")
    step, name = rollout.plan.steps[number], f"step {number + 1} of {len(rollout.plan.steps)}"
    if step.gate and rollout.passed_gate < number:
        return pause(rollout, Pause("gate", f"{name} ({share_text(step.weight)}) waits for an operator to promote"))
    text = f"{name}: {share_text(step.weight)}"
    return enter(replace(fresh_step(rollout), step=number, weight=None), _S.RAMPING, text)


def commands(actor: str, reason: str) -> Mapping[str, Callable[[Rollout], Moved]]:
    """Returns what an operator's commands do with a rollout, by the command's name. They raise ChangeRefused."""
    return {
        "pause": lambda r: pause(r, Pause("operator", reason or "paused by hand", actor), by_hand=True),
        "resume": lambda r: resume(r, actor, reason),
        "promote": lambda r: promote(r, actor, reason, full=False),
        "promote-full": lambda r: promote(r, actor, reason, full=True),
        "abort": lambda r: abort(r, reason or "aborted by hand", kind="abort", actor=actor),
    }
