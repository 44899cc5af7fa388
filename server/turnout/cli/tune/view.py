"""What `turnout tune` prints for people."""

from collections.abc import Iterator, Mapping

from rich.console import RenderableType

from turnout.cli.output import table
from turnout.serving.tuning.comparison import ENDS, End, Findings, Result

_SOURCES = {
    "golden": "its golden cases, a row a request",
    "captured": "the captured inputs, as they are",
    "made up": "made-up inputs: it has no golden case, and real ones may take longer or shorter (--inputs)",
}


def findings_view(
    findings: Findings, source: str, in_flight: int, tomls: Mapping[End, str], file: str | None
) -> Iterator[RenderableType]:
    """Yields the table, and what follows from it.

    Args:
        findings: What was tried.
        source: Where the inputs came from.
        in_flight: Requests at once where throughput was measured.
        tomls: What to set, by end; "" if that is nothing.
        file: Where it could be written; "" if there is no file, None if writing was asked for.
    """
    yield f"Inputs: {_SOURCES[source]}."
    yield ""
    columns = ("settings", f"requests/s at {in_flight}", "to present", "p50 at 1", "p99 at 1", "quicker")
    rows = [_row(findings.present), *map(_row, findings.candidates)]
    rows += [_row(result, " (once more)") for result in findings.again]
    yield table(columns, rows, right=columns[1:])
    if findings.skipped:
        yield f"Not tried for want of time: {findings.skipped} more (--seconds)."
    for end in ENDS:
        choice = findings.choice(end)
        yield ""
        yield f"For {end}: {choice.tuned}: {choice.why}."
        if tomls[end]:
            yield ""
            yield tomls[end].rstrip()
    if any(tomls.values()) and file is not None:
        yield ""
        yield (
            f"`--write throughput` or `--write latency` puts it into {file}."
            if file
            else "Put it into your turnout.toml, or name the file with --config and write it with --write."
        )


def _row(result: Result, note: str = "") -> tuple[str, ...]:
    name = f"{result.tuned}{note}"
    if result.refused:
        return name, "-", result.refused, "-", "-", "-"
    ratios = [str(ratio) if ratio else "present" for ratio in (result.throughput, result.latency)]
    times = [f"{result.latency_at(share) * 1e3:.3g} ms" for share in (0.5, 0.99)]
    return name, f"{result.rate:,.0f}", ratios[0], *times, ratios[1]
