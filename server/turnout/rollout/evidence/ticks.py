"""The counts of one tick for both arms, by metric, with keyed and unkeyed traffic and each server separate. Pure.

A canary is assigned slots, and a routing key always has the same slot. Requests with the same key are in the same arm
and so not independent. Keyed traffic is therefore counted by *unit*: an (arm, slot group) pair. A request without a key
is a unit by itself, so that sums are sufficient.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from turnout.registry.manifest.json_form import JsonForm, fields_from_json, fields_to_json
from turnout.rollout.evidence.packing import packed, single, unpacked
from turnout.rollout.evidence.serial import shared_fate

GROUPS = 512
"""Number of slot groups. The group of a slot is `slot % GROUPS`, since slots are uniform hashes already."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_FEW = 32
"""Number of groups up to which counts are written as plain JSON."""


@dataclass(frozen=True, slots=True)
class Count(JsonForm):
    """One arm's count of one metric in one tick.

    Attributes:
        requests: Requests admitted in the tick that the metric applies to.
        bad: Number of bad ones among them.
    """

    requests: int = 0
    bad: int = 0

    AS_LIST = True

    def plus(self, other: "Count") -> "Count":
        """Returns the sum."""
        return Count(self.requests + other.requests, self.bad + other.bad)

    @classmethod
    def from_json(cls, counted: Sequence[Any]) -> Self:
        """Parses the number of requests and of bad ones among them. Raises ValueError if they are not valid counts."""
        requests, bad = map(int, counted)
        if not 0 <= bad <= requests < 1 << 63:
            raise ValueError(f"expected requests and bad ones among them, got {requests} and {bad}")
        return cls(requests, bad)


NOTHING = Count()


class SameArrays:
    """Base class of dataclasses with array fields. Two values are equal if all fields are, element by element."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]  # arrays have no hash

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        names = [one.name for one in fields(self)]  # type: ignore[arg-type]  # its subclasses are dataclasses
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)


@dataclass(frozen=True, slots=True, eq=False)
class Units(SameArrays, JsonForm):
    """One arm's keyed traffic of one metric in one tick, by slot group.

    Attributes:
        requests, bad: As in `Count`; shape (GROUPS,), int64.
        expected: Expected bad events of each group: its requests times its share of bad events before the first step,
            in the same window for both arms, shrunk towards the mean; if nothing is known, its requests times the mean.
            The scale cancels within a stratum. Shape (GROUPS,), float64, rounded to single precision so that the
            recorded values are short and exact.
    """

    requests: Ints
    bad: Ints
    expected: Floats

    def __init__(self, requests: ArrayLike, bad: ArrayLike, expected: ArrayLike) -> None:
        """Converts the values to arrays.

        Raises:
            ValueError: The shapes or values are not valid for counts.
        """
        n, x = (np.asarray(given, np.int64) for given in (requests, bad))
        e = single(np.asarray(expected, np.float64))
        if not n.shape == x.shape == e.shape == (GROUPS,):
            raise ValueError(f"expected {GROUPS} groups, got shapes {n.shape}, {x.shape} and {e.shape}")
        if (x < 0).any() or (n < x).any() or not np.isfinite(e).all() or (e < 0).any():
            raise ValueError("expected requests, bad ones among them, and expectations of 0 or more")
        for name, value in (("requests", n), ("bad", x), ("expected", e)):
            object.__setattr__(self, name, value)

    @property
    def total(self) -> Count:
        """The sum over all groups."""
        return Count(int(self.requests.sum()), int(self.bad.sum()))

    def plus(self, other: "Units") -> "Units":
        """Returns the sum."""
        return Units(self.requests + other.requests, self.bad + other.bad, self.expected + other.expected)

    def to_json(self) -> str | list[list[Any]]:
        """Returns four columns for the groups that had requests: group, requests, bad ones, expected."""
        (some,) = np.nonzero(self.requests)
        columns = some, self.requests[some], self.bad[some], self.expected[some]
        return packed(*columns) if len(some) > _FEW else [column.tolist() for column in columns]

    @classmethod
    def from_json(cls, body: str | Sequence[Sequence[Any]]) -> Self:
        """Parses the output of `to_json`. Raises ValueError if it contains no valid counts."""
        columns: Sequence[Any] = unpacked(body, "iiif") if isinstance(body, str) else body
        groups, requests, bad, expected = columns
        found = np.zeros(GROUPS, np.int64), np.zeros(GROUPS, np.int64), np.zeros(GROUPS)
        try:
            for column, values in zip(found, (requests, bad, expected), strict=True):
                column[np.asarray(groups, np.int64)] = values
        except (IndexError, OverflowError) as error:
            raise ValueError(f"not the counts of {GROUPS} groups: {error}") from None
        return cls(*found)


Counts = Mapping[str, Count]
"""One arm's unkeyed counts by metric."""

