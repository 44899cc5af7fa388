"""Converts the process metrics of prometheus-client's collectors to families. Pure."""

from collections.abc import Iterable, Iterator
from typing import Any

from turnout.telemetry.families import Family


def own_families(metrics: Iterable[Any]) -> Iterator[Family]:
    """Returns the process metrics of prometheus-client's collectors as families."""
    for metric in metrics:
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        series = [(sample.labels, sample.value) for sample in metric.samples if sample.name == name]
        yield Family(name, metric.type, metric.documentation, series)
