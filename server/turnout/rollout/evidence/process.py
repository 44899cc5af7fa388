"""Whether a candidate is worse than the baseline, by evidence that stays valid however often one looks. Pure.

Every metric is a count of bad events. Within a tick the canary's share of the bad events is compared with its share of
the requests, so that drifting load and changed weights cancel. The likelihood ratios multiply up to e-processes (Ville
1939; Lindon & Malek 2022, arXiv 2011.03567; Turner & Gruenwald 2023, arXiv 2302.11401): under "not worse",
P(E ever reaches 1/alpha) <= alpha. Late regressions are caught by a mixture over start times (Shin, Ramdas & Rinaldo
2022, e-detectors).

    theta(r)  = r n_c / (r n_c + n_b)
    log L_j   = (x_c ln(theta(r_j) / theta(r_0)) + x_b ln((1 - theta(r_j)) / (1 - theta(r_0)))) / phi
    M_j      <- (M_j + gamma_t) L_j          gamma_0 = 0.5, the rest spread evenly over the plan's maximum duration
    E         = sum over metrics of w_m mean over j of M_j
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from turnout.rollout.evidence.metrics import Metric
from turnout.rollout.evidence.ticks import NOTHING, Count, Tick, read_count

GAMMA_0 = 0.5
"""Mass of the mixture that starts with the rollout; what is left starts evenly over its maximum duration."""

_FINE_ALTERNATIVES = (0.05, 0.25, 0.5)

_NEVER = -math.inf


class Fitness(StrEnum):
    """Whether a metric shows the candidate fit for promotion, and how."""

    NOT_ASKED = "not_asked"
    SHOWN = "shown"
    """The ratio is shown to be below what forbids promotion."""
    CLEAN = "clean"
    """The canary had no bad event in requests enough."""
    FINE = "fine"
    """The canary's rate of bad events is shown to be below one that nobody minds."""
    OPEN = "open"

    @property
    def fit(self) -> bool:
        """Whether it stands in the way of no promotion."""
        return self is not Fitness.OPEN


@dataclass(frozen=True, slots=True)
class Accumulator:
    """What one metric has shown so far.

    Attributes:
        worse: log M of each alternative, against "not worse".
        fit: log M of each alternative, against "not fit for promotion".
        canary, baseline: Sums of the counts.
    """

    worse: tuple[float, ...]
    fit: tuple[float, ...]
    canary: Count = NOTHING
    baseline: Count = NOTHING


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about one attempt; a value that `taken` makes the next of.

    Attributes:
        metrics: What is counted.
        duration: The plan's maximum duration, seconds; the mass of late starts is spread over it.
        accumulators: By metric.
        left: Mass of the mixture that has not started.
        phi: Requests that share their fate: the largest batch seen before the next tick.
        peak: Highest combined E so far.
    """

    metrics: tuple[Metric, ...]
    duration: float
    accumulators: Mapping[str, Accumulator] = field(default_factory=dict)
    left: float = 1.0 - GAMMA_0
    phi: int = 1
    peak: float = 0.0

    @classmethod
    def start(cls, metrics: Sequence[Metric], duration: float) -> Self:
        """Returns the evidence before anything was seen.

        Args:
            metrics: Their weights sum to 1.
            duration: Seconds over which late regressions are looked for.
        """
        gamma = math.log(GAMMA_0)
        start = {
            m.name: Accumulator((gamma,) * len(m.alternatives), (gamma,) * len(m.good_alternatives)) for m in metrics
        }
        return cls(tuple(metrics), duration, start)

    def taken(self, tick: Tick) -> Self:
        """Returns the evidence with one more tick."""
        gamma = min((1.0 - GAMMA_0) * tick.seconds / self.duration, self.left) if self.duration > 0 else 0.0
        accumulators = {m.name: _taken(m, self.accumulators[m.name], tick, gamma, self.phi) for m in self.metrics}
        after = replace(
            self,
            accumulators=accumulators,
            left=self.left - gamma,
            phi=max(self.phi, tick.largest_batch),
        )
        return replace(after, peak=max(self.peak, after.combined))

    def of(self, metric: str) -> float:
        """Returns the e-value that a metric has against "not worse"; 0 below its floor."""
        spec, known = self._spec(metric), self.accumulators[metric]
        return _mean_exp(known.worse) if known.canary.bad >= spec.floor else 0.0

    def fit(self, metric: str) -> float:
        """Returns the e-value that a metric has against "not fit for promotion"."""
        return _mean_exp(self.accumulators[metric].fit)

    @property
    def combined(self) -> float:
        """The weighted mean of the metrics' e-values, which is an e-value whatever their dependence."""
        return math.fsum(m.weight * self.of(m.name) for m in self.metrics)

    def worse(self, alpha: float) -> bool:
        """Tells whether the candidate is to be taken back."""
        return self.combined >= 1.0 / alpha

    def unproven(self, beta: float, exposure: int) -> list[str]:
        """Returns the metrics that do not yet show the candidate fit for promotion.

        Args:
            beta: 1/beta is the e-value that shows it.
            exposure: Requests of the canary that suffice where it had no bad event, since no ratio can be shown then.
        """
        return [m.name for m in self.metrics if not self.fitness(m, beta, exposure).fit]

    def fitness(self, metric: Metric, beta: float, exposure: int) -> Fitness:
        """Returns whether one metric shows the candidate fit for promotion. Arguments as of `unproven`."""
        known = self.accumulators[metric.name]
        if not metric.promotes:
            return Fitness.NOT_ASKED
        if self.fit(metric.name) >= 1.0 / beta:
            return Fitness.SHOWN
        if known.canary.bad == 0 and known.canary.requests >= max(exposure, 1):
            return Fitness.CLEAN
        if known.canary.bad and metric.fine_rate and self._fine(known.canary, metric.fine_rate) >= 1.0 / beta:
            return Fitness.FINE
        return Fitness.OPEN

    def problem(self) -> str:
        """Returns what no evidence can be, "" where nothing is so."""
        if set(self.accumulators) != {metric.name for metric in self.metrics}:
            return "its evidence is of other metrics than its plan"
        if not (self.phi >= 1 and all(math.isfinite(x) for x in (self.duration, self.left, self.peak))):
            return "its evidence holds a number that none is"
        for metric in self.metrics:
            known = self.accumulators[metric.name]
            if len(known.worse) != len(metric.alternatives) or len(known.fit) != len(metric.good_alternatives):
                return f"its evidence of {metric.name} is of other alternatives"
            if not all(math.isfinite(x) for x in (*known.worse, *known.fit)):
                return f"its evidence of {metric.name} holds a number that none is"
            for count in (known.canary, known.baseline):
                numbers = (count.requests, count.bad)
                if not all(isinstance(n, int) and n >= 0 for n in numbers) or count.bad > count.requests:
                    return f"its counts of {metric.name} are none"
        return ""

    def _fine(self, canary: Count, rate: float) -> float:
        """Returns the e-value of "the canary's rate of bad events is below `rate`": a binomial e-process.

        Null and alternatives are rates and not ratios, so that it follows from the sums of the counts alone.
        """
        return _mean_exp([_rate_ratio(canary, rate, rate * r) / self.phi for r in _FINE_ALTERNATIVES])

    def _spec(self, metric: str) -> Metric:
        return next(m for m in self.metrics if m.name == metric)

    def to_json(self) -> dict[str, Any]:
        """Returns the form that the state store holds; JSON keeps each double exactly, so a replay meets the same."""
        return {
            "duration": self.duration, "left": self.left, "phi": self.phi, "peak": self.peak,
            "accumulators": {
                name: {
                    "worse": list(a.worse), "fit": list(a.fit),
                    "canary": [a.canary.requests, a.canary.bad], "baseline": [a.baseline.requests, a.baseline.bad],
                }
                for name, a in self.accumulators.items()
            },
        }  # fmt: skip

    @classmethod
    def from_json(cls, body: Mapping[str, Any], metrics: Sequence[Metric]) -> Self:
        """Reads what `to_json` wrote, for the same metrics."""
        accumulators = {
            name: Accumulator(
                tuple(map(float, a["worse"])),
                tuple(map(float, a["fit"])),
                read_count(a["canary"]),
                read_count(a["baseline"]),
            )
            for name, a in body["accumulators"].items()
        }
        return cls(
            tuple(metrics), float(body["duration"]), accumulators,
            float(body["left"]), int(body["phi"]), float(body["peak"]),
        )  # fmt: skip


