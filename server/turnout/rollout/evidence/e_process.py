"""Evidence whether a candidate is worse than the baseline, which stays valid however often it is checked. Pure.

Every metric is a count of bad events. Within a tick, the canary's share of the bad events is compared with its share of
the requests, so that drifting load and changed weights cancel. The likelihood ratios multiply up to e-processes (Ville
1939; Lindon & Malek 2022, arXiv 2011.03567; Turner & Gruenwald 2023, arXiv 2302.11401): under "not worse",
P(E ever reaches 1/alpha) <= alpha. Late regressions are detected by a mixture over start times (Shin, Ramdas & Rinaldo
2022, e-detectors).

    theta(r)  = r n_c / (r n_c + n_b)
    log L_j   = (x_c ln(theta(r_j) / theta(r_0)) + x_b ln((1 - theta(r_j)) / (1 - theta(r_0)))) / phi
                phi: requests that share their fate, in a batch (the largest so far) or by their dispersion (`serial`)
    M_j      <- (M_j + gamma_t) L_j          gamma_0 = 0.5, the rest spread evenly over the plan's maximum duration
    E         = sum over metrics of w_m mean over j of M_j
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from turnout.rollout.evidence.keyed import Keyed
from turnout.rollout.evidence.likelihood import mean_exp, rate_ratio, share_ratios, started
from turnout.rollout.evidence.metrics import INVALID, Metric
from turnout.rollout.evidence.rarity import is_rare
from turnout.rollout.evidence.ticks import NOTHING, Count, Stratum, Tick

GAMMA_0 = 0.5
"""Mass of the mixture that starts with the rollout. The rest starts evenly over its maximum duration."""


class Fitness(StrEnum):
    """Whether and how a metric shows that the candidate is fit for promotion."""

    NOT_ASKED = "not_asked"
    SHOWN = "shown"
    """The ratio is shown to be below the one that forbids promotion."""
    CLEAN = "clean"
    """The canary had no bad event in enough requests."""
    FINE = "fine"
    """The canary's rate of bad events is shown to be below an acceptable one."""
    OPEN = "open"

    @property
    def fit(self) -> bool:
        """Whether it allows promotion."""
        return self is not Fitness.OPEN


