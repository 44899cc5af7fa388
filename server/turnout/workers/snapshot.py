"""Encodes a worker's metrics for the supervisor.

The text format for metrics is not used, because merging needs the parts of ratios and non-cumulative buckets. The
encoding has one line of JSON for each slice of a metric family, so that encoding does not block the event loop.
"""

import asyncio
import math
from collections.abc import Iterable
from typing import Any

import orjson

from turnout.telemetry.families import Family, Labels, Value
from turnout.telemetry.histogram import Exemplar, Histogram
from turnout.telemetry.ratios import Ratio, ShadowAgreement

_SERIES_PER_SLICE = 100
"""Number of series in a slice, which takes about 0.4 ms of CPU time to encode for histograms with 30 buckets."""


async def encode(families: Iterable[Family]) -> bytes:
    """Encodes families for `decode`, yielding to the event loop after each slice."""
    lines: list[bytes] = []
    for family in families:
        series = list(family.series)
        for start in range(0, max(len(series), 1), _SERIES_PER_SLICE):
            part = series[start : start + _SERIES_PER_SLICE]
            bounds = next((list(value.bounds) for _, value in part if isinstance(value, Histogram)), None)
            rows = [[labels, _packed(value)] for labels, value in part]
            lines.append(orjson.dumps([family.name, family.kind, family.help, bounds, rows]))
            await asyncio.sleep(0)
    return b"\n".join(lines)


def decode(snapshot: bytes) -> list[Family]:
    """Decodes a snapshot. The series of each family are in a list.

    Raises:
        ValueError: The bytes are not a snapshot.
    """
    families: dict[str, Family] = {}
    for line in snapshot.split(b"\n") if snapshot else ():
        name, kind, text, bounds, rows = orjson.loads(line)
        series: list[tuple[Labels, Value]] = [(labels, _unpacked(packed, bounds)) for labels, packed in rows]
        before = families.get(name)
        families[name] = Family(name, kind, text, [*before.series, *series] if before is not None else series)
    return list(families.values())


def _packed(value: Value) -> Any:
    if isinstance(value, Histogram):
        examples = {str(bucket): list(example) for bucket, example in (value.exemplars or {}).items()}
        return {"counts": value.counts, "total": value.total, "examples": examples}
    if isinstance(value, Ratio | ShadowAgreement):
        return [type(value).__name__, *value]
    return value if math.isfinite(value) else str(value)  # JSON has no infinity


def _unpacked(packed: Any, bounds: Any) -> Value:
    if isinstance(packed, dict):
        histogram = Histogram(tuple(bounds))
        histogram.counts, histogram.total = packed["counts"], packed["total"]
        histogram.exemplars = {int(bucket): Exemplar(*one) for bucket, one in packed["examples"].items()} or None
        return histogram
    if isinstance(packed, list):
        return Ratio(*packed[1:]) if packed[0] == Ratio.__name__ else ShadowAgreement(*packed[1:])
    return float(packed) if isinstance(packed, str) else packed
