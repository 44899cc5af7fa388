"""The Prometheus text format, rendered in slices so that a scrape never stalls the serving loop.

`prometheus_client.generate_latest` renders all in one go: 100 versions held the loop for 90 ms. Here the loop is given
back after every slice of lines (docs/decisions/0005-own-metrics.md).
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from turnout.telemetry.histogram import Histogram

Labels = Mapping[str, str]

_LINES_PER_SLICE = 400
"""About 0.3 ms of rendering on one core."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family at the moment of a scrape.

    Attributes:
        name: Full name, `_total` included for counters.
        kind: Prometheus's type.
        help: One sentence.
        series: Labels and value (a number, or a Histogram) of each series.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    series: Iterable[tuple[Labels, float | Histogram]]


async def render(families: Iterable[Family]) -> bytes:
    """Returns the text of `families`, giving the event loop back after every few hundred lines."""
    lines: list[str] = []
    since_pause = 0
    for family in families:
        lines.append(f"# HELP {family.name} {_escape_help(family.help)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for labels, value in list(family.series):
            before = len(lines)
            lines.extend(_series(family.name, labels, value))
            since_pause += len(lines) - before
            if since_pause >= _LINES_PER_SLICE:
                since_pause = 0
                await asyncio.sleep(0)
    lines.append("")
    return "\n".join(lines).encode()


def _series(name: str, labels: Labels, value: float | Histogram) -> Iterator[str]:
    text = ",".join(f'{key}="{_escape(label)}"' for key, label in labels.items())
    if not isinstance(value, Histogram):
        yield f"{name}{{{text}}} {_number(value)}" if text else f"{name} {_number(value)}"
        return
    comma = "," if text else ""
    cumulative = 0
    for bound, count in zip(_bound_texts(value.bounds), value.counts, strict=True):
        cumulative += count
        yield f'{name}_bucket{{{text}{comma}le="{bound}"}} {cumulative}'
    yield f"{name}_count{{{text}}} {cumulative}"
    yield f"{name}_sum{{{text}}} {_number(value.total)}"


def _bound_texts(bounds: Sequence[float]) -> list[str]:
    return [*map(repr, bounds), "+Inf"]


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


def _escape(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _escape_help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")
