"""The effects of probe measurements and of the confirm webhook's answers on a rollout. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from turnout.rollout.machine.attempt import Moved, Pause, Rollout, RolloutHistoryEntry, moved
from turnout.rollout.machine.confirmation import Confirmation, Reply
from turnout.rollout.machine.measurements import NOT_ASKED, Measurement, ProbeOutcome, ProbeRecord
from turnout.rollout.machine.overrides import pause, step_to
from turnout.text.shares import share_text


@dataclass(frozen=True, slots=True)
class ConfirmAnswer:
    """One answer of the confirm webhook.

    Attributes:
        step: Number of the step in question, as in `Confirmation.step`.
    """

    step: int
    reply: Reply
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Analysis:
    """Answers of external systems since the last tick.

    Attributes:
        measurements: Measurements of probes, oldest first.
        confirms: Whether a webhook confirms steps.
    """

    measurements: Sequence[Measurement] = ()
    confirms: bool = False
    answer: ConfirmAnswer | None = None


NO_ANALYSIS = Analysis()
"""The analysis of a server that has no external systems to ask."""


def analysed(rollout: Rollout, analysis: Analysis) -> Moved:
    """Returns the rollout with the answers since the last tick, and entries for its history.

    Answers are recorded even if the rollout is paused, so that nothing is asked twice.
    """
    events: list[RolloutHistoryEntry] = []
    for one in analysis.measurements:
        if one.stage != rollout.stage or one.probe not in rollout.asked_probes:
            continue  # asked in another step, so it does not apply to this one
        before = rollout.probes.get(one.probe, NOT_ASKED)
        after = before.taken(one)
        rollout = replace(rollout, probes={**rollout.probes, one.probe: after})
        if text := _measurement_text(one, before, after):
            events.append(RolloutHistoryEntry("probe", text))
    if analysis.answer is not None:
        rollout, entries = _answered(rollout, analysis.answer)
        events += entries
    return rollout, tuple(events)


def rollback_cause(rollout: Rollout) -> tuple[str, str] | None:
    """Returns what rolls the candidate back, `probe` or `webhook`, and why; None if nothing does."""
    for name in rollout.asked_probes:
        record = rollout.probes.get(name, NOT_ASKED)
        if record.has_failed:
            limit = record.limits.failure_limit
            last = f", the last: {record.detail}" if record.outcome is ProbeOutcome.FAILED else ""
            return "probe", f"probe {name} failed {record.failed} times in this step ({limit} allowed){last}"
    asked = rollout.confirmation
    if asked is not None and asked.reply is Reply.ROLLBACK:
        return "webhook", f"the confirm webhook asked for a rollback: {asked.reason}"
    return None


def unmeasured(rollout: Rollout) -> list[str]:
    """Returns the probes that prevent the step from being passed, and why, as sentences."""
    records = {name: rollout.probes.get(name, NOT_ASKED) for name in rollout.asked_probes}
    return [f"probe {name}: {record.lacking}" for name, record in records.items() if record.lacking]


def unconfirmed(rollout: Rollout) -> list[str]:
    """Returns which answer of the confirm webhook is still missing, as a sentence; nothing if it is not asked."""
    asked = rollout.confirmation
    if asked is None or asked.reply is not Reply.WAITING:
        return []
    tries = f", asked {asked.tries} times: {asked.reason}" if asked.tries else ""
    return [f"the confirm webhook has not answered whether {_what(rollout, asked.step)} may begin{tries}"]


def begin_step(rollout: Rollout, analysis: Analysis, number: int, longest: float) -> Moved:
    """Returns the rollout in its next step, promoted, or waiting for the webhook's confirmation.

    The rollout meets all other conditions for the step `number`, which is the number of steps for promotion. It waits
    at most `longest` active seconds for an answer.
    """
    if not analysis.confirms:
        return step_to(rollout, number)
    asked = rollout.confirmation
    if asked is None or asked.step != number:
        after = moved(rollout, confirmation=Confirmation(number))
        return after, (
            RolloutHistoryEntry("confirm", f"asks the confirm webhook whether {_what(rollout, number)} may begin"),
        )
    if asked.reply is Reply.GO:
        return step_to(rollout, number)
    if asked.reply is Reply.VETO:
        return pause(rollout, _veto(rollout, asked))
    if asked.waited_s > longest:
        return pause(rollout, Pause("insufficient", unconfirmed(rollout)[0]))
    return rollout, ()


def _answered(rollout: Rollout, answer: ConfirmAnswer) -> Moved:
    asked = rollout.confirmation
    if asked is None or asked.step != answer.step or asked.reply is not Reply.WAITING:
        return rollout, ()
    what = _what(rollout, asked.step)
    after = replace(asked, reply=answer.reply, reason=answer.reason, tries=asked.tries + 1)
    if answer.reply is Reply.GO:
        return moved(rollout, confirmation=after), (
            RolloutHistoryEntry("confirm", f"the confirm webhook lets {what} begin"),
        )
    if answer.reply is Reply.VETO:
        return pause(replace(rollout, confirmation=after), _veto(rollout, after))
    text = f"the confirm webhook said neither yes nor no to {what}, and is asked again: {answer.reason}"
    events = (
        (RolloutHistoryEntry("confirm", text),)
        if answer.reply is Reply.WAITING and answer.reason != asked.reason
        else ()
    )
    return replace(rollout, confirmation=after), events


def _veto(rollout: Rollout, asked: Confirmation) -> Pause:
    return Pause("veto", f"the confirm webhook vetoes {_what(rollout, asked.step)}: {asked.reason}")


def _measurement_text(one: Measurement, before: ProbeRecord, after: ProbeRecord) -> str:
    """Returns the history's text for a measurement; "" if it is not notable."""
    match one.outcome:
        case ProbeOutcome.FAILED:
            counts = f"{after.failed} in this step, {one.limits.failure_limit} allowed"
            return f"probe {one.probe} failed: {one.detail} ({counts})"
        case ProbeOutcome.INCONCLUSIVE if before.outcome is not ProbeOutcome.INCONCLUSIVE:
            return f"probe {one.probe} is inconclusive, neither pass nor fail: {one.detail}"
        case ProbeOutcome.PASSED if before.outcome is ProbeOutcome.INCONCLUSIVE:
            return f"probe {one.probe} answers again, and passes: {one.value}"
        case _:
            return ""


def _what(rollout: Rollout, number: int) -> str:
    steps = rollout.plan.steps
    if number >= len(steps):
        return "the promotion"
    return f"step {number + 1} of {len(steps)} ({share_text(steps[number].weight)})"
