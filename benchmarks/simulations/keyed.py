"""Simulates canaries whose requests have routing keys, many at a time, and evaluates them with the shipped evidence.

Each key has a Poisson rate (Zipf) and its own share of bad events (lognormal), and stays with the candidate, its twin,
or neither. The counts go to `turnout.rollout.evidence.keyed.KeyedTest`, which processes all runs of a case along a
leading axis. `tests/unit/evidence/test_rollout_keyed.py` checks that it agrees with `Evidence` for the same ticks.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from turnout.rollout.evidence import GAMMA_0, GROUPS, Metric, errors, latency
from turnout.rollout.evidence.keyed import KeyedTest
from turnout.rollout.evidence.ticks import Floats

ALPHA = 0.01
RATE = 50.0
HISTORY_SECONDS = 1800.0
_PRIOR = 2.0
"""Strength of the prior with which a unit's share of bad events is shrunk towards the mean, in events."""

Varying = Callable[[int], float]
"""A factor that depends on the tick."""


@dataclass(frozen=True)
class KeyedCase:
    """One row of the table.

    Attributes:
        name: Name of the row.
        kind: `null` if the candidate is not worse, so that any rollback is false; `detect` if it is worse.
        keys: Number of routing keys.
        sigma: Sigma of the lognormal factors by which the keys' shares of bad events differ.
        metric: The only metric, which has the whole weight.
        share: Average share of bad events.
        effect: Factor by which the candidate increases that share.
        weight: Weight of the canary and, if there is room, of its twin.
        heavy: Share of the traffic of an additional key; 0 for none.
        slow: Share of the traffic of an additional key with three times the highest share of bad events; 0 for none.
        batch: Number of requests that always have the same outcome.
        load: Factor of the traffic, by tick.
        grows: Successive weights of the canary and its twin; () for `weight` throughout.
        late: Share of the time after which the effect begins.
        history: Whether the keys' shares of bad events are known from before the rollout.
        zipf: Exponent of the keys' rates.
        twin: Whether the canary is compared with an equal part of the baseline, rather than with all of it.
        bursts: Probability that a unit fails 90 % of its requests in a tick, independently of the version.
        expected: Share rolled back and median minutes in the reference (decision 49); None if it is not there.
        tick: Length of a tick, in seconds.
    """

    name: str
    kind: str
    keys: int
    sigma: float
    metric: Metric
    share: float
    effect: float = 1.0
    weight: float = 0.25
    heavy: float = 0.0
    slow: float = 0.0
    batch: int = 1
    load: Varying = lambda _: 1.0
    grows: tuple[float, ...] = ()
    late: float = 0.0
    history: bool = True
    zipf: float = 0.8
    twin: bool = True
    bursts: float = 0.0
    expected: tuple[float, float] | None = None
    tick: float = 30.0


P90, ERROR = latency("p90", 1.0), errors(1.0)
SIZES = ((20, 1.0), (50, 0.0), (50, 1.0), (200, 0.5), (200, 1.0), (500, 0.5), (2000, 0.5), (5000, 0.0))
_TABLE = {
    (5000, 0.0): ((1.0, 2.5), (1.0, 4.0)), (2000, 0.5): ((0.94, 2.5), (0.96, 4.0)),
    (500, 0.5): ((0.78, 3.0), (0.87, 4.5)), (200, 1.0): ((0.42, 4.0), (0.49, 6.5)),
}  # fmt: skip
"""Share rolled back and median minutes for p90 x1.8 and errors x10, in the reference: the simulation with which the
first design was evaluated (decision 49)."""


