"""Shows the disagreements of a shadow as tables and JSON."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from turnout.cli.messages import message_body
from turnout.cli.output import facts, table
from turnout.cli.serve.inputs import array_body, dtype_name, summary
from turnout.text.shares import share_text
from turnout_proto import tensors
from turnout_proto.v1 import traffic_pb2 as pb

_COMPARED = ("agreed", "disagreed")
"""Outcomes of copies that the shadow answered. All others have no answer that could be compared."""


def report_lines(report: pb.ShadowReport) -> Iterator[RenderableType]:
    """Yields the lines and tables of one shadow's report."""
    yield Text.assemble((report.version, "bold"), " as a shadow of ", (report.baseline, "bold"), f"  ({report.state})")
    total = sum(report.outcomes.values())
    answered = sum(report.outcomes.get(outcome, 0) for outcome in _COMPARED)
    agreement = "nothing was compared yet"
    if report.HasField("agreement"):
        agreement = f"{share_text(report.agreement)} of {answered:,} copies that {report.version} answered"
    noise = f"{report.noise_disagreements:,} of {report.noise_runs:,} runs" if report.noise_runs else "not seen yet"
    pairs: list[tuple[str, RenderableType]] = [
        ("agreement", agreement),
        ("copies", _counts(report.outcomes) or "none yet"),
        ("baseline's own noise", noise),
    ]
    if total > answered:
        share = share_text(round((total - answered) / total, 4))
        pairs.insert(1, ("not answered", Text(f"{total - answered:,} of {total:,} copies, {share}", "bold red")))
    if report.dropped:
        pairs.insert(-1, ("dropped", _counts(report.dropped)))
    yield facts(pairs)
    if report.outputs:
        columns = ("OUTPUT", "COMPARED", "MISMATCHES", "MAX DIFF", "MEAN DIFF", "TOP-1", "TOP-K")
        rows = [
            (
                output.name, f"{output.compared:,}", _counts(output.mismatches) or "0", f"{output.max_abs:.3g}",
                f"{output.mean_abs:.3g}", share_text(output.top1) if output.HasField("top1") else "",
                share_text(output.top_k) if output.HasField("top_k") else "",
            )
            for output in report.outputs
        ]  # fmt: skip
        yield table(columns, rows, right=("COMPARED", "MAX DIFF", "MEAN DIFF", "TOP-1", "TOP-K"))
    if report.worst:
        rows = [
            (
                one.request_id, one.output, one.kind, "" if math.isnan(one.max_abs) else f"{one.max_abs:.3g}",
                f"{one.margin:.3g}" if one.HasField("margin") else "", one.detail, _inputs(one),
            )
            for one in report.worst
        ]  # fmt: skip
        yield Text(f"the worst {len(report.worst)}", "bold")
        yield table(("REQUEST", "OUTPUT", "KIND", "MAX DIFF", "MARGIN", "WHAT", ""), rows, right=("MAX DIFF", "MARGIN"))


def report_body(report: pb.ShadowReport) -> dict[str, Any]:
    """Returns the JSON form of one shadow's report."""
    body = message_body(report, without=("measured", "ranked", "severity", "inputs"))
    for entry, one in zip(body["worst"], report.worst, strict=True):
        entry["inputs"] = {tensor.name: array_body(tensors.decode(tensor)) for tensor in one.inputs}
    return body


def _inputs(one: pb.Disagreement) -> str:
    arrays = ((tensor.name, tensors.decode(tensor)) for tensor in one.inputs)
    return "; ".join(f"{name} {dtype_name(array)}{list(array.shape)} {summary(array)}" for name, array in arrays)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
