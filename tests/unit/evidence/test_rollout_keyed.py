"""Keyed traffic as evidence: what it is held to by hand, by simulation, and across a restart."""

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from simulations import keyed as simulation
from turnout.rollout.evidence import (
    GROUPS,
    LEAST_UNITS,
    Count,
    Evidence,
    Fitness,
    Stratum,
    Tick,
    Units,
    errors,
    latency,
)
from turnout.rollout.evidence.dispersion import effective_units, standardised, weigh
from turnout.rollout.evidence.keyed import KeyedTest

P90 = latency("p90", 1.0)


def units(requests: dict[int, int], bad: dict[int, int], share: float | dict[int, float] = 0.1) -> Units:
    """One arm's keyed counts, of the groups named; what is expected of each is its requests times a share."""
    n, x, e = np.zeros(GROUPS, int), np.zeros(GROUPS, int), np.zeros(GROUPS)
    for group, count in requests.items():
        n[group], x[group] = count, bad.get(group, 0)
        e[group] = count * (share[group] if isinstance(share, dict) else share)
    return Units(n, x, e)


def keyed(canary: Units, baseline: Units, metric: str = "p90", server: str = "", seconds: float = 5.0) -> Tick:
    return Tick(seconds, (Stratum(server, {}, {}, {metric: canary}, {metric: baseline}),))


def ticks_of(seed: int, keys: int = 60, number: int = 40, effect: float = 1.0) -> Iterator[Tick]:
    """Ticks of two servers, with and without keys; each key has a rate and a share of bad events of its own."""
    rng = np.random.default_rng(seed)
    rates, shares = rng.gamma(1.0, 3.0, (2, keys)), np.minimum(0.1 * np.exp(rng.normal(0, 0.5, (2, keys))), 0.9)
    for _ in range(number):
        strata = []
        for server, hard in (("a", 1.0), ("b", 1.5)):
            arms = []
            for arm, times in ((0, effect), (1, 1.0)):
                n = np.zeros(GROUPS, int)
                n[:keys] = rng.poisson(rates[arm])
                x = np.zeros(GROUPS, int)
                x[:keys] = rng.binomial(n[:keys], np.minimum(shares[arm] * hard * times, 1))
                e = np.zeros(GROUPS)
                e[:keys] = n[:keys] * shares[arm] * hard
                arms.append(Units(n, x, e))
            plain = [Count(20, int(rng.binomial(20, 0.1 * hard))) for _ in range(2)]
            strata.append(Stratum(server, {"p90": plain[0]}, {"p90": plain[1]}, {"p90": arms[0]}, {"p90": arms[1]}))
        yield Tick(5.0, tuple(strata))


def taken(evidence: Evidence, *ticks: Tick) -> Evidence:
    for tick in ticks:
        evidence = evidence.taken(tick)
    return evidence


def test_units_that_never_differ_tell_what_unkeyed_requests_would_but_for_their_number() -> None:
    many = range(200)
    tick = keyed(units(dict.fromkeys(many, 10), dict.fromkeys(many, 3)), units(dict.fromkeys(many, 10), {}))
    start = Evidence.start((P90,), 3600.0)
    seen = start.taken(replace(tick, seconds=0.0))
    plain = start.taken(Tick.unkeyed(0.0, {"p90": Count(2000, 600)}, {"p90": Count(2000, 0)}))
    test = seen.accumulators["p90"].keyed
    assert test is not None
    assert float(test.worse.units) == pytest.approx(200)
    assert float(test.worse.phi) == pytest.approx(199 / 197)
    # Each unit has three bad events: its weight is 1 / (1 + 0.01 * 3), and of the baseline's nothing is left to weigh.
    raw = np.array(plain.accumulators["p90"].worse) - np.log(0.5)
    mine = np.array(seen.accumulators["p90"].worse) - np.log(0.5)
    assert mine == pytest.approx(raw / 1.03 * 197 / 199, rel=0.03)


def test_what_was_always_slow_is_no_news_and_what_became_so_is() -> None:
    some = range(40)
    slow = dict.fromkeys(some, 0.1) | {0: 0.8}
    bad = dict.fromkeys(some, 2) | {0: 16}
    even = units(dict.fromkeys(some, 20), dict.fromkeys(some, 2))
    was_slow = keyed(units(dict.fromkeys(some, 20), bad, slow), even)
    became_slow = keyed(units(dict.fromkeys(some, 20), {one: min(2 * n, 20) for one, n in bad.items()}), even)
    calm, alarmed = (taken(Evidence.start((P90,), 3600.0), *[tick] * 10) for tick in (was_slow, became_slow))
    assert calm.combined < 1
    assert alarmed.combined > 100


