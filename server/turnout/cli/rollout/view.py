"""Shows rollouts as tables, sentences and JSON."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from turnout.cli.messages import message_body
from turnout.cli.output import facts, table
from turnout.cli.rollout.follow import FINAL
from turnout.cli.rollout.probe_view import measured_table
from turnout.text.quantities import number_text
from turnout.text.shares import share_text
from turnout.web.report.explain import Finding, RolloutExplanation, status_sentence
from turnout.web.report.formatting import duration_text
from turnout.web.report.replay import Replay
from turnout_proto.v1 import rollout_pb2 as pb

STYLES: Mapping[str, str] = {
    "succeeded": "bold green",
    "rolled_back": "bold red",
    "failed": "bold red",
    "aborting": "bold red",
    "unreadable": "bold red",
}
"""Rich styles of states."""

_EVENTS_SHOWN = 10
_FINDING = (
    "name", "meaning", "canary_bad", "canary_requests", "baseline_bad", "baseline_requests", "ratio", "allowed",
    "e_value", "weight", "fit_value", "fit_below", "fit", "proof",
)  # fmt: skip
"""Fields of a finding in the JSON form of an explanation."""


def sentence(rollout: pb.Rollout) -> str:
    """Returns the state of a rollout in one sentence."""
    if rollout.state == "unreadable":
        return rollout.verdict
    verdict = f": {rollout.verdict}" if rollout.verdict else ""
    which = f"{rollout.model} {rollout.candidate} over {rollout.previous}"
    return f"{which}, attempt {rollout.attempt}, epoch {rollout.epoch}: {status_sentence(rollout)}{verdict}"


def overview(rollouts: Sequence[pb.Rollout]) -> Iterator[RenderableType]:
    """Yields a table with a row for each model's rollout, then a line for each that is paused or cannot be read."""
    columns = ("MODEL", "CANDIDATE", "OVER", "ATTEMPT", "STATE", "STEP", "WEIGHT", "EVIDENCE")
    rows = [
        (
            r.model, r.candidate, r.previous, str(r.attempt), state_text(r), f"{r.step}/{r.steps}",
            share_text(round(r.weight, 4)), f"{number_text(r.e_value)}/{number_text(r.threshold)}",
        )
        for r in rollouts
    ]  # fmt: skip
    yield table(columns, rows, right=("ATTEMPT", "WEIGHT"), whole=columns[3:])
    for r in rollouts:
        if why := r.verdict if r.state == "unreadable" else "; ".join(r.pauses):
            yield Text(f"{r.model}: {why}")


def history_rows(rollouts: Sequence[pb.Rollout]) -> Iterator[Sequence[RenderableType]]:
    """Yields a row for each attempt, with its verdict without the numbers."""
    for r in rollouts:
        when = r.started_at.ToDatetime().strftime("%Y-%m-%d %H:%M:%S")
        took = duration_text((r.changed_at.ToDatetime() - r.started_at.ToDatetime()).total_seconds())
        verdict = re.split(r" \(|: ", r.verdict)[0]  # `explain` shows the numbers too, which would fill the table
        yield str(r.attempt), when, took, r.candidate, r.previous, state_text(r), verdict, r.actor, r.reason


def state_text(rollout: pb.Rollout) -> Text:
    """Returns the state in its colour."""
    paused = rollout.pauses and rollout.state != "aborting"
    style = "bold yellow" if paused else STYLES.get(rollout.state, "")
    return Text(rollout.state.replace("_", " ") + (", paused" if paused else ""), style)


def status_lines(rollout: pb.Rollout) -> Iterator[RenderableType]:
    """Yields the lines and tables that show the status of a rollout."""
    if rollout.state == "unreadable":
        yield Text(sentence(rollout), STYLES["failed"])
        return
    yield Text.assemble(
        (f"{rollout.model} {rollout.candidate}", "bold"), f" over {rollout.previous}  attempt {rollout.attempt}, "
        f"epoch {rollout.epoch}  ", state_text(rollout),
    )  # fmt: skip
    pairs: list[tuple[str, RenderableType]] = [
        ("step", f"{rollout.step} of {rollout.steps}: {plan_steps(rollout)}"),
        ("weight", share_text(round(rollout.weight, 4))),
        (
            "evidence",
            f"{number_text(rollout.e_value)} that it is worse; rolled back at {number_text(rollout.threshold)}",
        ),
    ]
    if rollout.state not in FINAL:
        soak = f"{duration_text(rollout.step_seconds)} of at least {duration_text(rollout.soak_seconds)}"
        pairs.insert(2, ("time in it", soak))
    pairs += [("paused", why) for why in rollout.pauses]
    pairs += [("lacking", what) for what in rollout.lacking]
    if rollout.verdict:
        pairs.append(("verdict", rollout.verdict))
    by, why = rollout.actor or "an unnamed caller", f": {rollout.reason}" if rollout.reason else ""
    pairs.append(("started", f"{rollout.started_at.ToDatetime():%Y-%m-%d %H:%M:%S} UTC by {by}{why}"))
    yield facts(pairs)
    yield table(("METRIC", "CANDIDATE", "PREVIOUS", "EVIDENCE"), (_metric_row(m) for m in rollout.metrics))
    if rollout.probes:
        yield measured_table(rollout.probes)
    if rollout.events:
        yield Text("latest", "bold")
        yield events_table(rollout.events[-_EVENTS_SHOWN:])


