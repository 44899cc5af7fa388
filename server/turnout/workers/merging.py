"""Merges the metrics of workers so that no total ever decreases while the supervisor runs. Pure.

A worker's counter starts again at 0 when the worker restarts, or when the version that it counts for is reloaded. The
earlier value is kept in the total, in the same way as Prometheus handles counter resets.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from turnout.telemetry.families import Family, Labels, Value
from turnout.telemetry.histogram import Exemplar, Histogram
from turnout.telemetry.metrics.workers import WORKER
from turnout.telemetry.ratios import Ratio, ShadowAgreement
from turnout.workers.rules import STATES, Rule, rule_of

_SCRAPES_KEPT = 2
"""Number of scrapes for which the series of a version are still shown after it was removed from every worker. The same
applies to a server without workers."""

Key = tuple[tuple[str, str], ...]
Series = dict[Key, tuple[Labels, Value]]


@dataclass(slots=True)
class _Snapshot:
    families: dict[str, Family]
    series: dict[str, Series]


class Totals:
    """The merged metrics of all workers, including those that have ended."""

    def __init__(self) -> None:
        self._snapshots: dict[str, _Snapshot] = {}
        self._kept: dict[str, Series] = {}  # the last values of counters that were reset, by family
        self._unseen: dict[tuple[str, Key], int] = {}  # for how many scrapes no worker has known their version
        self._kinds: dict[str, Family] = {}

    def update(self, worker: str, families: Iterable[Family]) -> None:
        """Replaces a worker's metrics with its current ones. The series of each family are iterated once."""
        now = _Snapshot({}, {})
        for family in families:
            now.families[family.name] = family
            now.series[family.name] = {_key(labels): (labels, value) for labels, value in family.series}
        before = self._snapshots.get(worker)
        if before is not None:
            self._keep_what_was_reset(before, now)
        self._snapshots[worker] = now

    def died(self, worker: str) -> None:
        """Records that a worker has ended. Its counters remain in the totals."""
        before = self._snapshots.pop(worker, None)
        if before is not None:
            self._keep_what_was_reset(before, _Snapshot({}, {}))

    def families(self, *, complete: bool) -> list[Family]:
        """Returns the merged metric families. They are `complete` if every worker is running and has just sent its
        metrics, so that the series of a version that none of them knows can be dropped.
        """
        if complete:
            self._forget()
        names = {name: family for snapshot in self._snapshots.values() for name, family in snapshot.families.items()}
        for name in self._kept:
            names.setdefault(name, self._kinds[name])
        return [
            Family(name, family.kind, family.help, list(self._merged(name, family.kind)))
            for name, family in names.items()
        ]

    def _merged(self, name: str, kind: str) -> Iterator[tuple[Labels, Value]]:
        rule = rule_of(name, kind)
        if rule is Rule.EACH:
            for worker, snapshot in self._snapshots.items():
                for labels, value in snapshot.series.get(name, {}).values():
                    yield {**labels, WORKER: worker}, value
            return
        found: dict[Key, list[tuple[Labels, Value]]] = {}
        sources = [snapshot.series.get(name, {}) for snapshot in self._snapshots.values()]
        for source in (*sources, self._kept.get(name, {})):
            for key, one in source.items():
                found.setdefault(key, []).append(one)
        if rule is Rule.STATE:
            yield from _least_far(one for several in found.values() for one in several)
            return
        for several in found.values():
            labels = several[0][0]
            yield labels, combined(_for_device(rule, labels), [value for _, value in several])

    def _keep_what_was_reset(self, before: _Snapshot, now: _Snapshot) -> None:
        for name, family in before.families.items():
            if family.kind == "gauge" or rule_of(name, family.kind) is not Rule.SUM:
                continue
            later = now.series.get(name, {})
            for key, (labels, value) in before.series[name].items():
                if _count(value) and (key not in later or _fell(value, later[key][1])):
                    self._kinds[name] = Family(name, family.kind, family.help, ())
                    kept = self._kept.setdefault(name, {})
                    values = [kept[key][1], value] if key in kept else [value]
                    kept[key] = labels, combined(Rule.SUM, values)

    def _forget(self) -> None:
        """Drops the series of models and versions that no worker has known for some scrapes."""
        known = {
            subject
            for snapshot in self._snapshots.values()
            for series in snapshot.series.values()
            for labels, _ in series.values()
            for subject in _subjects(labels)
        }
        unseen: dict[tuple[str, Key], int] = {}
        for name, series in list(self._kept.items()):
            for key, (labels, _) in list(series.items()):
                if all(subject in known for subject in _subjects(labels)):
                    continue
                times = unseen[name, key] = self._unseen.get((name, key), 0) + 1
                if times > _SCRAPES_KEPT:
                    del series[key], unseen[name, key]
            if not series:
                del self._kept[name]
        self._unseen = unseen


