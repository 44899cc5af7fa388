"""The e-process by hand, its laws, and a short version of EVIDENCE's table."""

import json
import math

import pytest

import evidence as simulation
from turnout.rollout.evidence import DISAGREEMENT, Count, Evidence, Tick, disagreement, errors, latency

METRICS = (errors(0.4), latency("p99", 0.6))


def tick(canary: Count, baseline: Count, name: str = "errors", seconds: float = 5.0, batch: int = 1) -> Tick:
    return Tick.unkeyed(seconds, {name: canary}, {name: baseline}, batch)


def test_one_tick_by_hand() -> None:
    seen = Evidence.start((errors(1.0),), 3600.0).taken(tick(Count(100, 5), Count(1900, 10)))
    gamma = 0.5 + 0.5 * 5 / 3600
    values = []
    for r in (2, 3, 5, 10, 30):
        theta, null = r * 100 / (r * 100 + 1900), 150 / (150 + 1900)
        values.append(gamma * (theta / null) ** 5 * ((1 - theta) / (1 - null)) ** 10)
    assert seen.of("errors") == pytest.approx(sum(values) / 5)
    assert seen.combined == pytest.approx(sum(values) / 5)


def test_fewer_bad_events_than_the_floor_add_nothing() -> None:
    seen = Evidence.start(METRICS, 3600.0).taken(tick(Count(10, 2), Count(10**6, 0)))
    assert seen.combined == 0


def test_a_tick_without_an_arm_says_nothing() -> None:
    start = Evidence.start(METRICS, 3600.0)
    alone = start.taken(tick(Count(100, 50), Count(0, 0), seconds=0.0))
    assert alone.accumulators["errors"].worse == start.accumulators["errors"].worse


def test_requests_that_share_their_fate_weigh_as_one() -> None:
    start = Evidence.start(METRICS, 3600.0).taken(Tick.unkeyed(0.0, {}, {}, 8))
    assert start.phi == 8
    step = start.taken(tick(Count(100, 8), Count(900, 8), seconds=0.0)).accumulators["errors"].worse[0]
    single = Evidence.start(METRICS, 3600.0).taken(tick(Count(100, 8), Count(900, 8), seconds=0.0))
    gamma = math.log(0.5)
    assert (step - gamma) * 8 == pytest.approx(single.accumulators["errors"].worse[0] - gamma)


def test_the_mass_of_the_mixture_is_at_most_one() -> None:
    seen = Evidence.start(METRICS, 60.0)
    for _ in range(100):
        seen = seen.taken(Tick.unkeyed(5.0, {}, {}))
    assert seen.left == pytest.approx(0.0)
    assert all(math.exp(m) == pytest.approx(1.0) for m in seen.accumulators["errors"].worse)


def test_the_log_replays_to_the_very_same_number() -> None:
    seen = replayed = Evidence.start(METRICS, 3600.0)
    for number in range(200):
        canary = {"errors": Count(12, number % 3), "p99": Count(12, 1)}
        one = Tick.unkeyed(5.0, canary, {"errors": Count(200, 1)}, 1 + number % 2)
        seen = seen.taken(one)
        replayed = replayed.taken(Tick.from_json(json.loads(json.dumps(one.to_json()))))
        if number == 100:
            replayed = Evidence.from_json(json.loads(json.dumps(replayed.to_json())), METRICS)
    assert replayed == seen
    assert replayed.combined == seen.combined


def test_disagreement_is_tested_against_a_rate_of_its_own() -> None:
    start = Evidence.start((disagreement(1.0, 0.01),), 3600.0)
    bad = start.taken(Tick.unkeyed(0.0, {DISAGREEMENT: Count(100, 20)}, {}))
    assert bad.worse(0.01)
    good = start.taken(Tick.unkeyed(0.0, {DISAGREEMENT: Count(400, 0)}, {}))
    assert good.fit(DISAGREEMENT) >= 20
    assert not good.worse(0.01)


def test_promotion_takes_evidence_or_a_clean_canary_and_exposure() -> None:
    start = Evidence.start((errors(1.0),), 3600.0)
    clean = start.taken(tick(Count(50, 0), Count(950, 1)))
    assert clean.unproven(0.05, 100) == ["errors"]
    assert clean.unproven(0.05, 50) == []
    same = start
    for _ in range(40):
        same = same.taken(tick(Count(100, 10), Count(100, 10)))
    assert same.unproven(0.05, 10**9) == []
    assert not same.worse(0.01)


def test_few_errors_among_many_requests_are_fit_although_no_ratio_can_be_shown() -> None:
    start = Evidence.start((errors(1.0),), 3600.0)
    few = start.taken(tick(Count(45_000, 1), Count(45_000, 1)))
    assert few.fit("errors") < 20
    assert few.unproven(0.05, 0) == []
    assert start.taken(tick(Count(450, 1), Count(450, 1))).unproven(0.05, 0) == ["errors"]
    shared = start.taken(Tick.unkeyed(0.0, {}, {}, 8)).taken(tick(Count(9_000, 1), Count(9_000, 1), batch=8))
    assert shared.unproven(0.05, 0) == ["errors"], "requests of one batch count as one"


def test_stalls_and_disagreement_hold_no_promotion() -> None:
    start = Evidence.start((latency("stalled", 0.5), disagreement(0.5, 0.01)), 3600.0)
    seen = start.taken(tick(Count(1000, 2), Count(1000, 1), "stalled"))
    assert seen.unproven(0.05, 0) == []


@pytest.mark.parametrize("case", list(simulation.cases()), ids=lambda case: case.name)
def test_a_short_version_of_the_table(case) -> None:
    hours = 0.5 if case.kind == "null" else 2.0
    row = simulation.measured(case, 8 if case.kind == "null" else 20, seed=1, hours=hours)
    if case.kind == "null":
        assert row["rolled_back_ratio"] <= 1 / 8
    else:
        assert row["rolled_back_ratio"] == 1
        assert float(row["median_minutes"]) <= 2 * (float(row["expected_median_minutes"]) + 0.05)
