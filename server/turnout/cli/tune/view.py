"""Shows the findings of `turnout tune`."""

from collections.abc import Iterator, Mapping

from rich.console import RenderableType

from turnout.cli.output import table
from turnout.serving.tuning.comparison import ENDS, End, Findings, Result
from turnout.text.quantities import seconds_text

_SOURCES = {
    "golden": "its golden cases, one row per request",
    "captured": "the captured inputs",
    "made up": "synthetic inputs, because it has no golden case; real inputs may take more or less time (--inputs)",
}


def findings_view(
    findings: Findings, source: str, in_flight: int, tomls: Mapping[End, str], file: str | None
) -> Iterator[RenderableType]:
    """Yields the table of results, and the recommended settings.

    Args:
        findings: The results.
        source: Source of the inputs, a key of `_SOURCES`.
        in_flight: Number of requests in flight while throughput was measured.
        tomls: Recommended settings by goal; "" if there is nothing to change.
        file: File that --write would change; "" if there is none, None if --write was given.
    """
    yield f"Inputs: {_SOURCES[source]}."
    yield ""
    columns = ("SETTINGS", f"REQUESTS/S AT {in_flight}", "GAIN", "P50 AT 1", "P99 AT 1", "GAIN")
    rows = [_row(findings.present), *map(_row, findings.candidates)]
    rows += [_row(result, " (again)") for result in findings.again]
    yield table(columns, rows, right=columns[1:], whole=columns[1:])
    if findings.skipped:
        yield f"Not tried, for lack of time: {findings.skipped} more (--seconds)."
    for end in ENDS:
        choice = findings.choice(end)
        yield ""
        settings = "keep the present settings" if choice.tuned == findings.present.tuned else choice.tuned
        yield f"For {end}: {settings}: {choice.why}."
        if tomls[end]:
            yield ""
            yield tomls[end].rstrip()
    if any(tomls.values()) and file is not None:
        yield ""
        yield (
            f"`--write throughput` or `--write latency` writes it to {file}."
            if file
            else "Copy it to your turnout.toml, or name the file with --config and use --write."
        )


def _row(result: Result, note: str = "") -> tuple[str, ...]:
    name = f"{result.tuned}{note}"
    if result.refused:
        return name, "-", result.refused, "-", "-", "-"
    ratios = [str(ratio) if ratio else "present" for ratio in (result.throughput, result.latency)]
    times = [seconds_text(result.latency_at(share)) for share in (0.5, 0.99)]
    return name, f"{result.rate:,.0f}", ratios[0], *times, ratios[1]