def test_below_the_least_units_keyed_traffic_tells_nothing_and_the_rest_does() -> None:
    nine = range(LEAST_UNITS - 1)
    bad = keyed(units(dict.fromkeys(nine, 50), dict.fromkeys(nine, 50)), units(dict.fromkeys(nine, 50), {}))
    start = Evidence.start((P90,), 3600.0)
    seen = taken(start, *[bad] * 20)
    assert seen.combined <= 1
    assert seen.effective_units == pytest.approx(9)
    plain = Stratum("", {"p90": Count(100, 40)}, {"p90": Count(100, 10)})
    both = taken(start, *[replace(bad, strata=(*bad.strata, plain))] * 3)
    alone = taken(start, *[Tick(5.0, (plain,))] * 3)
    assert both.accumulators["p90"].worse == pytest.approx(alone.accumulators["p90"].worse)
    assert alone.worse(0.01)
    ten = range(LEAST_UNITS)
    more = keyed(units(dict.fromkeys(ten, 50), dict.fromkeys(ten, 50)), units(dict.fromkeys(ten, 50), {}))
    assert taken(start, *[more] * 20).worse(0.01)


def test_servers_that_differ_do_not_confound() -> None:
    """The slow server has most of the canary: pooled, the canary would look three times as slow."""
    many = range(100)
    arms = {
        "fast": (units(dict.fromkeys(many, 10), {}), units(dict.fromkeys(many, 90), dict.fromkeys(range(90), 1), 0.01)),
        "slow": (
            units(dict.fromkeys(many, 90), dict.fromkeys(many, 45), 0.5),
            units(dict.fromkeys(many, 10), dict.fromkeys(many, 5), 0.5),
        ),
    }
    strata = tuple(Stratum(name, {}, {}, {"p90": c}, {"p90": b}) for name, (c, b) in arms.items())
    unkeyed = tuple(Stratum(n, {"p90": c.total}, {"p90": b.total}) for n, (c, b) in arms.items())
    for tick in (Tick(5.0, strata), Tick(5.0, unkeyed)):
        assert taken(Evidence.start((P90,), 3600.0), *[tick] * 20).combined < 1
    pooled = Tick.unkeyed(5.0, Tick(5.0, unkeyed).canary, Tick(5.0, unkeyed).baseline)
    assert taken(Evidence.start((P90,), 3600.0), *[pooled] * 20).worse(0.01)


def test_a_scale_of_the_expectations_cancels() -> None:
    def scaled(tick: Tick, by: float) -> Tick:
        def arm(counts: dict[str, Units]) -> dict[str, Units]:
            return {name: Units(one.requests, one.bad, by * one.expected) for name, one in counts.items()}

        return replace(
            tick,
            strata=tuple(
                replace(s, keyed_canary=arm(s.keyed_canary), keyed_baseline=arm(s.keyed_baseline)) for s in tick.strata
            ),
        )

    start, ticks = Evidence.start((P90,), 3600.0), list(ticks_of(3))
    mine, other = (taken(start, *(scaled(t, by) for t in ticks)) for by in (1.0, 7.0))
    assert mine.accumulators["p90"].worse == pytest.approx(other.accumulators["p90"].worse, rel=1e-6)


def test_the_log_replays_to_the_very_same_number_across_a_restart() -> None:
    seen = replayed = Evidence.start((P90, errors(0.0)), 3600.0)
    for number, tick in enumerate(ticks_of(1, effect=1.6)):
        seen = seen.taken(tick)
        replayed = replayed.taken(Tick.from_json(json.loads(json.dumps(tick.to_json()))))
        if number == 20:
            replayed = Evidence.from_json(json.loads(json.dumps(replayed.to_json())), replayed.metrics)
    assert replayed == seen
    assert replayed.combined == seen.combined
    assert not seen.problem()
    assert seen.effective_units is not None


def test_a_tick_as_earlier_releases_wrote_it_is_read() -> None:
    old = {"seconds": 5.0, "canary": {"errors": [7, 1]}, "baseline": {"errors": [90, 2]}, "largest_batch": 4}
    assert Tick.from_json(old) == Tick.unkeyed(5.0, {"errors": Count(7, 1)}, {"errors": Count(90, 2)}, 4)


