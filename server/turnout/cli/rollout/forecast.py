"""Shows what a rollout would do, and what it could detect, as tables and JSON."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from turnout.cli.messages import message_body
from turnout.cli.output import facts, table
from turnout.cli.rollout.probe_view import configured_table
from turnout.rollout.power import LEAST_ERROR_RATE
from turnout.text.quantities import number_text, rate_text
from turnout.text.shares import share_text
from turnout.web.report.formatting import duration_text
from turnout.web.report.replay import read_plan_json
from turnout_proto.v1 import rollout_pb2 as pb


def forecast_lines(response: pb.PlanRolloutResponse, model: str, version: str) -> Iterator[RenderableType]:
    """Yields the lines and tables that describe what a rollout would do."""
    plan = read_plan_json(response.plan_json)
    yield Text(f"{model}: {version} over {response.previous or 'nothing'}", "bold")
    yield from (Text.assemble(("refused: ", "bold red"), why) for why in response.refusals)
    yield ""
    yield Text("What would happen", "bold")
    rows: list[tuple[str, ...]] = []
    if (stage := plan.shadow) is not None:
        what = f"at least {stage.min_samples:,} copies compared, {share_text(stage.agreement)} of them agree"
        rows.append(("shadow", f"{share_text(stage.rate)} copied", duration_text(stage.duration_s), "", what))
    for number, step in enumerate(plan.steps, start=1):
        what = f"at least {plan.min_requests:,} requests of the candidate"
        if number == len(plan.steps):
            what += ", and evidence that it is fit"
        gate = "waits for `promote`" if step.gate else ""
        rows.append((f"step {number}", share_text(step.weight), duration_text(step.soak_s), gate, what))
    if plan.watch_s:
        share = share_text(round(1 - plan.holdback, 4))
        kept = f"{response.previous} keeps {share_text(plan.holdback)} to compare with"
        rows.append(("watch", share, duration_text(plan.watch_s), "", kept))
    yield table(("STAGE", "WEIGHT", "AT LEAST", "GATE", "GOES ON AFTER"), rows)
    yield ""
    yield Text("What is compared", "bold")
    metrics = [
        (
            m.name, f"{m.weight:.2g}", f"{m.null:g}" + ("" if m.one_armed else "x"),
            ", ".join(f"{r:g}" for r in m.alternatives), f"{m.good_null:g}x",
        )
        for m in plan.evidence_metrics
    ]  # fmt: skip
    columns = ("METRIC", "WEIGHT", "NOT WORSE UP TO", "SHARPEST AT", "FIT BELOW")
    yield table(columns, metrics, right=("WEIGHT", "NOT WORSE UP TO", "FIT BELOW"))
    yield ""
    if response.probes:
        yield Text("What is measured outside", "bold")
        yield configured_table(response.probes)
        yield ""
    if response.confirms:
        yield "Each step, and promotion, waits for the confirm webhook."
        yield ""
    yield facts(
        (
            ("rolled back at", f"combined evidence of {number_text(1 / plan.alpha)} (alpha {plan.alpha:g})"),
            ("promoted at", f"evidence of {number_text(1 / plan.beta)} of each metric (beta {plan.beta:g})"),
            ("too little evidence", f"{plan.on_insufficient} at a stage's deadline (on_insufficient)"),
            ("another one runs", f"{plan.on_newer} (on_newer)"),
            ("ends by itself", f"after {duration_text(plan.max_duration_s)} of active time"),
            ("plan", response.plan_digest),
        )
    )
    yield ""
    least = response.error_rate <= LEAST_ERROR_RATE
    fails = f"{number_text(response.error_rate * 100)}%{' (the least that is assumed)' if least else ''}"
    rate = rate_text(response.requests_per_second)
    yield Text(f"What it could detect, at {rate} requests a second of which the baseline fails {fails}", "bold")
    effects = [d.effect for d in response.power[0].detections] if response.power else []
    yield table(("", "WEIGHT", "SOAK", *(e.upper() for e in effects)), map(_power_row, response.power))
    if response.power:
        yield Text("Expected time to detect each effect. ✓: the step is long enough; ✗: it is not.", "dim")
    yield from (Text(what, "yellow") for what in response.missed)


def forecast_body(response: pb.PlanRolloutResponse, model: str, version: str) -> dict[str, Any]:
    """Returns the JSON form of what a rollout would do."""
    body = message_body(response, null=("previous",))
    for power in body["power"]:
        for detection in power["detections"]:
            detection["fits"] = detection["seconds"] <= power["soak_seconds"]
    plan = json.loads(body.pop("plan_json"))
    return {"model": model, "version": version, "plan": plan, **body}


def _power_row(power: pb.RolloutPower) -> Sequence[RenderableType]:
    weight, soak = share_text(round(power.weight, 4)), power.soak_seconds
    return f"step {power.step}", weight, duration_text(soak), *(_seen(found, soak) for found in power.detections)


def _seen(detection: pb.RolloutDetection, soak: float) -> Text:
    fits = detection.seconds <= soak
    return Text(f"{duration_text(detection.seconds)} {'✓' if fits else '✗'}", "green" if fits else "yellow")