def plan_steps(rollout: pb.Rollout) -> str:
    """Returns a plan's steps as text, such as `1% 5m, 5% 10m after a gate`."""
    steps = json.loads(rollout.plan_json or "{}").get("steps", [])
    return ", ".join(
        f"{share_text(s['weight'])} {duration_text(s['soak_s'])}{' after a gate' if s['gate'] else ''}" for s in steps
    )


def events_table(events: Sequence[pb.RolloutEvent]) -> RenderableType:
    """Returns a table with a row for each event."""
    rows = [(f"{e.time.ToDatetime():%H:%M:%S}", Text(e.kind, STYLES.get(e.kind, "")), _text(e)) for e in events]
    return table(("", "", ""), rows)


def event_line(rollout: pb.Rollout, event: pb.RolloutEvent) -> str:
    """Returns an event on one line, as for logs."""
    return (
        f"{event.time.ToDatetime():%Y-%m-%dT%H:%M:%SZ} {rollout.model} {rollout.candidate} {event.kind}: {_text(event)}"
    )


def explanation_lines(explanation: RolloutExplanation, rollout: pb.Rollout) -> Iterator[RenderableType]:
    """Yields the lines and tables of an explanation."""
    yield Text(explanation.title, "bold")
    status = explanation.status_sentence
    yield Text(f"{status[:1].upper()}{status[1:]}.", STYLES.get(rollout.state, ""))
    if explanation.verdict:
        yield Text.assemble(("Verdict: ", "bold"), explanation.verdict + ".")
    yield ""
    yield Text(f"Is {rollout.candidate} worse than {rollout.previous}?", "bold")
    columns = ("METRIC", rollout.candidate, rollout.previous, "RATIO", "ALLOWED", "EVIDENCE", "WEIGHT")
    rows = [
        (
            f.name, f.canary_text, f.baseline_text, f.ratio_text, f"{f.allowed:g}x", number_text(f.e_value),
            f"{f.weight:.2g}",
        )
        for f in explanation.findings
    ]  # fmt: skip
    combined = Text(f"{number_text(explanation.e_value)} of {number_text(explanation.threshold)}", "bold")
    yield table(columns, [*rows, (Text("combined", "bold"), "", "", "", "", combined, "")], right=columns[3:])
    yield from (Text(line) for line in explanation.reading)
    yield ""
    yield Text(
        f"Is it fit to be promoted? (each metric needs evidence of {number_text(explanation.fit_threshold)})", "bold"
    )
    proofs = [
        (f.name, f.meaning, f"{f.fit_below:g}x", number_text(f.fit_value), _proof(f)) for f in explanation.findings
    ]
    yield table(("METRIC", "BAD MEANS", "BELOW", "EVIDENCE", ""), proofs, right=("BELOW", "EVIDENCE"))
    if explanation.lacking:
        yield ""
        yield Text("Lacking", "bold")
        yield from (Text(f"- {line}") for line in explanation.lacking)
    yield ""
    yield Text("What happens next", "bold")
    yield from (Text(line) for line in explanation.following)


def rollout_body(rollout: pb.Rollout) -> dict[str, Any]:
    """Returns the JSON form of a rollout."""
    body = message_body(rollout, null=("verdict", "threshold_seconds", "outcome", "value", "detail", "lacking"))
    return body | {"plan": json.loads(body.pop("plan_json") or "{}"), "final": rollout.state in FINAL}


def explanation_body(explanation: RolloutExplanation, replay: Replay) -> dict[str, Any]:
    """Returns the JSON form of an explanation."""
    return {
        "rollout": rollout_body(replay.rollout),
        "standing": explanation.status_sentence,
        "verdict": explanation.verdict or None,
        "e_value": explanation.e_value,
        "threshold": explanation.threshold,
        "peak": explanation.peak,
        "fit_threshold": explanation.fit_threshold,
        "metrics": [{name: getattr(finding, name) for name in _FINDING} for finding in explanation.findings],
        "reading": list(explanation.reading),
        "lacking": list(explanation.lacking),
        "following": list(explanation.following),
    }


def bar(e_value: float, threshold: float, width: int) -> Text:
    """Returns evidence between 1 and the threshold as a bar on a logarithmic scale."""
    reached = 0.0 if e_value <= 1 else min(math.log(e_value) / math.log(threshold), 1.0) if threshold > 1 else 1.0
    full = width if reached >= 1 else int(reached * width)
    style = "bold red" if reached >= 1 else "yellow" if reached > 0.5 else "green"
    return Text.assemble(("█" * full, style), ("░" * (width - full), "dim"), ("┃", "bold"))


def _metric_row(metric: pb.RolloutMetric) -> Sequence[RenderableType]:
    other = "" if metric.name == "disagreement" else f"{metric.baseline_bad:,}/{metric.baseline_requests:,}"
    return metric.name, f"{metric.canary_bad:,}/{metric.canary_requests:,}", other, number_text(metric.e_value)


def _proof(finding: Finding) -> Text:
    return Text(finding.proof, "green" if finding.fit else "yellow")


def _text(event: pb.RolloutEvent) -> str:
    return event.text + (f" ({event.actor})" if event.actor else "")
