"""Metric families of one scrape, independent of any output format. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from turnout.telemetry.histogram import Histogram
from turnout.telemetry.ratios import Ratio, ShadowAgreement

Labels = Mapping[str, str]

Value = float | Histogram | Ratio | ShadowAgreement
"""The value of a series."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family at the moment of a scrape.

    Attributes:
        name: Full name, `_total` included for counters.
        kind: Prometheus metric type.
        series: Labels and value of each series. It is iterated only once, and counts may change during the iteration.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    series: Iterable[tuple[Labels, Value]]
