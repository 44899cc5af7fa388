"""The power report, held against rollouts that are simulated with the evidence itself."""

import itertools
import math
from dataclasses import replace
from statistics import NormalDist, fmean

import numpy as np
import pytest

from simulations import keyed as keyed_simulation
from turnout.rollout.evidence import GROUPS, Count, Evidence, Tick, errors, latency
from turnout.rollout.plan import Plan, PlanStep
from turnout.rollout.power import Detection, TrafficEstimate, detections, expected_units, keyed_text, missed

NORMAL = NormalDist()
USUAL = {"p90": 0.10, "p95": 0.05, "p99": 0.01}
SLOW = {
    name: (1 - NORMAL.cdf(NORMAL.inv_cdf(1 - p) - math.log(1.2) / 0.5), p) for name, p in USUAL.items()
}  # lognormal latencies of sigma 0.5, each 1.2 times as long
TRAFFIC = TrafficEstimate(50.0, 0.001, SLOW)
STEP = PlanStep(0.05, 300.0)


def found(plan: Plan, step: PlanStep = STEP, traffic: TrafficEstimate = TRAFFIC) -> dict[str, Detection]:
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
    detection = found(plan)[f"errors x{factor}"]
    seen = fmean(simulated(plan, {"errors": factor * 0.001}, {"errors": 0.001}, seed) for seed in range(40))
    assert detection.seconds == pytest.approx(seen, rel=0.35)
    assert detection.requests == pytest.approx(detection.seconds * 50 * 0.05)


@pytest.mark.parametrize("twin", [True, False])
def test_slowness_is_seen_about_when_the_report_says(twin: bool) -> None:
    # One metric: where several see the same thing they help one another, which the report leaves out.
    plan = replace(Plan(), twin=twin, metrics=("p90",))
    detection = found(plan)["latency +20 %"]
    seen = fmean(simulated(plan, {"p90": SLOW["p90"][0]}, {"p90": USUAL["p90"]}, seed) for seed in range(40))
    assert detection.seconds == pytest.approx(seen, rel=0.35)


def test_more_traffic_a_larger_share_and_a_larger_effect_are_seen_sooner() -> None:
    plan = Plan()
    base = found(plan)
    assert base["errors x10"].seconds < base["errors x5"].seconds < base["errors x2"].seconds
    for more in (found(plan, PlanStep(0.25, 300.0)), found(plan, STEP, replace(TRAFFIC, rate=250.0))):
        assert all(more[effect].seconds < base[effect].seconds for effect in base)
    weaker = found(replace(plan, alpha=0.001))
    assert all(weaker[effect].seconds > base[effect].seconds for effect in base)


def test_no_sooner_than_the_least_bad_events_can_have_happened() -> None:
    loud = TrafficEstimate(50.0, 0.1, {})
    assert found(Plan(), STEP, loud)["errors x10"].seconds >= 3 / (50 * 0.05)


def test_a_baseline_that_the_metric_does_not_know_and_a_share_of_all_show_nothing() -> None:
    assert found(Plan(), STEP, replace(TRAFFIC, slow={}))["latency +20 %"].seconds == math.inf
    assert found(replace(Plan(), twin=False), PlanStep(1.0, 300.0))["errors x10"].seconds == math.inf
    assert found(Plan(), STEP, TrafficEstimate(0.0, 0.001, {}))["errors x10"] == Detection(
        "errors x10", math.inf, math.inf
    )


def test_what_the_whole_plan_misses_is_said_and_nothing_else() -> None:
    short = replace(Plan(), steps=(PlanStep(0.05, 60.0),), watch_s=0.0)
    effects = [text.split(" would")[0] for text in missed(short, TRAFFIC)]
    assert effects == ["errors x2", "errors x5", "errors x10", "latency +20 %"]
    assert missed(Plan(), replace(TRAFFIC, rate=1e5)) == []
    assert missed(Plan(), replace(TRAFFIC, rate=0.0)) == ["there is no traffic now: nothing would be detected"]


# Traffic with routing keys


def groups_of(keys: int, share: float = 1.0, seed: int = 1) -> list[float]:
    """Shares of all requests by slot group, of keys whose rates follow Zipf's law."""
    rates = 1 / np.arange(1, keys + 1) ** 0.8
    groups = np.random.default_rng(seed).integers(0, GROUPS, keys)
    return [float(one) for one in np.bincount(groups, share * rates / rates.sum(), GROUPS)]


@pytest.mark.parametrize("keys", [500, 5000])
def test_keyed_errors_are_seen_about_when_the_report_says(keys: int) -> None:
    plan = replace(Plan(), metrics=("errors",))
    detection = found(plan, PlanStep(0.25, 900.0), replace(TRAFFIC, keyed=groups_of(keys)))["errors x10"]
    case = keyed_simulation.KeyedCase("", "detect", keys, 0.0, errors(1.0), 0.001, 10.0, tick=10.0)
    seen = float(np.nanmean(keyed_simulation.simulated(case, 100, 1, hours=0.5).minutes))
    assert detection.seconds / 60 == pytest.approx(seen, rel=0.35)


def test_units_are_foreseen_about_as_they_come_out() -> None:
    """Where a group has several keys they are taken to be alike, so that what is foreseen is up to twice too many."""
    for keys, most in ((50, 1.35), (200, 1.35), (2000, 2.0)):
        traffic = replace(TRAFFIC, keyed=groups_of(keys), slow={"p90": (0.1, 0.1)})
        case = keyed_simulation.KeyedCase("", "null", keys, 0.0, latency("p90", 1.0), 0.1)
        seen = float(np.median(keyed_simulation.simulated(case, 40, 1, hours=0.25).units))
        assert seen / 1.35 <= expected_units(Plan(), PlanStep(0.25, 900.0), traffic) <= seen * most


def test_keyed_traffic_is_never_seen_sooner_and_heavy_keys_are_seen_later() -> None:
    step, plain = PlanStep(0.25, 900.0), found(Plan(), PlanStep(0.25, 900.0))
    for shares in (groups_of(100), groups_of(1000), [0.5, *groups_of(300, 0.5)[1:]]):
        keyed = found(Plan(), step, replace(TRAFFIC, keyed=shares))
        assert all(keyed[effect].seconds >= plain[effect].seconds for effect in plain)
    half = found(Plan(), step, replace(TRAFFIC, keyed=groups_of(3, 0.5)))
    twice = found(Plan(), step, replace(TRAFFIC, rate=25.0))
    assert half["errors x10"].seconds == pytest.approx(twice["errors x10"].seconds, rel=0.01), "only the unkeyed half"


def test_a_plan_says_from_which_step_on_keyed_traffic_tells_anything() -> None:
    (message,) = [
        text for text in missed(Plan(), replace(TRAFFIC, keyed=groups_of(200))) if "effective tenants" in text
    ]
    assert "at 5%, and 10 are needed: no verdict from keyed traffic before step 3" in message
    assert "in any step" in keyed_text(Plan(), replace(TRAFFIC, keyed=groups_of(8)))
    assert keyed_text(Plan(), replace(TRAFFIC, keyed=groups_of(5000))) == ""
    assert keyed_text(Plan(), TRAFFIC) == ""