@dataclass(frozen=True, slots=True)
class Accumulator:
    """The evidence of one metric so far.

    Attributes:
        worse: log M of each alternative, against "not worse".
        fit: log M of each alternative, against "not fit for promotion".
        canary, baseline: Sums of the counts.
        keyed: Evidence of keyed traffic; None if there was none.
    """

    worse: tuple[float, ...]
    fit: tuple[float, ...]
    canary: Count = NOTHING
    baseline: Count = NOTHING
    keyed: Keyed | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the form in which the state store keeps it."""
        body = {
            "worse": list(self.worse), "fit": list(self.fit),
            "canary": self.canary.to_json(), "baseline": self.baseline.to_json(),
        }  # fmt: skip
        return body if self.keyed is None else {**body, "keyed": self.keyed.to_json()}

    @classmethod
    def from_json(cls, body: Mapping[str, Any], metric: Metric | None) -> Self:
        """Parses the output of `to_json`, also of earlier releases. Raises ValueError if it is of another metric."""
        worse, fit = (tuple(map(float, body[name])) for name in ("worse", "fit"))
        counts = Count.from_json(body["canary"]), Count.from_json(body["baseline"])
        if body.get("keyed") is None:
            return cls(worse, fit, *counts)
        if metric is None:
            raise ValueError("keyed traffic of a metric that the plan does not have")
        return cls(worse, fit, *counts, Keyed.from_json(body["keyed"], metric))

    def taken(self, metric: Metric, tick: Tick, gamma: float, phi: int) -> Self:
        """Returns the evidence of the metric with one more tick.

        Mass `gamma` of the mixture starts with the tick; `phi` requests share their outcome.
        """
        canary, baseline = tick.counts(metric.name)
        worse, fit = (_log_ratios(metric, tick.strata, null, others, phi) for null, others in _hypotheses(metric))
        keyed = self.keyed
        if keyed is None and any(metric.name in s.keyed_canary or metric.name in s.keyed_baseline for s in tick.strata):
            keyed = Keyed.start(metric, self.worse, self.fit)
        if keyed is None:
            log_worse, log_fit = (
                tuple(m + step for m, step in zip(started(known, gamma), steps, strict=True))
                for known, steps in ((self.worse, worse), (self.fit, fit))
            )
        else:
            keyed = keyed.taken(metric, tick, worse, fit, gamma, phi)
            log_worse, log_fit = (tuple(test.log_m.tolist()) for test in (keyed.worse, keyed.fit))
        totals = self.canary.plus(canary), self.baseline.plus(baseline)
        return type(self)(log_worse, log_fit, *totals, keyed)


@dataclass(frozen=True, slots=True)
class Evidence:
    """The evidence of one attempt. Immutable: `taken` returns the next value.

    Attributes:
        duration: Maximum duration of the plan in seconds, over which the mass of late starts is spread.
        left: Mass of the mixture that has not started.
        phi: Number of requests that share their outcome: the largest batch so far.
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
        """Returns the evidence before any traffic. Late regressions are looked for over `duration` seconds."""
        gamma = math.log(GAMMA_0)
        start = {
            m.name: Accumulator((gamma,) * len(m.alternatives), (gamma,) * len(m.good_alternatives)) for m in metrics
        }
        return cls(tuple(metrics), duration, start)

    def taken(self, tick: Tick) -> Self:
        """Returns the evidence with one more tick."""
        gamma = min((1.0 - GAMMA_0) * tick.seconds / self.duration, self.left) if self.duration > 0 else 0.0
        accumulators = {m.name: self.accumulators[m.name].taken(m, tick, gamma, self.phi) for m in self.metrics}
        after = replace(
            self,
            accumulators=accumulators,
            left=self.left - gamma,
            phi=max(self.phi, tick.largest_batch),
        )
        return replace(after, peak=max(self.peak, after.combined))

    def of(self, metric: str) -> float:
        """Returns a metric's e-value against "not worse"; 0 below its floor."""
        return self._of(next(m for m in self.metrics if m.name == metric))

    def fit(self, metric: str) -> float:
        """Returns a metric's e-value against "not fit for promotion"."""
        return mean_exp(self.accumulators[metric].fit)

    @property
    def combined(self) -> float:
        """The weighted mean of the metrics' e-values, which is an e-value regardless of their dependence."""
        return math.fsum(m.weight * self._of(m) for m in self.metrics)

    def worse(self, alpha: float) -> bool:
        """Returns whether the candidate must be rolled back."""
        return self.combined >= 1.0 / alpha

    def unproven(self, beta: float, exposure: int, *, alone: bool = False) -> list[str]:
        """Returns the metrics that do not show yet that the candidate is fit for promotion.

        Args:
            beta: Inverse of the e-value that is required.
            exposure: Number of requests of the canary that is enough if it had no bad event, since no ratio can be
                shown then.
            alone: Whether the baseline is broken, so that being better than it shows nothing.
        """
        return [m.name for m in self.metrics if not self.fitness(m, beta, exposure, alone=alone).fit]

    def fitness(self, metric: Metric, beta: float, exposure: int, *, alone: bool = False) -> Fitness:
        """Returns whether one metric shows that the candidate is fit for promotion. Arguments as in `unproven`."""
        known = self.accumulators[metric.name]
        if not metric.promotes:
            return Fitness.NOT_ASKED
        if metric.name == INVALID and not known.canary.requests and not known.baseline.requests:
            return Fitness.NOT_ASKED  # no output of the model can contain NaN or infinity
        if self.fit(metric.name) >= 1.0 / beta and not alone:
            return Fitness.SHOWN
        if known.canary.bad == 0 and known.canary.requests >= max(exposure, 1):
            return Fitness.CLEAN
        if (
            known.canary.bad
            and metric.fine_rate
            and is_rare(known.canary, known.keyed, metric.fine_rate, self.phi, beta)
        ):
            return Fitness.FINE
        return Fitness.OPEN

    @property
    def effective_units(self) -> float | None:
        """Effective number of units of equal exposure in the keyed traffic, for the metric with the most bad events.

        None if no keyed request was bad in either arm, so that there is nothing to judge by.
        """
        tests = [known.keyed.worse for known in self.accumulators.values() if known.keyed is not None]
        most = max(tests, key=lambda test: float(test.bad.sum()), default=None)
        return float(most.units) if most is not None and most.bad.any() else None

    def problem(self) -> str:
        """Returns what is wrong with evidence that was read; "" if nothing is."""
        if set(self.accumulators) != {metric.name for metric in self.metrics}:
            return "its evidence is of other metrics than its plan"
        if not (self.phi >= 1 and all(math.isfinite(x) for x in (self.duration, self.left, self.peak))):
            return "its evidence holds an infinity or NaN"
        for metric in self.metrics:
            known = self.accumulators[metric.name]
            if len(known.worse) != len(metric.alternatives) or len(known.fit) != len(metric.good_alternatives):
                return f"its evidence of {metric.name} is of other alternatives"
            if not all(math.isfinite(x) for x in (*known.worse, *known.fit)):
                return f"its evidence of {metric.name} holds an infinity or NaN"
            for count in (known.canary, known.baseline):
                numbers = (count.requests, count.bad)
                if not all(isinstance(n, int) and n >= 0 for n in numbers) or count.bad > count.requests:
                    return f"its counts of {metric.name} are impossible"
        return ""

    def _of(self, metric: Metric) -> float:
        known = self.accumulators[metric.name]
        return mean_exp(known.worse) if known.canary.bad >= metric.floor else 0.0

    def to_json(self) -> dict[str, Any]:
        """Returns the form in which the state store keeps it. JSON keeps each double exactly, so replays agree."""
        return {
            "duration": self.duration, "left": self.left, "phi": self.phi, "peak": self.peak,
            "accumulators": {name: a.to_json() for name, a in self.accumulators.items()},
        }  # fmt: skip

    @classmethod
    def from_json(cls, body: Mapping[str, Any], metrics: Sequence[Metric]) -> Self:
        """Parses the output of `to_json` for the same metrics."""
        known = {metric.name: metric for metric in metrics}
        accumulators = {name: Accumulator.from_json(a, known.get(name)) for name, a in body["accumulators"].items()}
        return cls(
            tuple(metrics), float(body["duration"]), accumulators,
            float(body["left"]), int(body["phi"]), float(body["peak"]),
        )  # fmt: skip


