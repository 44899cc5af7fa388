"""Shows probes as tables: their measurements in a rollout, and their configuration."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from rich.console import RenderableType
from rich.text import Text

from turnout.cli.output import table
from turnout.web.report.formatting import duration_text
from turnout_proto.v1 import rollout_pb2 as pb

_STYLES = {"passed": "green", "failed": "bold red", "inconclusive": "yellow"}


def outcome_text(outcome: str) -> Text:
    """Returns a measurement's outcome in its colour."""
    return Text(outcome or "not asked yet", _STYLES.get(outcome, "dim"))


def measured_table(probes: Sequence[pb.RolloutProbe]) -> RenderableType:
    """Returns a table with a row for each probe of a rollout's current step."""
    rows = [
        (p.name, outcome_text(p.outcome), p.value, _age(p), f"{p.passed}/{p.failed}/{p.inconclusive}", p.detail)
        for p in probes
    ]
    return table(("PROBE", "LAST", "VALUE", "AGE", "PASSED/FAILED/NEITHER", ""), rows, right=("VALUE",))


def configured_table(probes: Sequence[pb.Probe]) -> RenderableType:
    """Returns a table with a row for each configured probe."""
    columns = ("PROBE", "ASKS", "PASSES", "EVERY", "ROLLED BACK AFTER", "PASSED AFTER")
    rows = [
        (
            p.name, p.kind, p.condition, duration_text(p.interval_seconds), f"{p.failure_limit + 1} that fail",
            f"{p.count} that pass{'es' if p.count == 1 else ''}",
        )
        for p in probes
    ]  # fmt: skip
    return table(columns, rows)


def tried_lines(name: str, response: pb.TryProbeResponse) -> Iterator[RenderableType]:
    """Yields the lines to print after trying a probe."""
    what = f": {response.detail}" if response.detail else ""
    value = f" {response.value}" if response.value else ""
    style = _STYLES.get(response.outcome, "")
    yield Text.assemble((name, "bold"), " ", (response.outcome, style), f"{value}{what}")
    baseline = response.baseline or "nothing"
    yield f"passes: {response.asked.condition}; the baseline is {baseline}; it took {duration_text(response.seconds)}"


def _age(probe: pb.RolloutProbe) -> str:
    if not probe.HasField("time"):
        return ""
    age = datetime.now(UTC) - probe.time.ToDatetime(UTC)
    return duration_text(float(max(round(age.total_seconds()), 0)))
