"""The power of a plan: how long each step needs to detect a candidate that is worse in a given way. Pure.

If a candidate's true rate ratio is r, log M of an alternative r_j grows by a fixed amount per second on average:

    drift_j(r) = n_c p_c ln(theta(r_j) / theta(r_0)) + n_b p_b ln((1 - theta(r_j)) / (1 - theta(r_0)))

where n is each arm's requests per second and p its rate of bad events (`turnout.rollout.evidence.e_process` defines
theta). It has to climb from gamma_0 to where the weighted mean over metrics and alternatives reaches 1/alpha. By Wald's
identity (1947), the expected time for the alternative that gets there first is

    ( ln(1/alpha) - ln(w_m) + ln(alternatives) - ln(gamma_0) ) / drift_j     seconds,

but no less than the time in which as many bad events as the metric's floor can have happened.

Keyed traffic counts by unit. The forecast assumes units that differ as little as the evidence takes for granted: the
drift is that of the units' weights, which fall with time, divided by phi = (m - 1) / (m - 3), and it is 0 below the
minimum number of effective units. If tenants differ more, detection takes longer.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from turnout.rollout.evidence import ERRORS, GAMMA_0, GROUPS, LEAST_UNITS, Metric
from turnout.rollout.evidence.dispersion import LEAST_SPREAD
from turnout.rollout.evidence.likelihood import share_ratios
from turnout.rollout.plan import Plan, PlanStep
from turnout.text.shares import share_text

ERROR_FACTORS = (2.0, 5.0, 10.0)
SLOWDOWN = 1.2
LEAST_ERROR_RATE = 1e-4
"""Minimum assumed error rate of a baseline, since multiples of 0 could not be looked for."""

_LONGEST = 90 * 86_400.0
"""Horizon in seconds. An effect that is not detected by then counts as undetectable."""


@dataclass(frozen=True, slots=True)
class TrafficEstimate:
    """An estimate of a model's traffic.

    Attributes:
        rate: Unpinned requests per second.
        error_rate: Share of the baseline's requests that fail because of the server.
        slow: By latency metric, the share of requests that would exceed its threshold if each took 1.2 times as long,
            and the share that does now; empty if the latency is unknown.
        keyed: Share of all requests that each slot group gets with a routing key; empty if no request has a key, or
            nothing is known about keys.
    """

    rate: float
    error_rate: float
    slow: Mapping[str, tuple[float, float]]
    keyed: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Detection:
    """The time that one step needs to detect one effect.

    Attributes:
        seconds: Expected time at the step's weight, in seconds; infinity if it would never be detected.
        requests: Number of requests of the canary in that time.
    """

    effect: str
    seconds: float
    requests: float


def detections(plan: Plan, step: PlanStep, traffic: TrafficEstimate) -> list[Detection]:
    """Returns how long one step needs to detect each effect."""
    found: list[Detection] = []
    for factor in ERROR_FACTORS:
        rates = {ERRORS: (min(traffic.error_rate * factor, 1.0), traffic.error_rate)}
        found.append(_detection(f"errors x{factor:.0f}", plan, step, traffic, rates))
    found.append(_detection("latency +20 %", plan, step, traffic, traffic.slow))
    return found


def expected_units(plan: Plan, step: PlanStep, traffic: TrafficEstimate) -> float:
    """Returns the number of effective units in the keyed traffic of a step by the end of its soak; 0 without keys.

    For the metric with the most bad events, in which heavy keys have the least weight.
    """
    usual = max((now for _, now in traffic.slow.values()), default=traffic.error_rate)
    canary, baseline = _shares(plan, step)
    events = traffic.rate * step.soak_s * usual
    return min(_units(traffic.keyed, share, events)[0] for share in (canary, baseline))


def keyed_text(plan: Plan, traffic: TrafficEstimate) -> str:
    """Returns a sentence about the first step with enough keyed traffic for a verdict; "" if every step has enough."""
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
    """Returns which effects the whole plan would miss, as sentences."""
    if traffic.rate <= 0:
        return ["there is no traffic now: nothing would be detected"]
    # While watching, the previous version keeps the holdback, and as much of the candidate is compared with it.
    stages = (*plan.steps, PlanStep(plan.holdback, plan.watch_s)) if plan.watch_s else plan.steps
    collected: dict[str, float] = {}
    for stage in stages:
        for one in detections(plan, stage, traffic):
            collected[one.effect] = collected.get(one.effect, 0.0) + stage.soak_s / one.seconds
    keyed = keyed_text(plan, traffic)
    return [
        *([keyed] if keyed else []),
        *(_missed_text(effect, share) for effect, share in collected.items() if share < 1.0),
    ]


def _missed_text(effect: str, share: float) -> str:
    if share <= 0.0:
        return f"{effect} would be missed: no metric of the plan can show it"
    return f"{effect} would most likely be missed: the whole plan gathers {share:.0%} of the evidence that is needed"


def _shares(plan: Plan, step: PlanStep) -> tuple[float, float]:
    """Returns the shares of the canary and of the part of the baseline that it is compared with."""
    left = 1.0 - step.weight
    return step.weight, min(step.weight, left / 2) if plan.twin else left


def _units(keyed: Sequence[float], share: float, events: float) -> tuple[float, float]:
    """Returns an arm's number of effective units, and the share of its keyed traffic that counts.

    Args:
        keyed: Share of all requests by slot group.
        share: Share of the arm.
        events: Number of bad events of all traffic in the time.
    """
    some = [float(one) for one in keyed if one > 0]
    if not some or share <= 0:
        return 0.0, 0.0
    # Keys are assigned to groups at random, so their number is estimated from the number of empty groups. A group with
    # several keys is in both arms. Keys are assumed to be alike; with Zipf's law, this gives up to twice the units.
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
    """Returns the expected seconds until one metric alone reaches the threshold."""
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
    """Returns what keyed traffic adds to each log M per second, averaged over the time."""
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
    arms = (canary, canary * bad), (baseline, baseline * usual)
    return share_ratios(*arms, metric.null, metric.alternatives)