def _hypotheses(metric: Metric) -> tuple[tuple[float, tuple[float, ...]], tuple[float, tuple[float, ...]]]:
    """Returns null and alternatives of "it is worse" and of "it is fit"; as rates for a metric with one arm."""
    if not metric.one_armed:
        return (metric.null, metric.alternatives), (metric.good_null, metric.good_alternatives)
    worse, fit = (tuple(metric.null * r for r in ratios) for ratios in (metric.alternatives, metric.good_alternatives))
    return (metric.null, worse), (metric.null * metric.good_null, fit)


def _log_ratios(
    metric: Metric, strata: Sequence[Stratum], null: float, others: Sequence[float], phi: int
) -> tuple[float, ...]:
    """Returns log L of each alternative, of all servers' canaries and baselines together."""
    total = [0.0] * len(others)
    for stratum in strata:
        canary, baseline = (arm.get(metric.name, NOTHING) for arm in (stratum.canary, stratum.baseline))
        if metric.one_armed:
            steps = [rate_ratio(canary, null, other) for other in others]
        else:
            arms = (canary.requests, canary.bad), (baseline.requests, baseline.bad)
            steps = share_ratios(*arms, null, others)
        shared = stratum.shared_fate(metric.name, phi)
        total = [known + step / shared for known, step in zip(total, steps, strict=True)]
    return tuple(total)
