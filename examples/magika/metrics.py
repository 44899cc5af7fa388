"""Reads the server's metrics as Prometheus does."""

import urllib.request
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families


class Scrape:
    """One scrape of `/metrics`."""

    def __init__(self, http: str) -> None:
        """Scrapes the server with the HTTP address `http`."""
        with urllib.request.urlopen(f"http://{http}/metrics", timeout=60) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        self._samples = [sample for family in families for sample in family.samples]

    def sum(self, name: str, **labels: str) -> float:
        """Returns the sum over the series of `name` that have `labels`; 0 if there are none."""
        return sum(s.value for s in self._samples if s.name == name and labels.items() <= s.labels.items())

    def by(self, name: str, label: str, **labels: str) -> Mapping[str, float]:
        """Returns the values of the series of `name` that have `labels`, by the value of `label`."""
        found = [s for s in self._samples if s.name == name and labels.items() <= s.labels.items()]
        return {s.labels[label]: s.value for s in found}

    def quantile(self, name: str, q: float, **labels: str) -> float:
        """Returns a quantile, interpolated linearly in cumulative buckets like Prometheus's histogram_quantile."""
        buckets: dict[float, float] = {}
        for bound, count in self._buckets(name, labels):
            buckets[bound] = buckets.get(bound, 0.0) + count
        rows = sorted(buckets.items())
        rank = q * rows[-1][1]
        low_bound, low_count = 0.0, 0.0
        for bound, count in rows:
            if count >= rank:
                if bound == float("inf") or count == low_count:
                    return low_bound
                return low_bound + (bound - low_bound) * (rank - low_count) / (count - low_count)
            low_bound, low_count = bound, count
        return low_bound

    def _buckets(self, name: str, labels: Mapping[str, str]) -> list[tuple[float, float]]:
        return [
            (float(s.labels["le"]), s.value)
            for s in self._samples
            if s.name == f"{name}_bucket" and labels.items() <= s.labels.items()
        ]