def keyed_cases() -> Iterator[KeyedCase]:
    """Yields the rows of the reference, and cases that could deceive a weaker test."""
    for keys, sigma in SIZES:
        named = f"{keys:,} keys, sigma {sigma:g}"
        p90 = KeyedCase(f"p90: no difference, {named}", "null", keys, sigma, P90, 0.1)
        failing = KeyedCase(f"errors: no difference, {named}", "null", keys, sigma, ERROR, 0.001)
        for case in (p90, failing):
            yield case
            yield replace(case, name=case.name.replace("no difference", "exactly r0"), effect=case.metric.null)
    p90 = KeyedCase("", "null", 200, 1.0, P90, 0.1)
    for name, changed in {
        "200 keys, sigma 1, 5 % weight": {"weight": 0.05},
        "2,000 keys, sigma 0.5, 5 % weight": {"keys": 2000, "sigma": 0.5, "weight": 0.05},
        "500 alike and one heavy key (30 %)": {"keys": 500, "sigma": 0.0, "heavy": 0.3},
        "200 keys, sigma 1, one heavy key (30 %)": {"heavy": 0.3},
        "500 alike and one slow key": {"keys": 500, "sigma": 0.0, "slow": 0.005, "share": 0.003},
        "200 keys, sigma 0.5, batches of 8": {"sigma": 0.5, "batch": 8},
        "2,000 keys, sigma 0, batches of 8": {"keys": 2000, "sigma": 0.0, "batch": 8},
        "200 keys, sigma 0.5, load drifts tenfold": {"sigma": 0.5, "load": lambda tick: 10 ** math.sin(tick / 25)},
        "500 keys, sigma 0.5, weights 1 5 25 40 %": {"keys": 500, "sigma": 0.5, "grows": (0.01, 0.05, 0.25, 0.4)},
        "200 keys, sigma 1, no history": {"history": False},
        "200 keys alike in rate, sigma 1": {"zipf": 0.0},
        "500 keys, sigma 2": {"keys": 500, "sigma": 2.0},
        "200 keys, sigma 1, ticks of 5 s": {"tick": 5.0},
        "500 keys, sigma 0.5, 5 % weight, no twin": {"keys": 500, "sigma": 0.5, "weight": 0.05, "twin": False},
        "500 keys, sigma 0.5, keys fail in bursts": {"keys": 500, "sigma": 0.5, "share": 0.003, "bursts": 0.0002},
    }.items():
        case = replace(p90, name=f"p90: no difference, {name}", **changed)  # type: ignore[arg-type] # mixed types
        yield case
        yield replace(case, name=f"p90: exactly r0, {name}", effect=case.metric.null)
    for (keys, sigma), (as_slow, as_failing) in _TABLE.items():
        named = f"{keys:,} keys, sigma {sigma:g}"
        yield KeyedCase(f"p90 exceedances x1.8, {named}", "detect", keys, sigma, P90, 0.1, 1.8, expected=as_slow)
        yield KeyedCase(f"errors 0.1 % x10, {named}", "detect", keys, sigma, ERROR, 0.001, 10.0, expected=as_failing)
    yield KeyedCase("p90 exceedances x1.8, 50 keys, sigma 1", "detect", 50, 1.0, P90, 0.1, 1.8)
    yield KeyedCase(
        "p90 exceedances x1.8 after an hour, 500 keys, sigma 0.5", "detect", 500, 0.5, P90, 0.1, 1.8, late=0.5
    )
    yield KeyedCase(
        "p90 exceedances x1.8, 500 keys, one heavy key (30 %)", "detect", 500, 0.5, P90, 0.1, 1.8, heavy=0.3
    )


@dataclass(frozen=True)
class Outcome:
    """The results of the runs of a case. All arrays have the shape (runs,).

    Attributes:
        minutes: Minutes until the candidate was rolled back; NaN if it was not.
        units: Number of effective units of the smaller arm at the end.
        evidence: Combined evidence at the end. A simulation ends early once all runs are rolled back.
    """

    minutes: Floats
    units: Floats
    evidence: Floats


class Population:
    """The keys of many runs, with the rates of requests and bad events of each unit; shape (runs, 2, groups)."""

    def __init__(self, case: KeyedCase, runs: int, rng: np.random.Generator) -> None:
        """Draws the keys and their fixed places, which decide whether a key is in the canary at a given weight."""
        self._twin = case.twin
        rate = np.tile(1 / np.arange(1, case.keys + 1) ** case.zipf, (runs, 1))
        rate *= RATE / rate.sum(1, keepdims=True)
        factor = np.exp(rng.normal(0, case.sigma, rate.shape))
        factor /= (factor * rate).sum(1, keepdims=True) / RATE
        for more, times in ((case.heavy, 1.0), (case.slow, 3.0)):
            if more:
                rate = np.column_stack([rate * (1 - more), np.full(runs, RATE * more)])
                factor = np.column_stack([factor, times * factor.max(1) if times > 1 else np.ones(runs)])
        self._rate, self._bad = rate, rate * np.minimum(case.share * factor, 0.9)
        self._place, self._group = rng.random(rate.shape), rng.integers(0, GROUPS, rate.shape)
        self._history = self._shares(case, rng)

    def _shares(self, case: KeyedCase, rng: np.random.Generator) -> Floats:
        """Returns each key's share of bad events before the first step, shrunk towards the mean."""
        bad = rng.poisson(self._bad * HISTORY_SECONDS)
        requests = bad + rng.poisson((self._rate - self._bad) * HISTORY_SECONDS)
        mean = np.maximum(bad.sum(1) / requests.sum(1), 1e-6)[:, None]
        shares: Floats = (bad + _PRIOR) / (requests + _PRIOR / mean) if case.history else np.zeros(bad.shape) + mean
        return shares

    def units(self, weights: Sequence[float]) -> list[tuple[Floats, Floats, Floats]]:
        """Returns, for each weight, each unit's requests and bad events per second and earlier share of bad events.

        Groups without a key have no column. The columns of the two arms are different groups, since single groups are
        not compared.
        """
        found = [self._summed(weight) for weight in weights]
        active = np.any([requests > 0 for requests, _, _ in found], axis=0)
        columns = np.argsort(~active, axis=-1, kind="stable")[..., : int(active.sum(-1).max())]
        return [  # tuples of three arrays
            tuple(np.take_along_axis(one, columns, -1) for one in (n, x, e / np.maximum(n, 1e-300)))  # type: ignore[misc]
            for n, x, e in found
        ]

    def _summed(self, weight: float) -> list[Floats]:
        twin = min(weight, (1 - weight) / 2) if self._twin else 1 - weight
        arm = np.where(self._place < weight, 0, np.where(self._place >= 1 - twin, 1, 2))
        runs = len(arm)
        index = (np.arange(runs)[:, None] * 3 + arm) * GROUPS + self._group
        return [
            np.bincount(index.ravel(), one.ravel(), runs * 3 * GROUPS).astype(float).reshape(runs, 3, GROUPS)[:, :2]
            for one in (self._rate, self._bad, self._rate * self._history)
        ]


