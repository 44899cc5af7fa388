"""Adds up the counts of workers, so that no sum ever falls while their parent lives. Pure.

A worker's counter starts again at 0 when the worker restarts, or when the version that it counts for is loaded again.
Its earlier value stays in the sum, as Prometheus itself does with a counter that was reset.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from turnout.telemetry.families import Family, Labels, Value
from turnout.telemetry.histogram import Exemplar, Histogram
from turnout.telemetry.metrics.workers import WORKER
from turnout.telemetry.ratios import Ratio, ShadowAgreement
from turnout.workers.rules import STATES, Rule, rule_of

_SCRAPES_KEPT = 2
"""Scrapes for which the series of a version that left every worker are still shown, as a single worker does."""

Key = tuple[tuple[str, str], ...]
Series = dict[Key, tuple[Labels, Value]]


@dataclass(slots=True)
class _Snapshot:
    families: dict[str, Family]
    series: dict[str, Series]


@dataclass(slots=True)
class _Kept:
    """The last values of counters that were reset, by family."""

    series: dict[str, Series] = field(default_factory=dict)
    unseen: dict[tuple[str, Key], int] = field(default_factory=dict)


class Totals:
    """The counts of all workers, including those that died."""

    def __init__(self) -> None:
        self._snapshots: dict[str, _Snapshot] = {}
        self._kept = _Kept()
        self._kinds: dict[str, Family] = {}

    def update(self, worker: str, families: Iterable[Family]) -> None:
        """Takes a worker's present counts; the series of each family are read once."""
        now = _Snapshot({}, {})
        for family in families:
            now.families[family.name] = family
            now.series[family.name] = {_key(labels): (labels, value) for labels, value in family.series}
        before = self._snapshots.get(worker)
        if before is not None:
            self._keep_what_was_reset(before, now)
        self._snapshots[worker] = now

    def died(self, worker: str) -> None:
        """Notes that a worker is gone; its counts stay."""
        before = self._snapshots.pop(worker, None)
        if before is not None:
            self._keep_what_was_reset(before, _Snapshot({}, {}))

    def families(self, *, complete: bool) -> list[Family]:
        """Returns the sums.

        Args:
            complete: Every worker runs and has just sent its counts: a series that none of them has is gone.
        """
        if complete:
            self._forget()
        names = {name: family for snapshot in self._snapshots.values() for name, family in snapshot.families.items()}
        for name in self._kept.series:
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
        for source in (*sources, self._kept.series.get(name, {})):
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
                    kept = self._kept.series.setdefault(name, {})
                    values = [kept[key][1], value] if key in kept else [value]
                    kept[key] = labels, combined(Rule.SUM, values)

    def _forget(self) -> None:
        """Drops series of versions and models that no worker knows any more."""
        known = {
            subject
            for snapshot in self._snapshots.values()
            for series in snapshot.series.values()
            for labels, _ in series.values()
            for subject in _subjects(labels)
        }
        unseen: dict[tuple[str, Key], int] = {}
        for name, series in list(self._kept.series.items()):
            for key, (labels, _) in list(series.items()):
                if all(subject in known for subject in _subjects(labels)):
                    continue
                times = unseen[name, key] = self._kept.unseen.get((name, key), 0) + 1
                if times > _SCRAPES_KEPT:
                    del series[key], unseen[name, key]
            if not series:
                del self._kept.series[name]
        self._kept.unseen = unseen


def combined(rule: Rule, values: Sequence[Value]) -> Value:
    """Combines one or more values of a series into one."""
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
    """Adds up histograms; all of a family have the same buckets."""
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
    """Yields the model and the version of a series, which may disappear."""
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
