"""How soon a bad candidate is detected, and how often a good one is rolled back: recomputes the table in EVIDENCE.md.

`python benchmarks/evidence.py [--runs N] [--json] [--only TEXT]` simulates canaries tick by tick, without routing keys
and with them (`simulations/keyed.py`), with requests that queue (`simulations/queue.py`), or with requests that are bad
in bursts (`simulations/bursts.py`). All decisions are made by the shipped code, `turnout.rollout.evidence`.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from simulations.bursts import BurstCase, burst_cases, burst_rollback
from simulations.keyed import KeyedCase, keyed_cases, keyed_row
from simulations.queue import QueueCase, queue_cases, queue_rollback
from turnout.rollout.evidence import ERRORS, Count, Evidence, Metric, Tick, errors, latency

ALPHA = 0.01
TICK_SECONDS = 5.0
RATE = 50.0
WEIGHT = 0.05
HOURS = 2.0
COMBINED = (errors(0.4), latency("p99", 0.2), latency("p95", 0.2), latency("p90", 0.2))
"""The metrics and weights of the table. A default plan has stalls as well."""


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        name: Name of the row in the table.
        kind: `null` if the candidate is not worse, so that any rollback is false; `detect` if it is worse.
        canary, baseline: Probability of a bad event, by metric. The bad events of the latency metrics are nested.
        expected: Median minutes to detection in the table; None for `null`.
        metrics: The metrics of the plan.
        weight: Weight of the canary, by tick.
        load: Requests per second, by tick.
        batch: Number of requests that always have the same outcome.
    """

    name: str
    kind: str
    canary: Mapping[str, float]
    baseline: Mapping[str, float]
    expected: float | None = None
    metrics: tuple[Metric, ...] = COMBINED
    weight: Callable[[int], float] = lambda _: WEIGHT
    load: Callable[[int], float] = lambda _: RATE
    batch: int = 1


def slower(by: float, sigma: float) -> dict[str, float]:
    """Returns the probabilities that lognormal latencies, `by` times slower, exceed the baseline's p90, p95 and p99."""
    normal = NormalDist()
    return {
        name: 1 - normal.cdf(normal.inv_cdf(q) - math.log(by) / sigma)
        for name, q in (("p90", 0.90), ("p95", 0.95), ("p99", 0.99))
    }