def _taken(metric: Metric, known: Accumulator, tick: Tick, gamma: float, phi: int) -> Accumulator:
    canary = tick.canary.get(metric.name, NOTHING)
    baseline = tick.baseline.get(metric.name, NOTHING)
    if metric.one_armed:
        worse = [_rate_ratio(canary, metric.null, metric.null * r) / phi for r in metric.alternatives]
        null = metric.null * metric.good_null
        fit = [_rate_ratio(canary, null, metric.null * r) / phi for r in metric.good_alternatives]
    else:
        worse = [_share_ratio(canary, baseline, metric.null, r) / phi for r in metric.alternatives]
        fit = [_share_ratio(canary, baseline, metric.good_null, r) / phi for r in metric.good_alternatives]
    return Accumulator(
        tuple(_started(m, gamma) + step for m, step in zip(known.worse, worse, strict=True)),
        tuple(_started(m, gamma) + step for m, step in zip(known.fit, fit, strict=True)),
        known.canary.plus(canary),
        known.baseline.plus(baseline),
    )


def _share_ratio(canary: Count, baseline: Count, null: float, other: float) -> float:
    """Returns the log likelihood ratio of the canary's share of the bad events, `other` against `null`."""
    if not canary.requests or not baseline.requests:
        return 0.0
    a, b = canary.requests, baseline.requests
    # theta(r) / theta(s) = (r / s) (s a + b) / (r a + b), and (1 - theta(r)) / (1 - theta(s)) = (s a + b) / (r a + b).
    common = math.log((null * a + b) / (other * a + b))
    return canary.bad * (math.log(other / null) + common) + baseline.bad * common


def _rate_ratio(count: Count, null: float, other: float) -> float:
    """Returns the log likelihood ratio of a binomial rate, `other` against `null`; both are kept off 0 and 1."""
    p, q = min(max(null, 1e-9), 0.999), min(max(other, 1e-9), 0.999)
    return count.bad * math.log(q / p) + (count.requests - count.bad) * math.log((1 - q) / (1 - p))


def _started(log_m: float, gamma: float) -> float:
    """Returns log(exp(log_m) + gamma)."""
    if gamma <= 0:
        return log_m
    log_gamma = math.log(gamma)
    high, low = max(log_m, log_gamma), min(log_m, log_gamma)
    return high + math.log1p(math.exp(low - high))


def _mean_exp(logs: Sequence[float]) -> float:
    """Returns the mean of the exponentials, as large as a double holds."""
    high = max(logs, default=_NEVER)
    if high == _NEVER:
        return 0.0
    log_mean = high + math.log(math.fsum(math.exp(m - high) for m in logs) / len(logs))
    return math.exp(min(log_mean, 700.0))