def simulated(case: KeyedCase, runs: int, seed: int, hours: float = 2.0) -> Outcome:
    """Simulates a case `runs` times at once."""
    rng = np.random.default_rng(seed)
    weights = case.grows or (case.weight,)
    stages = Population(case, runs, rng).units(weights)
    metric, ticks = case.metric, round(hours * 3600 / case.tick)
    mass = np.full((runs, len(metric.alternatives)), math.log(GAMMA_0))
    test = KeyedTest.start(metric.null, metric.alternatives, mass, stages[0][0].shape[-1])
    minutes, canary_bad, gamma = np.full(runs, np.nan), np.zeros(runs), (1 - GAMMA_0) / ticks
    for number in range(ticks):
        rates, bad_rates, shares = stages[number * len(stages) // ticks]
        seconds = case.tick * case.load(number)
        effect = np.array([case.effect if number >= case.late * ticks else 1.0, 1.0])[:, None]
        wrong = np.minimum(bad_rates * effect, rates)
        if case.bursts:
            wrong = np.where(rng.random(rates.shape) < case.bursts, 0.9 * rates, wrong)
        bad = case.batch * rng.poisson(wrong * seconds / case.batch).astype(float)
        requests = bad + rng.poisson((rates - wrong) * seconds)
        test = test.taken([(bad, requests * shares)], np.zeros(1), gamma, case.batch)
        canary_bad += bad[:, 0].sum(-1)
        evidence = np.where(canary_bad >= metric.floor, np.exp(np.minimum(test.log_m, 700.0)).mean(-1), 0.0)
        found = (evidence >= 1 / ALPHA) & np.isnan(minutes)
        minutes[found] = (number + 1) * case.tick / 60
        if not np.isnan(minutes).any():
            break
    return Outcome(minutes, test.units, evidence)


def keyed_row(case: KeyedCase, runs: int, seed: int, hours: float = 2.0, at_once: int = 50) -> dict[str, object]:
    """Simulates a case and returns its row. `at_once` runs share the arrays, which then fit into a CPU cache."""
    seeds = np.random.SeedSequence(seed).generate_state(-(-runs // at_once))
    sizes = [min(at_once, runs - start) for start in range(0, runs, at_once)]
    found = [simulated(case, size, int(one), hours) for one, size in zip(seeds, sizes, strict=True)]
    minutes, units = (np.concatenate([getattr(one, name) for one in found]) for name in ("minutes", "units"))
    back = minutes[~np.isnan(minutes)]
    median, p90, p99 = (round(float(np.quantile(back, q)), 1) if len(back) else None for q in (0.5, 0.9, 0.99))
    expected_ratio, expected_minutes = case.expected or (None, None)
    return {
        "case": case.name, "kind": case.kind, "keys": case.keys, "effective_units": round(float(np.median(units)), 1),
        "weight": max(case.grows or (case.weight,)), "rolled_back_ratio": len(back) / runs,
        "median_minutes": median, "p90_minutes": p90, "p99_minutes": p99,
        "expected_ratio": expected_ratio, "expected_median_minutes": expected_minutes,
    }  # fmt: skip
