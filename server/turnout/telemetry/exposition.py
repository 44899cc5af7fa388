"""The Prometheus text format and OpenMetrics, rendered in slices so that a scrape never stalls the serving loop.

`prometheus_client.generate_latest` renders all in one go: 100 versions held the loop for 90 ms. Here the loop is given
back after every slice of lines (docs/decisions/0004-own-metrics.md).
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from turnout.telemetry.histogram import Exemplar, Histogram
from turnout.telemetry.ratios import Agreement, Ratio

Labels = Mapping[str, str]

Value = float | Histogram | Ratio | Agreement
"""Of a series."""

_LINES_PER_SLICE = 400
"""About 0.3 ms of rendering on one core."""

_OPENMETRICS = "application/openmetrics-text"
_UNITS = ("seconds", "bytes", "ratio")


class Form(Enum):
    """How metrics are written; the value is the content type.

    OpenMetrics has all that the text format has under the same names, and exemplars besides.
    """

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = f"{_OPENMETRICS}; version=1.0.0; charset=utf-8"


def negotiate(accept: str) -> Form:
    """Returns the form that an Accept header asks for; the text format unless OpenMetrics is wanted as much.

    Args:
        accept: As it came; "" for none.
    """
    openmetrics = text = 0.0
    for item in accept.split(","):
        media, *parameters = (part.strip().lower() for part in item.split(";"))
        given = dict(part.split("=", 1) for part in parameters if "=" in part)
        quality = _quality(given.get("q", "1"))
        if media == _OPENMETRICS and given.get("version", "1.0.0").strip('"') == "1.0.0":
            openmetrics = max(openmetrics, quality)
        elif media in ("text/plain", "text/*", "*/*"):
            text = max(text, quality)
    return Form.OPENMETRICS if openmetrics and openmetrics >= text else Form.TEXT


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family at the moment of a scrape.

    Attributes:
        name: Full name, `_total` included for counters.
        kind: Prometheus's type.
        help: One sentence.
        series: Labels and value of each series.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    series: Iterable[tuple[Labels, Value]]


async def render(families: Iterable[Family], form: Form = Form.TEXT) -> bytes:
    """Returns the text of `families`, giving the event loop back after every few hundred lines.

    What OpenMetrics ends with, `# EOF`, is left to the caller, who may have more to say.
    """
    lines: list[str] = []
    since_pause = 0
    for family in families:
        lines.extend(_openmetrics_heading(family) if form is Form.OPENMETRICS else _heading(family))
        for labels, value in list(family.series):
            before = len(lines)
            lines.extend(_series(family.name, labels, value, exemplars=form is Form.OPENMETRICS))
            since_pause += len(lines) - before
            if since_pause >= _LINES_PER_SLICE:
                since_pause = 0
                await asyncio.sleep(0)
    lines.append("")
    return "\n".join(lines).encode()


def _heading(family: Family) -> Iterator[str]:
    yield f"# HELP {family.name} {_escape_help(family.help)}"
    yield f"# TYPE {family.name} {family.kind}"


def _openmetrics_heading(family: Family) -> Iterator[str]:
    """A counter's family goes by its name without `_total`; a unit is what the family's name ends with."""
    name = family.name.removesuffix("_total") if family.kind == "counter" else family.name
    yield f"# TYPE {name} {family.kind}"
    unit = name.rpartition("_")[2]
    if unit in _UNITS:
        yield f"# UNIT {name} {unit}"
    yield f"# HELP {name} {_escape(family.help)}"


def _series(name: str, labels: Labels, value: Value, *, exemplars: bool) -> Iterator[str]:
    text = ",".join(f'{key}="{_escape(label)}"' for key, label in labels.items())
    if not isinstance(value, Histogram):
        number = _number(value.value if isinstance(value, Ratio | Agreement) else value)
        yield f"{name}{{{text}}} {number}" if text else f"{name} {number}"
        return
    comma = "," if text else ""
    known = (value.exemplars or {}) if exemplars else {}
    cumulative = 0
    for index, (bound, count) in enumerate(zip(_bound_texts(value.bounds), value.counts, strict=True)):
        cumulative += count
        example = _exemplar(known[index]) if index in known else ""
        yield f'{name}_bucket{{{text}{comma}le="{bound}"}} {cumulative}{example}'
    yield f"{name}_count{{{text}}} {cumulative}"
    yield f"{name}_sum{{{text}}} {_number(value.total)}"


def _exemplar(exemplar: Exemplar) -> str:
    return f' # {{trace_id="{exemplar.trace_id}"}} {exemplar.value!r} {exemplar.time:.3f}'


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _bound_texts(bounds: Sequence[float]) -> list[str]:
    return [*map(repr, bounds), "+Inf"]


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


def _escape(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _escape_help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")
