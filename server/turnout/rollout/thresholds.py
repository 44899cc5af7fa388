"""The latency thresholds of a rollout, which are set before a step from quantiles of the baseline's latency."""

import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from turnout.rollout.evidence import SLO, STALLED
from turnout.rollout.guards.guards import LIMIT
from turnout.rollout.machine.attempt import Rollout
from turnout.rollout.plan import Plan
from turnout.serving.counting.tick_counts import Rules
from turnout.serving.data_plane.inference import ServingRole
from turnout.serving.versions.catalog import VersionEntry

QUANTILES = {"p90": 0.90, "p95": 0.95, "p99": 0.99}
"""Quantile of the baseline's latency that is the threshold of each latency metric."""

_STALL_FACTOR = 10.0

_BUCKETS_AN_OCTAVE = 16
"""Number of buckets to a factor of two, so that a latency differs from its bucket's by at most 2.2 %."""


def latency_of(
    plan: Plan, entry: VersionEntry | None, elsewhere: Iterable[Mapping[str, int]] = ()
) -> tuple[Mapping[str, float] | None, int, float]:
    """Returns a baseline's latency: quantiles by metric (None if it had too few requests), requests, and the median.

    In seconds, over the latest 4,096 requests that each server answered with it as the baseline.

    Args:
        plan: Plan of the rollout.
        entry: The baseline.
        elsewhere: Its latest latencies on other servers, as their `recent_buckets`.
    """
    if entry is None or entry.handle is None:
        return None, 0, 0.0
    seen = np.concatenate([recent_latencies(entry), *map(latencies_in, elsewhere)])
    if len(seen) < max(plan.threshold_samples, 2):
        return None, len(seen), 0.0
    found = {name: threshold(name, seen) for name in plan.timed}
    return found, len(seen), float(np.quantile(seen, 0.5))


def recent_buckets(entry: VersionEntry | None) -> dict[str, int]:
    """Returns the latest latencies of a baseline on this server: requests by the number of a bucket."""
    octaves = np.log2(np.maximum(recent_latencies(entry), 1e-9))
    buckets, counts = np.unique(np.rint(octaves * _BUCKETS_AN_OCTAVE).astype(np.int64), return_counts=True)
    return {str(bucket): count for bucket, count in zip(buckets.tolist(), counts.tolist(), strict=True)}


def latencies_in(buckets: Mapping[str, int]) -> NDArray[np.float64]:
    """Returns the latencies in `recent_buckets` of a server, in seconds, each as that of its bucket."""
    numbers = np.array(list(map(int, buckets)), np.float64)
    return np.repeat(2.0 ** (numbers / _BUCKETS_AN_OCTAVE), list(buckets.values()))


def recent_latencies(entry: VersionEntry | None) -> NDArray[np.float64]:
    """Returns the latencies of the latest 4,096 requests that a version answered here as the baseline, in seconds."""
    handle = entry.handle if entry is not None else None
    recent = handle.recorder.role(str(ServingRole.BASELINE)).recent if handle is not None else ()
    return np.fromiter(recent, np.float64, len(recent))


def threshold(metric: str, latencies: NDArray[np.float64]) -> float:
    """Returns the threshold of a latency metric in seconds, from a baseline's latencies.

    A stall is slower than ten times the p99. If a candidate that hangs also takes the baseline's cores, most requests
    of both exceed the quantiles, so that these no longer distinguish the two.
    """
    if metric == STALLED:
        return _STALL_FACTOR * float(np.quantile(latencies, QUANTILES["p99"]))
    return float(np.quantile(latencies, QUANTILES[metric]))


def thresholds_of(rollout: Rollout) -> dict[str, float]:
    """Returns the thresholds by metric in seconds, including those of the objective and of a guard."""
    own = dict(rollout.thresholds)
    if rollout.plan.slo_ms is not None:
        own[SLO] = rollout.plan.slo_ms / 1e3
    if (limit := rollout.guards.p99_ms) is not None:
        own[LIMIT] = limit / 1e3
    return own


def rules_of(rollout: Rollout) -> Rules:
    """Returns the rules that determine which requests of a rollout are bad now."""
    plan = rollout.plan
    thresholds = tuple(sorted(thresholds_of(rollout).values()))
    return Rules(thresholds, rollout.shortest_timeout, plan.warm_requests, rollout.thresholds.get(STALLED, math.inf))
