"""What a plan can see: how long each step needs to notice a candidate that is worse in a given way. Pure.

While a candidate's true rate ratio is r, log M of an alternative r_j grows by a fixed amount a second on average:

    drift_j(r) = n_c p_c ln(theta(r_j) / theta(r_0)) + n_b p_b ln((1 - theta(r_j)) / (1 - theta(r_0)))

with n the arms' requests a second, and p their rates of bad events (`turnout.rollout.evidence.e_process` has
theta). It has to climb from gamma_0 to where the weighted mean over metrics and alternatives reaches 1/alpha, which by
Wald's identity (1947) takes

    ( ln(1/alpha) - ln(w_m) + ln(alternatives) - ln(gamma_0) ) / drift_j     seconds, by expectation,

for the alternative that gets there first. And no sooner than the floor's bad events can have happened.

Keyed traffic counts by unit. What is foreseen of it is what the evidence would make of units that differ as little as
is taken for granted: the drift is that of the units' weights, which fall with time, over phi = (m - 1) / (m - 3); and
it is nothing below the least number of effective units. Tenants that differ more make it later.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from turnout.rollout.evidence import ERRORS, GAMMA_0, GROUPS, LEAST_UNITS, Metric
from turnout.rollout.evidence.dispersion import LEAST_SPREAD
from turnout.rollout.plan import Plan, PlanStep
from turnout.shares import share_text

ERROR_FACTORS = (2.0, 5.0, 10.0)
SLOWDOWN = 1.2
LEAST_ERROR_RATE = 1e-4
"""What a baseline that never failed is taken to fail at: twice nothing is nothing to look for."""

_LONGEST = 90 * 86_400.0
"""Seconds; what is not seen by then is not seen."""


@dataclass(frozen=True, slots=True)
class TrafficEstimate:
    """What a model's traffic is like.

    Attributes:
        rate: Unpinned requests a second.
        error_rate: Share of the baseline's requests that fail by the server's fault.
        slow: By latency metric, share of requests that pass its threshold once each takes 1.2 times as long, and share
            that does now; nothing if the latency is not known yet.
        keyed: Share of all requests that each slot group has with a routing key; empty if none has one, or nothing
            is known of it.
    """

    rate: float
    error_rate: float
    slow: Mapping[str, tuple[float, float]]
    keyed: Sequence[float] = ()


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


def detections(plan: Plan, step: PlanStep, traffic: TrafficEstimate) -> list[Detection]:
    """Returns what one step can see."""
    found: list[Detection] = []
    for factor in ERROR_FACTORS:
        rates = {ERRORS: (min(traffic.error_rate * factor, 1.0), traffic.error_rate)}
        found.append(_detection(f"errors x{factor:.0f}", plan, step, traffic, rates))
    found.append(_detection("latency +20 %", plan, step, traffic, traffic.slow))
    return found


def expected_units(plan: Plan, step: PlanStep, traffic: TrafficEstimate) -> float:
    """Returns how many effective units the keyed traffic of a step is worth by the end of its soak; 0 without keys.

    By the metric that has most bad events to tell of: that is the one in which heavy keys count least.
    """
    usual = max((now for _, now in traffic.slow.values()), default=traffic.error_rate)
    canary, baseline = _shares(plan, step)
    events = traffic.rate * step.soak_s * usual
    return min(_units(traffic.keyed, share, events)[0] for share in (canary, baseline))


def keyed_text(plan: Plan, traffic: TrafficEstimate) -> str:
    """Returns from which step on keyed traffic can tell anything, in a sentence; "" if every step can."""
    if sum(traffic.keyed) <= 0:
        return ""
    units = [expected_units(plan, step, traffic) for step in plan.steps]
    enough = [number for number, found in enumerate(units) if found >= LEAST_UNITS]
    if enough and enough[0] == 0:
        return ""
    until = f"before step {enough[0] + 1}" if enough else "in any step"
    last = plan.steps[(enough[0] if enough else len(units)) - 1]
    most = units[plan.steps.index(last)]
    return (
        f"{sum(traffic.keyed):.0%} of the traffic has routing keys, about {most:.0f} effective tenants at "
        f"{share_text(last.weight)}, and {LEAST_UNITS} are needed: no verdict from keyed traffic {until}, only the "
        "circuit breaker and guards look at it"
    )


def missed(plan: Plan, traffic: TrafficEstimate) -> list[str]:
    """Returns what the whole plan would miss, in sentences."""
    if traffic.rate <= 0:
        return ["there is no traffic now: nothing would be seen at all"]
    # While watching, the version before keeps the holdback, and that much of the candidate is compared with it.
    stages = (*plan.steps, PlanStep(plan.holdback, plan.watch_s)) if plan.watch_s else plan.steps
    collected: dict[str, float] = {}
    for stage in stages:
        for one in detections(plan, stage, traffic):
            collected[one.effect] = collected.get(one.effect, 0.0) + stage.soak_s / one.seconds
    keyed = keyed_text(plan, traffic)
    return [
        *([keyed] if keyed else []),
        *(
            f"{effect} would most likely be missed: the whole plan gathers {share:.0%} of the evidence that it takes"
            for effect, share in collected.items()
            if share < 1.0
        ),
    ]


def _shares(plan: Plan, step: PlanStep) -> tuple[float, float]:
    """Returns the shares of the canary and of what it is compared with."""
    left = 1.0 - step.weight
    return step.weight, min(step.weight, left / 2) if plan.twin else left


def _units(keyed: Sequence[float], share: float, events: float) -> tuple[float, float]:
    """Returns the effective units that an arm has, and how much of its keyed traffic counts.

    Args:
        keyed: Share of all requests by slot group.
        share: Of the arm.
        events: Bad events of all traffic in the time.
    """
    some = [float(one) for one in keyed if one > 0]
    if not some or share <= 0:
        return 0.0, 0.0
    # Keys fall on groups at random: as many as leave so many groups empty. A group of several keys is in both arms;
    # they are taken to be alike, which with Zipf's law is up to twice as many units as there are.
    keys = GROUPS * math.log(GROUPS / max(GROUPS - len(some), 0.5))
    present = 1.0 - (1.0 - share) ** max(keys / len(some), 1.0)
    sizes = [one * share / present for one in some]
    weighted = [size / (1.0 + LEAST_SPREAD * size * events) for size in sizes]
    units = present * sum(weighted) ** 2 / sum(one**2 for one in weighted)
    return units, sum(weighted) / sum(sizes)


def _detection(
    effect: str, plan: Plan, step: PlanStep, traffic: TrafficEstimate, rates: Mapping[str, tuple[float, float]]
) -> Detection:
    specs = [metric for metric in plan.evidence_metrics if metric.name in rates]
    times = [_seconds(metric, plan, step, traffic, *rates[metric.name]) for metric in specs]
    seconds, canary = min(times, default=math.inf), traffic.rate * step.weight
    return Detection(effect, seconds, seconds * canary if canary > 0 else math.inf)


def _seconds(metric: Metric, plan: Plan, step: PlanStep, traffic: TrafficEstimate, bad: float, usual: float) -> float:
    """Returns the seconds until one metric alone reaches the threshold, by expectation."""
    shares, unkeyed = _shares(plan, step), 1.0 - sum(traffic.keyed)
    canary, baseline = (traffic.rate * share for share in shares)
    if canary <= 0 or baseline <= 0 or bad <= 0:
        return math.inf
    climb = math.log(1 / plan.alpha) - math.log(metric.weight) + math.log(len(metric.alternatives)) - math.log(GAMMA_0)
    steady = _drifts(metric, unkeyed * canary, unkeyed * baseline, bad, usual)
    soonest = metric.floor / (canary * bad)
    if not traffic.keyed:
        drift = max(steady)
        return max(climb / drift, soonest) if drift > 0 else math.inf

    def collected(seconds: float) -> float:
        keyed = _keyed_drifts(metric, shares, traffic, seconds, bad, usual)
        return seconds * max(one + other for one, other in zip(steady, keyed, strict=True))

    if collected(_LONGEST) < climb:
        return math.inf
    low, high = 0.0, _LONGEST
    while high - low > 1e-3 * high + 1e-3:
        middle = (low + high) / 2
        low, high = (low, middle) if collected(middle) >= climb else (middle, high)
    return max(high, soonest)


def _keyed_drifts(
    metric: Metric, shares: tuple[float, float], traffic: TrafficEstimate, seconds: float, bad: float, usual: float
) -> Sequence[float]:
    """Returns what keyed traffic adds to each log M in a second, on average over the time."""
    events = traffic.rate * seconds
    (m_c, counted_c), (m_b, counted_b) = (
        _units(traffic.keyed, share, events * rate) for share, rate in zip(shares, (bad, usual), strict=True)
    )
    units = min(m_c, m_b)
    if units < LEAST_UNITS:
        return [0.0] * len(metric.alternatives)
    canary, baseline = (
        traffic.rate * sum(traffic.keyed) * share * counted
        for share, counted in zip(shares, (counted_c, counted_b), strict=True)
    )
    phi = (units - 1.0) / (units - 3.0)
    return [one / phi for one in _drifts(metric, canary, baseline, bad, usual)]


def _drifts(metric: Metric, canary: float, baseline: float, bad: float, usual: float) -> Sequence[float]:
    if canary <= 0 or baseline <= 0:
        return [0.0] * len(metric.alternatives)
    found = []
    for ratio in metric.alternatives:
        common = math.log((metric.null * canary + baseline) / (ratio * canary + baseline))
        found.append(canary * bad * (math.log(ratio / metric.null) + common) + baseline * usual * common)
    return found