def combined(rule: Rule, values: Sequence[Value]) -> Value:
    """Merges one or more values of a series into one."""
    first = values[0]
    if isinstance(first, Histogram):
        return _histogram([value for value in values if isinstance(value, Histogram)])
    if isinstance(first, Ratio):
        return Ratio(*map(sum, zip(*(v for v in values if isinstance(v, Ratio)), strict=True)))
    if isinstance(first, ShadowAgreement):
        return ShadowAgreement(*map(sum, zip(*(v for v in values if isinstance(v, ShadowAgreement)), strict=True)))
    numbers = [value for value in values if isinstance(value, int | float)]
    match rule:
        case Rule.MOST:
            return max(numbers)
        case Rule.LEAST:
            return min(numbers)
        case Rule.MEAN:
            return sum(numbers) / len(numbers)
        case _:
            return sum(numbers)


def _histogram(histograms: Sequence[Histogram]) -> Histogram:
    """Adds up histograms, which must have the same buckets. Keeps the latest exemplar of each bucket."""
    whole = Histogram(histograms[0].bounds)
    examples: dict[int, Exemplar] = {}
    for one in histograms:
        whole.counts = [a + b for a, b in zip(whole.counts, one.counts, strict=True)]
        whole.total += one.total
        for bucket, example in (one.exemplars or {}).items():
            if bucket not in examples or examples[bucket].time < example.time:
                examples[bucket] = example
    whole.exemplars = examples or None
    return whole


def _least_far(series: Iterable[tuple[Labels, Value]]) -> Iterator[tuple[Labels, Value]]:
    chosen: dict[Key, tuple[Labels, Value]] = {}
    for labels, value in series:
        subject = _key({name: text for name, text in labels.items() if name != "state"})
        if subject not in chosen or _worse(labels, chosen[subject][0]):
            chosen[subject] = labels, value
    yield from chosen.values()


def _worse(one: Labels, other: Labels) -> bool:
    ranks = {state: rank for rank, state in enumerate(STATES)}
    return ranks.get(one["state"], len(ranks)) > ranks.get(other["state"], len(ranks))


def _for_device(rule: Rule, labels: Labels) -> Rule:
    if rule is not Rule.DEVICE:
        return rule
    return Rule.SUM if labels.get("device") == "cpu" else Rule.MOST


def _key(labels: Mapping[str, str]) -> Key:
    return tuple(sorted(labels.items()))


def _subjects(labels: Labels) -> Iterator[tuple[str, Literal[""] | str]]:
    """Yields the model and the version that a series belongs to, if any. The version is "" for the model itself."""
    if model := labels.get("model"):
        yield model, ""
        if version := labels.get("version"):
            yield model, version


def _count(value: Value) -> float:
    if isinstance(value, Histogram):
        return float(sum(value.counts))
    return value.value if isinstance(value, Ratio | ShadowAgreement) else float(value)


def _fell(before: Value, after: Value) -> bool:
    if isinstance(before, Histogram) and isinstance(after, Histogram):
        return any(later < earlier for earlier, later in zip(before.counts, after.counts, strict=True))
    return _count(after) < _count(before)