@pytest.mark.parametrize(
    "columns",
    [[[512], [1], [0], [0.1]], [[0], [1], [2], [0.1]], [[0], [1], [-1], [0.1]], [[0], [1], [0], [float("nan")]]],
)
def test_counts_that_cannot_be_are_refused(columns: list[list[float]]) -> None:
    with pytest.raises(ValueError, match=r"expected|groups"):
        Units.from_json(columns)


def test_a_thousand_runs_at_once_are_what_evidence_makes_of_each() -> None:
    """The simulation hands the runs of a case to `KeyedTest` along a leading axis; this is the bridge to ticks."""
    rng, runs = np.random.default_rng(5), 3
    shares = np.full((2, GROUPS), 0.1)
    test = KeyedTest.start(P90.null, P90.alternatives, np.full((runs, 5), np.log(0.5)), GROUPS)
    single = [Evidence.start((P90,), 1200.0)] * runs
    for _ in range(30):
        bad = rng.poisson(0.2, (runs, 2, GROUPS))
        requests = bad + rng.poisson(1.0, bad.shape)
        expected = (requests * shares).astype(np.float32).astype(float)
        test = test.taken([(bad.astype(float), expected)], np.zeros(1), 0.5 * 5 / 1200, 1)
        for run in range(runs):
            arms = [Units(requests[run, arm], bad[run, arm], expected[run, arm]) for arm in (0, 1)]
            single[run] = single[run].taken(keyed(*arms))
    for run in range(runs):
        assert test.log_m[run].tolist() == pytest.approx(single[run].accumulators["p90"].worse, rel=1e-12)


def test_a_tenant_whose_every_request_fails_is_not_hidden_among_many() -> None:
    everybody = dict.fromkeys(range(300), 400)
    few = dict.fromkeys(range(0, 300, 30), 1)
    start = Evidence.start((errors(1.0),), 3600.0)
    spread = start.taken(keyed(units(everybody, few), units(everybody, few), "errors"))
    assert spread.fitness(spread.metrics[0], 0.05, 10**9) is Fitness.FINE
    one = start.taken(keyed(units(everybody | {0: 10}, {0: 10}), units(everybody, few), "errors"))
    assert one.accumulators["errors"].canary.bad == spread.accumulators["errors"].canary.bad
    assert one.fitness(one.metrics[0], 0.05, 10**9) is Fitness.OPEN


def test_units_by_hand() -> None:
    assert effective_units(np.array([1.0, 1.0, 1.0])) == pytest.approx(3)
    assert effective_units(np.array([100.0, 1.0, 1.0])) == pytest.approx(102**2 / 10_002)
    bad, exposure = np.array([[3.0, 0.0], [1.0, 0.0]]), np.array([[2.0, 2.0], [4.0, 4.0]])
    kept, expected = standardised(bad, exposure, 1.5)
    assert kept.tolist() == bad.tolist()
    assert expected == pytest.approx(exposure * 4 / (1.5 * 4 + 8))
    assert standardised(bad, exposure * [[1.0], [0.0]], 1.5)[1].sum() == 0
    same = np.full((2, 50), 8.0)
    assert float(weigh(same, same, 1.25, 1).phi) == pytest.approx(49 / 47)
    assert float(weigh(same, same, 1.25, 8).phi) == 8


CASES = {case.name: case for case in simulation.keyed_cases()}
SHORT = (
    "p90: no difference, 200 keys, sigma 1", "p90: exactly r0, 200 keys, sigma 1",
    "p90: no difference, 20 keys, sigma 1",
    "errors: exactly r0, 500 keys, sigma 0.5", "p90: no difference, 500 alike and one slow key",
    "p90: exactly r0, 200 keys, sigma 1, one heavy key (30 %)", "p90: no difference, 200 keys, sigma 0.5, batches of 8",
    "p90: exactly r0, 500 keys, sigma 0.5, weights 1 5 25 40 %", "p90: exactly r0, 200 keys, sigma 1, no history",
    "p90 exceedances x1.8, 500 keys, sigma 0.5", "errors 0.1 % x10, 200 keys, sigma 1",
)  # fmt: skip


@pytest.mark.parametrize("name", SHORT)
def test_a_short_version_of_the_table(name: str) -> None:
    row = simulation.keyed_row(CASES[name], 100, seed=1, hours=1.0)
    if row["kind"] == "null":
        assert float(str(row["rolled_back_ratio"])) <= 0.01
    else:
        assert float(str(row["rolled_back_ratio"])) >= 0.95
        assert float(str(row["median_minutes"])) <= 1.5 * float(str(row["expected_median_minutes"]))