def cases() -> Iterator[Case]:
    """Yields the rows of the table in EVIDENCE.md, and null cases that could deceive a weaker test."""
    healthy = {ERRORS: 0.001, **slower(1.0, 0.5)}
    exactly = {name: p * (1.5 if name == ERRORS else 1.25) for name, p in healthy.items()}
    yield Case("no difference, 2 h", "null", healthy, healthy)
    yield Case("exactly r0, 2 h", "null", exactly, healthy)
    yield Case("no difference, batches of 8 share their fate, 2 h", "null", healthy, healthy, batch=8)
    yield Case(
        "no difference, load drifts tenfold, 2 h", "null", healthy, healthy,
        load=lambda tick: RATE * 10 ** math.sin(tick / 150),
    )  # fmt: skip
    yield Case(
        "no difference, weight changes in mid-run, 2 h", "null", healthy, healthy,
        weight=lambda tick: (0.01, 0.05, 0.25, 0.5, 0.05)[tick // 200 % 5],
    )  # fmt: skip
    yield Case("+2 % latency (harmless), 2 h", "null", healthy | slower(1.02, 0.5), healthy)
    yield Case("errors 0.1 % -> 1 %", "detect", healthy | {ERRORS: 0.01}, healthy, 4.8)
    yield Case("latency +20 %, sigma 0.5", "detect", healthy | slower(1.2, 0.5), healthy, 4.0)
    yield Case("latency +20 %, sigma 0.2", "detect", healthy | slower(1.2, 0.2), healthy, 0.3)
    tail = (replace(latency("p99", 1.0), null=1.0),)
    yield Case("p99 exceedance 1 % -> 2 %, r0 = 1", "detect", {"p99": 0.02}, {"p99": 0.01}, 10.0, tail)
    yield Case(
        "p99 exceedance 1 % -> 2 %, r0 = 1, 25 % weight", "detect", {"p99": 0.02}, {"p99": 0.01}, 2.5, tail,
        weight=lambda _: 0.25,
    )  # fmt: skip


def first_rollback(case: Case, rng: np.random.Generator, hours: float = HOURS) -> float | None:
    """Returns the minute in which a simulated canary is rolled back; None if it is not."""
    evidence = Evidence.start(case.metrics, hours * 3600)
    evidence = replace(evidence, phi=case.batch)
    for number in range(round(hours * 3600 / TICK_SECONDS)):
        requests = int(rng.poisson(case.load(number) * TICK_SECONDS))
        n_canary = int(rng.binomial(requests, case.weight(number)))
        canary = _drawn(rng, case.canary, n_canary, case.batch)
        baseline = _drawn(rng, case.baseline, requests - n_canary, case.batch)
        evidence = evidence.taken(Tick.unkeyed(TICK_SECONDS, canary, baseline, case.batch))
        if evidence.worse(ALPHA):
            return (number + 1) * TICK_SECONDS / 60
    return None


def _drawn(rng: np.random.Generator, rates: Mapping[str, float], requests: int, batch: int) -> dict[str, Count]:
    """Draws the counts of an arm. All requests of a batch have the same outcome, and slow requests are nested."""
    counts: dict[str, Count] = {}
    left, above = requests // batch, 1.0
    for name, rate in sorted(rates.items(), key=lambda item: -item[1]):
        if name == ERRORS:
            bad = int(rng.binomial(requests // batch, rate))
        else:  # requests slower than p99 are a subset of those slower than p95
            left, above = int(rng.binomial(left, rate / above)), rate
            bad = left
        counts[name] = Count(requests, bad * batch)
    return counts


def measured(case: Case | QueueCase | BurstCase, runs: int, seed: int, hours: float = HOURS) -> dict[str, object]:
    """Simulates a case `runs` times and returns its row."""
    generators = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(runs))
    if isinstance(case, QueueCase):
        found = [queue_rollback(case, one, hours) for one in generators]
    elif isinstance(case, BurstCase):
        found = [burst_rollback(case, one, hours) for one in generators]
    else:
        found = [first_rollback(case, one, hours) for one in generators]
    minutes = sorted(m for m in found if m is not None)
    # Rounded to the precision of the table: a tick is 0.08 minutes.
    median, p90, p99 = (round(float(np.quantile(minutes, q)), 1) if minutes else None for q in (0.5, 0.9, 0.99))
    return {
        "case": case.name, "kind": case.kind, "rolled_back_ratio": len(minutes) / runs,
        "median_minutes": median, "p90_minutes": p90, "p99_minutes": p99, "expected_median_minutes": case.expected,
    }  # fmt: skip


def met(row: Mapping[str, object]) -> bool:
    """Returns whether a row is within the bounds of EVIDENCE.md.

    These are 1 % of false rollbacks (0.5 % for harmless differences), and medians up to 1.35 times those of the table,
    which the mixture over start times may cost. With keys, the table also has the share that is rolled back.
    """
    ratio = float(str(row["rolled_back_ratio"]))
    if row["kind"] == "null":
        return ratio <= (0.005 if "harmless" in str(row["case"]) else 0.01)
    if row["expected_median_minutes"] is None:
        return True
    soon = row["median_minutes"] is not None and float(str(row["median_minutes"])) <= 1.35 * float(
        str(row["expected_median_minutes"])
    )
    return soon and ratio >= float(str(row.get("expected_ratio", 0.99)))


def _every_case() -> Iterator[Case | QueueCase | BurstCase | KeyedCase]:
    yield from cases()
    yield from queue_cases()
    yield from burst_cases()
    yield from keyed_cases()


def _row(task: tuple[str, int, int]) -> dict[str, object]:
    name, runs, seed = task
    case = next(case for case in _every_case() if case.name == name)
    began = time.monotonic()
    row = keyed_row(case, runs, seed) if isinstance(case, KeyedCase) else measured(case, runs, seed)
    return {**row, "runs": runs, "seconds": round(time.monotonic() - began, 1)}


def main() -> int:
    """Prints the table. Returns 1 if a row is not within its bounds, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="simulated rollouts per row (default: 1000)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", metavar="TEXT", help="only rows whose name contains TEXT")
    arguments = parser.parse_args()
    wanted = [case for case in _every_case() if arguments.only in case.name]
    with ProcessPoolExecutor() as pool:
        rows = list(pool.map(_row, [(case.name, arguments.runs, arguments.seed) for case in wanted]))
    if arguments.json:
        print(json.dumps({"cases": rows}))
    else:
        print(f"{'':66}{'units':>7}{'back':>8}{'median':>8}{'p90':>8}{'p99':>8}{'expected':>14}  (minutes)")
        for row in rows:
            times = "".join(
                f"{'-' if row[k] is None else format(row[k], '.1f'):>8}"
                for k in ("median_minutes", "p90_minutes", "p99_minutes")
            )
            share = "" if row.get("expected_ratio") is None else f"{row['expected_ratio']:.0%} "
            expected = "" if row["expected_median_minutes"] is None else f"{share}{row['expected_median_minutes']:.1f}"
            units = row.get("effective_units", "")
            verdict = "" if met(row) else "  NOT MET"
            print(f"{row['case']:66}{units:>7}{row['rolled_back_ratio']:>8.2%}{times}{expected:>14}{verdict}")
    return 0 if all(map(met, rows)) else 1


if __name__ == "__main__":
    sys.exit(main())
