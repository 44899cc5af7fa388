"""Metric families of one scrape, independent of any output format, and recorders that declare theirs. Pure.

A recorder is a dataclass. A field that is declared with `counter`, `gauge` or `histogram` is a family. It has one
series, or one for each key of a mapping: the value of the label, or a tuple of them for several labels. None has no
series.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Literal

from turnout.telemetry.histogram import Histogram
from turnout.telemetry.ratios import Ratio, ShadowAgreement

Labels = Mapping[str, str]

Value = float | Histogram | Ratio | ShadowAgreement
"""The value of a series."""

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family at the moment of a scrape.

    Attributes:
        name: Full name, `_total` included for counters.
        kind: Prometheus metric type.
        series: Labels and value of each series. It is iterated only once, and counts may change during the iteration.
    """

    name: str
    kind: Kind
    help: str
    series: Iterable[tuple[Labels, Value]]


def counter(name: str, text: str, *labels: str, default: int | None = 0) -> Any:
    """Declares a field as a counter, with its help text: a `defaultdict(int)` if there are labels."""
    return _declared("counter", name, text, labels, partial(defaultdict, int) if labels else lambda: default)


def gauge(name: str, text: str, *labels: str, default: float | None = 0.0) -> Any:
    """Declares a field as a gauge, with its help text: a mapping if there are labels."""
    return _declared("gauge", name, text, labels, dict if labels else lambda: default)


def histogram(name: str, text: str, *labels: str) -> Any:
    """Declares a field as histograms by label, with their help text."""
    return _declared("histogram", name, text, labels, dict)


def _declared(kind: Kind, name: str, text: str, labels: tuple[str, ...], default: Any) -> Any:
    return field(default_factory=default, metadata={"family": Family(name, kind, text, ()), "labels": labels})


def families_of(recorders: Iterable[Any], kind: type, only: Kind | None = None, **instead: Any) -> Iterator[Family]:
    """Yields the families that a class of recorders declares, in the order of its fields.

    Args:
        recorders: Recorders of that class. If they have `labels`, all of their series have these too.
        kind: The class.
        only: The type of the families; None for all.
        instead: Values of fields that are shown in place of those of the recorders.
    """
    several = list(recorders)
    for one in fields(kind):
        family: Family | None = one.metadata.get("family")
        if family is not None and only in (None, family.kind):
            values = [(getattr(r, "labels", {}), instead.get(one.name, getattr(r, one.name))) for r in several]
            names = one.metadata["labels"]
            yield replace(family, series=[s for common, value in values for s in _series(common, names, value)])


def _series(common: Labels, names: tuple[str, ...], value: Any) -> Iterator[tuple[Labels, Value]]:
    if value is None:
        return
    for key, one in value.items() if names else [((), value)]:
        own = zip(names, key if isinstance(key, tuple) else (key,), strict=True)
        yield {**common, **dict(own)}, float(one) if isinstance(one, int) else one
