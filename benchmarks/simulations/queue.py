"""Canaries whose requests wait for one another: a run that takes long makes all that come after it slow.

Each arm has a queue of its own and one runner, as a twin has. What is bad comes in runs, and to count its requests as
independent draws rolls back every second version that does not differ.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from turnout.rollout.evidence import Count, Evidence, Stratum, Tick, latency
from turnout.rollout.evidence.serial import InSequence, RecentSequences

ALPHA = 0.01
TICK_SECONDS = 5.0
_METRICS = (latency("p99", 1 / 3), latency("p95", 1 / 3), latency("p90", 1 / 3))
_QUANTILES = {"p90": 0.90, "p95": 0.95, "p99": 0.99}

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Service:
    """How long runs take.

    Attributes:
        median: Seconds, of a lognormal with sigma 0.3.
        long: Share of the runs that take longer.
        extra: Seconds that those take besides.
    """

    median: float = 0.002
    long: float = 0.0
    extra: float = 0.0


@dataclass(frozen=True)
class QueueCase:
    """One row.

    Attributes:
        name, kind: As of `evidence.Case`.
        baseline, canary: How long runs take.
        rates: Requests a second, of the canary and of the twin.
        expected: Minutes to detection, median; None for a null, and where nothing is asked.
    """

    name: str
    kind: str
    baseline: Service
    canary: Service | None = None
    rates: tuple[float, float] = (50.0, 50.0)
    expected: float | None = None


def queue_cases() -> Iterator[QueueCase]:
    """The rows: what does not differ, and what does."""
    yield QueueCase("queue: no difference, all runs alike", "null", Service())
    yield QueueCase("queue: no difference, one run in 1,000 takes 0.2 s", "null", Service(0.002, 0.001, 0.2))
    yield QueueCase("queue: no difference, one run in 500 takes 0.5 s", "null", Service(0.002, 0.002, 0.5))
    yield QueueCase("queue: no difference, one run in 2,000 takes 2 s", "null", Service(0.002, 0.0005, 2.0))
    yield QueueCase("queue: no difference, busy to 60 %", "null", Service(0.01), rates=(60.0, 60.0))
    yield QueueCase(
        "queue: no difference, one run in 500 takes 0.3 s, 5 % weight, no twin", "null",
        Service(0.002, 0.002, 0.3), rates=(5.0, 95.0),
    )  # fmt: skip
    yield QueueCase("queue: all runs 1.5 times as long", "detect", Service(), Service(0.003), expected=0.3)
    yield QueueCase(
        "queue: all runs 1.5 times as long, one in 1,000 takes 0.2 s", "detect",
        Service(0.002, 0.001, 0.2), Service(0.003, 0.001, 0.2), expected=0.3,
    )  # fmt: skip
    yield QueueCase(
        "queue: one run in 100 takes 0.2 s, where one in 1,000 did", "detect",
        Service(0.002, 0.001, 0.2), Service(0.002, 0.01, 0.2), expected=3.0,
    )  # fmt: skip


def queue_rollback(case: QueueCase, rng: np.random.Generator, hours: float = 2.0) -> float | None:
    """Returns the minute in which one simulated canary is rolled back; None where it never is."""
    _, before = _served(rng, case.baseline, case.rates[1], 1800.0)
    limits = {name: float(np.quantile(before[-4096:], q)) for name, q in _QUANTILES.items()}
    seconds = hours * 3600
    arms = [
        _by_tick(*_served(rng, service, rate, seconds), limits, round(seconds / TICK_SECONDS))
        for service, rate in zip((case.canary or case.baseline, case.baseline), case.rates, strict=True)
    ]
    evidence, recent = Evidence.start(_METRICS, seconds), RecentSequences[int]()
    for number, (canary, baseline) in enumerate(zip(*arms, strict=True), start=1):
        counts = [{name: Count(one.requests, one.bad) for name, one in arm.items()} for arm in (canary, baseline)]
        stratum = Stratum("", counts[0], counts[1], dispersion=recent.take(number * TICK_SECONDS, 0, canary, baseline))
        evidence = evidence.taken(Tick(TICK_SECONDS, (stratum,)))
        if evidence.worse(ALPHA):
            return number * TICK_SECONDS / 60
    return None


def _served(rng: np.random.Generator, service: Service, rate: float, seconds: float) -> tuple[Floats, Floats]:
    """Returns arrivals at one runner, which takes them in turn, and the seconds until each was answered."""
    count = int(rng.poisson(rate * seconds))
    arrived = np.sort(rng.uniform(0.0, seconds, count))
    took = service.median * np.exp(rng.normal(0.0, 0.3, count)) + service.extra * (rng.random(count) < service.long)
    busy = np.cumsum(took)
    ended = busy + np.maximum.accumulate(arrived - (busy - took))  # Lindley 1952
    return arrived, ended - arrived


def _by_tick(
    arrived: Floats, latencies: Floats, limits: Mapping[str, float], ticks: int
) -> Iterator[dict[str, InSequence]]:
    """Returns the requests of each tick in the order in which they ended, which is that in which they came."""
    columns = {name: sequences(arrived, latencies > limit, ticks) for name, limit in limits.items()}
    for one in zip(*columns.values(), strict=True):
        yield dict(zip(columns, one, strict=True))


def sequences(arrived: Floats, bad: NDArray[np.bool_], ticks: int) -> list[InSequence]:
    """Returns the sequence of each tick of one arm, whose requests end in the order in which they come.

    Args:
        arrived: When each request came, in seconds, ascending.
        bad: Whether it was bad.
        ticks: Number of ticks.
    """
    number, index = (arrived // TICK_SECONDS).astype(np.int64), np.arange(len(bad))
    first = bad & ~np.concatenate([[False], bad[:-1]])
    began = np.maximum.accumulate(np.where(first, index, 0))
    longer = np.where(bad, 2 * (index - began) + 1, 0)  # (n + 1)^2 - n^2
    columns = [np.bincount(number, one, ticks).astype(int).tolist() for one in (np.ones(len(bad)), bad, first, longer)]
    return [InSequence(*one) for one in zip(*columns, strict=True)]
