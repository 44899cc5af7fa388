"""Canaries whose requests are bad in bursts: all requests of a burst, or only a share of them.

A noisy neighbor, a full queue that refuses every other request, or one of two runners makes requests bad that are not
consecutive. And a candidate that crashes once a minute must be found next to a baseline with single errors.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from simulations.queue import ALPHA, TICK_SECONDS, sequences
from turnout.rollout.evidence import ERRORS, Count, Evidence, Stratum, Tick, errors
from turnout.rollout.evidence.serial import InSequence, RecentSequences

BETA = 0.05
RATE = 50.0
_METRICS = (errors(1 / 3),)
"""The weight that errors have in a default plan."""


@dataclass(frozen=True)
class Bursts:
    """When an arm's requests are bad.

    Attributes:
        every: Mean seconds between the ends and the beginnings of two bursts; infinite for none.
        seconds: Duration of a burst.
        share: Share of the requests that are bad in a burst.
        otherwise: Share of the requests that are bad at other times.
        regular: Whether bursts come at fixed intervals.
        late: Seconds until the first burst may begin.
        retries: Mean seconds until a request that fails is tried again in the same arm, for each of its retries.
        failing: Share of the requests that fail and are retried.
    """

    every: float = math.inf
    seconds: float = 0.0
    share: float = 1.0
    otherwise: float = 0.001
    regular: bool = False
    late: float = 0.0
    retries: tuple[float, ...] = ()
    failing: float = 0.0


@dataclass(frozen=True)
class BurstCase:
    """One row.

    Attributes:
        name, kind: As of `evidence.Case`.
        baseline, canary: When requests are bad; None for the canary means the same as for the baseline.
        expected: Minutes to detection, median; None for a null.
    """

    name: str
    kind: str
    baseline: Bursts
    canary: Bursts | None = None
    expected: float | None = None


def burst_cases() -> Iterator[BurstCase]:
    """The rows: what does not differ, and what does."""
    for every, seconds, share in ((120, 2, 1.0), (300, 5, 1.0), (120, 2, 0.5), (60, 0.4, 0.5), (300, 5, 0.2)):
        name = f"bursts: no difference, {share:.0%} of {seconds} s every {every} s"
        yield BurstCase(name, "null", Bursts(every, seconds, share))
    for share, retries in ((0.003, (0.1,) * 3), (0.003, (0.5,) * 3), (0.003, (1.0, 2.0, 4.0)), (0.0003, (0.1,) * 3)):
        name = f"bursts: no difference, {share:.2%} retried after {', '.join(map(str, retries))} s"
        yield BurstCase(name, "null", Bursts(otherwise=0.0, retries=retries, failing=share))
    single = Bursts()
    yield BurstCase("bursts: errors 0.1 % -> 1 %, single", "detect", single, Bursts(otherwise=0.01), 0.9)
    for every, seconds, expected in ((57, 3, 25.0), (25, 5, 10.0)):
        bursts = Bursts(every, seconds, regular=True)
        yield BurstCase(f"bursts: fails for {seconds} s of {every + seconds} s", "detect", single, bursts, expected)
    late = Bursts(every=0.0, seconds=math.inf, share=0.5, late=1800.0)
    yield BurstCase("bursts: fails half of its requests from minute 30 on", "detect", single, late, 30.5)


def burst_outcome(case: BurstCase, rng: np.random.Generator, hours: float = 2.0) -> tuple[float | None, bool]:
    """Returns the minute in which one simulated canary is rolled back, and whether it was shown to be fit before.

    The minute is None if it never is.
    """
    seconds = hours * 3600
    arms = [_by_tick(rng, bursts, seconds) for bursts in (case.canary or case.baseline, case.baseline)]
    evidence, recent, fit = Evidence.start(_METRICS, seconds), RecentSequences[int](), False
    for number, (canary, baseline) in enumerate(zip(*arms, strict=True), start=1):
        counts = [{ERRORS: Count(one.requests, one.bad)} for one in (canary, baseline)]
        dispersion = recent.take(number * TICK_SECONDS, 0, {ERRORS: canary}, {ERRORS: baseline})
        evidence = evidence.taken(Tick(TICK_SECONDS, (Stratum("", *counts, dispersion=dispersion),)))
        if evidence.worse(ALPHA):
            return number * TICK_SECONDS / 60, fit
        fit = fit or evidence.fit(ERRORS) >= 1 / BETA
    return None, fit


def burst_rollback(case: BurstCase, rng: np.random.Generator, hours: float = 2.0) -> float | None:
    """Returns the minute in which one simulated canary is rolled back; None if it never is."""
    return burst_outcome(case, rng, hours)[0]


def _by_tick(rng: np.random.Generator, bursts: Bursts, seconds: float) -> list[InSequence]:
    """Returns the requests of each tick."""
    arrived = np.sort(rng.uniform(0.0, seconds, int(rng.poisson(RATE * seconds))))
    bad = rng.random(len(arrived)) < bursts.otherwise
    for begins, ends in _times(rng, bursts, seconds):
        first, last = np.searchsorted(arrived, (begins, ends))
        bad[first:last] |= rng.random(last - first) < bursts.share
    if bursts.retries:
        tries = rng.uniform(0.0, seconds, (int(rng.poisson(RATE * seconds * bursts.failing)), 1))
        delays = rng.exponential(bursts.retries, (len(tries), len(bursts.retries)))
        tries = np.hstack([tries, tries + np.cumsum(delays, axis=1)]).ravel()
        tries = tries[tries < seconds]
        order = np.argsort(np.concatenate([arrived, tries]), kind="stable")
        arrived = np.concatenate([arrived, tries])[order]
        bad = np.concatenate([bad, np.ones(len(tries), np.bool_)])[order]
    return sequences(arrived, bad, round(seconds / TICK_SECONDS))


def _times(rng: np.random.Generator, bursts: Bursts, seconds: float) -> Iterator[tuple[float, float]]:
    now = bursts.late
    while True:
        now += bursts.every if bursts.regular or not math.isfinite(bursts.every) else rng.exponential(bursts.every)
        if now >= seconds:
            return
        yield now, now + bursts.seconds
        now += bursts.seconds
