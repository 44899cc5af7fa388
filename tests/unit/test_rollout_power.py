"""The power report, held against rollouts that are simulated with the evidence itself."""

import itertools
import math
from dataclasses import replace
from statistics import NormalDist, fmean

import numpy as np
import pytest

from turnout.rollout.evidence import Count, Evidence, Tick
from turnout.rollout.plan import Plan, Step
from turnout.rollout.power import Detection, Traffic, detections, missed

NORMAL = NormalDist()
USUAL = {"p90": 0.10, "p95": 0.05, "p99": 0.01}
SLOW = {
    name: (1 - NORMAL.cdf(NORMAL.inv_cdf(1 - p) - math.log(1.2) / 0.5), p) for name, p in USUAL.items()
}  # lognormal latencies of sigma 0.5, each 1.2 times as long
TRAFFIC = Traffic(50.0, 0.001, SLOW)
STEP = Step(0.05, 300.0)


def found(plan: Plan, step: Step = STEP, traffic: Traffic = TRAFFIC) -> dict[str, Detection]:
    return {one.effect: one for one in detections(plan, step, traffic)}


def simulated(plan: Plan, bad: dict[str, float], usual: dict[str, float], seed: int) -> float:
    """Seconds until a plan's evidence takes a candidate back whose shares of bad events are `bad`."""
    rng = np.random.default_rng(seed)
    evidence = Evidence.start(plan.evidence_metrics, plan.max_duration_s)
    share = STEP.weight
    other = share if plan.twin else 1 - share
    for number in itertools.count(1):
        n_c, n_b = (int(rng.poisson(TRAFFIC.rate * part * 5.0)) for part in (share, other))
        arms = [
            {m: Count(n, int(rng.binomial(n, p))) for m, p in rates.items()} for n, rates in ((n_c, bad), (n_b, usual))
        ]
        evidence = evidence.taken(Tick.unkeyed(5.0, *arms))
        if evidence.worse(plan.alpha):
            return number * 5.0
    raise AssertionError


@pytest.mark.parametrize(("factor", "twin"), [(5, False), (10, False), (10, True)])
def test_errors_are_seen_about_when_the_report_says(factor: int, twin: bool) -> None:
    plan = replace(Plan(), twin=twin)
    told = found(plan)[f"errors x{factor}"]
    seen = fmean(simulated(plan, {"errors": factor * 0.001}, {"errors": 0.001}, seed) for seed in range(40))
    assert told.seconds == pytest.approx(seen, rel=0.35)
    assert told.requests == pytest.approx(told.seconds * 50 * 0.05)


@pytest.mark.parametrize("twin", [True, False])
def test_slowness_is_seen_about_when_the_report_says(twin: bool) -> None:
    # One metric: where several see the same thing they help one another, which the report leaves out.
    plan = replace(Plan(), twin=twin, metrics=("p90",))
    told = found(plan)["latency +20 %"]
    seen = fmean(simulated(plan, {"p90": SLOW["p90"][0]}, {"p90": USUAL["p90"]}, seed) for seed in range(40))
    assert told.seconds == pytest.approx(seen, rel=0.35)


def test_more_traffic_a_larger_share_and_a_larger_effect_are_seen_sooner() -> None:
    plan = Plan()
    base = found(plan)
    assert base["errors x10"].seconds < base["errors x5"].seconds < base["errors x2"].seconds
    for more in (found(plan, Step(0.25, 300.0)), found(plan, STEP, replace(TRAFFIC, rate=250.0))):
        assert all(more[effect].seconds < base[effect].seconds for effect in base)
    weaker = found(replace(plan, alpha=0.001))
    assert all(weaker[effect].seconds > base[effect].seconds for effect in base)


def test_no_sooner_than_the_least_bad_events_can_have_happened() -> None:
    loud = Traffic(50.0, 0.1, {})
    assert found(Plan(), STEP, loud)["errors x10"].seconds >= 3 / (50 * 0.05)


def test_a_baseline_that_the_metric_does_not_know_and_a_share_of_all_show_nothing() -> None:
    assert found(Plan(), STEP, replace(TRAFFIC, slow={}))["latency +20 %"].seconds == math.inf
    assert found(replace(Plan(), twin=False), Step(1.0, 300.0))["errors x10"].seconds == math.inf
    assert found(Plan(), STEP, Traffic(0.0, 0.001, {}))["errors x10"] == Detection("errors x10", math.inf, math.inf)


def test_what_the_whole_plan_misses_is_said_and_nothing_else() -> None:
    short = replace(Plan(), steps=(Step(0.05, 60.0),), watch_s=0.0)
    effects = [text.split(" would")[0] for text in missed(short, TRAFFIC)]
    assert effects == ["errors x2", "errors x5", "errors x10", "latency +20 %"]
    assert missed(Plan(), replace(TRAFFIC, rate=1e5)) == []
    assert missed(Plan(), replace(TRAFFIC, rate=0.0)) == ["there is no traffic now: nothing would be seen at all"]