UnitCounts = Mapping[str, Units]
"""One arm's keyed counts by metric."""


@dataclass(frozen=True, slots=True)
class Stratum(JsonForm):
    """One server's part of a tick. Arms are compared within it, so that differences between servers do not confound.

    Attributes:
        server: Name of the server; "" if there is only one.
        canary, baseline: Traffic without routing keys, by metric.
        keyed_canary, keyed_baseline: Traffic with routing keys, by metric.
        dispersion: By metric, how many times as much its bad events vary as independent ones, because requests
            at about the same time share their fate (`turnout.rollout.evidence.serial`); 1 for metrics not named.
    """

    server: str = ""
    canary: Counts = field(default_factory=dict)
    baseline: Counts = field(default_factory=dict)
    keyed_canary: UnitCounts = field(default_factory=dict)
    keyed_baseline: UnitCounts = field(default_factory=dict)
    dispersion: Mapping[str, float] = field(default_factory=dict)

    ADDED = ("server", "keyed_canary", "keyed_baseline", "dispersion")

    def __post_init__(self) -> None:
        if not all(1.0 <= value < math.inf for value in self.dispersion.values()):
            raise ValueError(f"expected dispersions of 1 or more, got {self.dispersion}")

    def to_json(self) -> dict[str, Any]:
        """Returns the form in which the state store keeps it, without what was added since if there is none."""
        return {name: part for name, part in fields_to_json(self).items() if part or name not in self.ADDED[1:]}

    def canary_count(self, metric: str) -> Count:
        """Returns the canary's count of a metric, keyed or not."""
        return _total([(self.canary, self.keyed_canary)], metric)

    def shared_fate(self, metric: str, batch: int) -> float:
        """Returns how many bad events of a metric count as one. Arguments as of `serial.shared_fate`."""
        return float(shared_fate(np.asarray(self.dispersion.get(metric, 1.0)), batch))


@dataclass(frozen=True, slots=True)
class Tick(JsonForm):
    """The counts of one tick, or of one part of it.

    Attributes:
        seconds: Active seconds that it covers; 0 for an addition to a tick that was already counted.
        strata: The parts, one for each server.
        largest_batch: Number of requests in the largest batch that ran.
    """

    seconds: float
    strata: tuple[Stratum, ...] = ()
    largest_batch: int = 1

    @classmethod
    def unkeyed(cls, seconds: float, canary: Counts, baseline: Counts, largest_batch: int = 1) -> Self:
        """Returns the tick of one server whose traffic has no routing keys."""
        return cls(seconds, (Stratum("", canary, baseline),), largest_batch)

    @property
    def canary(self) -> dict[str, Count]:
        """All of the canary's counts, keyed or not, by metric."""
        return _summed([(s.canary, s.keyed_canary) for s in self.strata])

    @property
    def baseline(self) -> dict[str, Count]:
        """All of the baseline's counts, keyed or not, by metric."""
        return _summed([(s.baseline, s.keyed_baseline) for s in self.strata])

    def counts(self, metric: str) -> tuple[Count, Count]:
        """Returns the canary's and the baseline's counts of a metric, keyed or not."""
        return (
            _total([(s.canary, s.keyed_canary) for s in self.strata], metric),
            _total([(s.baseline, s.keyed_baseline) for s in self.strata], metric),
        )

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """Parses the output of `to_json`, or an earlier release's, which was one server's sums.

        Raises:
            KeyError, TypeError, ValueError: The body is neither.
        """
        return fields_from_json(cls, {"strata": [body], **body})


def _summed(arms: Sequence[tuple[Counts, UnitCounts]]) -> dict[str, Count]:
    """Returns one arm's counts over all strata, keyed or not, by metric."""
    metrics = dict.fromkeys(metric for counts, units in arms for metric in (*counts, *units))
    return {metric: _total(arms, metric) for metric in metrics}


def _total(arms: Sequence[tuple[Counts, UnitCounts]], metric: str) -> Count:
    """Returns one arm's count of a metric over all strata, keyed or not."""
    found = [counts[metric] for counts, _ in arms if metric in counts]
    found += [units[metric].total for _, units in arms if metric in units]
    return found[0] if len(found) == 1 else Count(sum(c.requests for c in found), sum(c.bad for c in found))
