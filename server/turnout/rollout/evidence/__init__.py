"""The statistical evidence whether a candidate is worse than the baseline. Pure."""

from turnout.rollout.evidence.dispersion import LEAST_UNITS
from turnout.rollout.evidence.e_process import GAMMA_0, Accumulator, Evidence, Fitness
from turnout.rollout.evidence.metrics import (
    DISAGREEMENT,
    ERRORS,
    INVALID,
    LATENCIES,
    LEAST_BAD,
    SLO,
    STALLED,
    Metric,
    disagreement,
    errors,
    invalid,
    latency,
)
from turnout.rollout.evidence.ticks import GROUPS, Count, Stratum, Tick, Units

__all__ = [
    "DISAGREEMENT", "ERRORS", "GAMMA_0", "GROUPS", "INVALID", "LATENCIES", "LEAST_BAD", "LEAST_UNITS", "SLO", "STALLED",
    "Accumulator", "Count", "Evidence", "Fitness", "Metric", "Stratum", "Tick", "Units",
    "disagreement", "errors", "invalid", "latency",
]  # fmt: skip
