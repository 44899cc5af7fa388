"""What a plan can see: how long each step needs to notice a candidate that is worse in a given way. Pure.

While a candidate's true rate ratio is r, log M of an alternative r_j grows by a fixed amount a second on average:

    drift_j(r) = n_c p_c ln(theta(r_j) / theta(r_0)) + n_b p_b ln((1 - theta(r_j)) / (1 - theta(r_0)))

with n the arms' requests a second, and p their rates of bad events (EVIDENCE.md has theta). It has to climb from
gamma_0 to where the weighted mean over metrics and alternatives reaches 1/alpha, which by Wald's identity (1947) takes

    ( ln(1/alpha) - ln(w_m) + ln(alternatives) - ln(gamma_0) ) / drift_j     seconds, by expectation,

for the alternative that gets there first. And no sooner than the floor's bad events can have happened.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from turnout.rollout.evidence import ERRORS, GAMMA_0, Metric
from turnout.rollout.plan import Plan, Step

ERROR_FACTORS = (2.0, 5.0, 10.0)
SLOWDOWN = 1.2
LEAST_ERROR_RATE = 1e-4
"""What a baseline that never failed is taken to fail at: twice nothing is nothing to look for."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a model's traffic is like.

    Attributes:
        rate: Unpinned requests a second.
        error_rate: Share of the baseline's requests that fail by the server's fault.
        slow: By latency metric, share of requests that pass its threshold once each takes 1.2 times as long, and share
            that does now; nothing where the latency is not known yet.
    """

    rate: float
    error_rate: float
    slow: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Detection:
    """How long one step needs to see one effect.

    Attributes:
        effect: In words.
        seconds: By expectation, at the step's weight; infinity where it would never be seen.
        requests: Of the canary in that time.
    """

    effect: str
    seconds: float
    requests: float


def detections(plan: Plan, step: Step, traffic: Traffic) -> list[Detection]:
    """Returns what one step can see."""
    canary = traffic.rate * step.weight
    left = traffic.rate - canary
    baseline = min(canary, left / 2) if plan.twin else left
    found: list[Detection] = []
    for factor in ERROR_FACTORS:
        rates = {ERRORS: (min(traffic.error_rate * factor, 1.0), traffic.error_rate)}
        found.append(_detection(f"errors x{factor:.0f}", plan, canary, baseline, rates))
    found.append(_detection("latency +20 %", plan, canary, baseline, traffic.slow))
    return found


def missed(plan: Plan, traffic: Traffic) -> list[str]:
    """Returns what the whole plan would miss, in sentences."""
    if traffic.rate <= 0:
        return ["there is no traffic now: nothing would be seen at all"]
    # While watching, the version before keeps the holdback, and that much of the candidate is compared with it.
    stages = (*plan.steps, Step(plan.holdback, plan.watch_s)) if plan.watch_s else plan.steps
    gathered: dict[str, float] = {}
    for stage in stages:
        for one in detections(plan, stage, traffic):
            gathered[one.effect] = gathered.get(one.effect, 0.0) + stage.soak_s / one.seconds
    return [
        f"{effect} would most likely be missed: the whole plan gathers {share:.0%} of the evidence that it takes"
        for effect, share in gathered.items()
        if share < 1.0
    ]


def _detection(
    effect: str, plan: Plan, canary: float, baseline: float, rates: Mapping[str, tuple[float, float]]
) -> Detection:
    specs = [metric for metric in plan.evidence_metrics if metric.name in rates]
    times = [_seconds(metric, plan.alpha, canary, baseline, *rates[metric.name]) for metric in specs]
    seconds = min(times, default=math.inf)
    return Detection(effect, seconds, seconds * canary if canary > 0 else math.inf)


def _seconds(metric: Metric, alpha: float, canary: float, baseline: float, bad: float, usual: float) -> float:
    """Returns the seconds until one metric alone reaches the threshold, by expectation."""
    if canary <= 0 or baseline <= 0 or bad <= 0:
        return math.inf
    climb = math.log(1 / alpha) - math.log(metric.weight) + math.log(len(metric.alternatives)) - math.log(GAMMA_0)
    drift = max(_drifts(metric, canary, baseline, bad, usual))
    return max(climb / drift, metric.floor / (canary * bad)) if drift > 0 else math.inf


def _drifts(metric: Metric, canary: float, baseline: float, bad: float, usual: float) -> Sequence[float]:
    found = []
    for ratio in metric.alternatives:
        common = math.log((metric.null * canary + baseline) / (ratio * canary + baseline))
        found.append(canary * bad * (math.log(ratio / metric.null) + common) + baseline * usual * common)
    return found
