"""Requests that are bad at about the same time, though not one after the other, and candidates that fail in bursts."""

import json

import numpy as np
import pytest

from simulations import bursts as simulation
from simulations.queue import sequences
from turnout.rollout.evidence import ERRORS, Count, Evidence, Stratum, Tick, errors
from turnout.rollout.evidence.clusters import clustered, scattered
from turnout.rollout.evidence.per_server import PerServer
from turnout.rollout.evidence.serial import InSequence, RecentSequences


def dispersion(canary: list[int], baseline: list[int], requests: tuple[int, int] = (250, 250)) -> float:
    """The estimate of one metric, from the bad requests in each block of time."""
    bad = np.stack([canary, baseline], axis=-1)[:, None, :]
    (found,) = clustered(np.broadcast_to(np.array(requests), bad.shape), bad)
    return float(found)


def test_independent_requests_count_as_themselves() -> None:
    rng = np.random.default_rng(1)
    found = [dispersion(list(rng.binomial(250, 0.1, 12)), list(rng.binomial(250, 0.1, 12))) for _ in range(400)]
    assert np.mean(np.array(found) > 1.0) < 0.05


@pytest.mark.parametrize("requests", [(250, 250), (250, 25), (250, 2500)])
def test_what_is_bad_at_one_time_counts_about_once_in_either_arm(requests: tuple[int, int]) -> None:
    burst, none = [0] * 5 + [100] + [0] * 6, [0] * 12
    assert 75 < dispersion(burst, none, requests) <= 100
    assert 75 < dispersion(none, burst, requests) <= 100


def test_what_happens_to_both_arms_at_once_cancels() -> None:
    waves = [10, 10, 100, 100, 10, 10, 100, 100, 10, 10, 100, 100]
    assert dispersion(waves, waves) == 1.0
    assert dispersion(waves, [one // 10 for one in waves], (250, 25)) == 1.0


def test_a_candidate_that_is_worse_all_the_time_has_no_occasions() -> None:
    assert dispersion([125] * 12, [1] * 12) == 1.0
    assert dispersion([250] * 12, [0] * 12) == 1.0
    assert dispersion([0] * 12, [0] * 12) == dispersion([5] * 3, [0] * 3, (250, 0)) == 1.0


def test_until_there_is_a_past_what_lasts_for_ten_seconds_may_be_one_occasion() -> None:
    requests, none = np.full((2, 1, 2), 250), [0, 0]
    bad = np.stack([[50, 50], none], axis=-1)[:, None, :]
    (first,), (second,) = (clustered(requests[:n], bad[:n], young=True).tolist() for n in (1, 2))
    assert (first, second) == (pytest.approx(50 / 4), pytest.approx(50 * 2 / 9))


def scatter(canary: np.ndarray, baseline: np.ndarray, requests: int = 250) -> float:
    """The estimate of one metric over many blocks of time."""
    bad = np.stack([canary, baseline], axis=-1)[:, None, :]
    (found,) = scattered(np.full_like(bad, requests), bad)
    return float(found)


def test_retries_between_other_requests_show_over_many_blocks_though_not_over_a_few() -> None:
    rng = np.random.default_rng(6)
    retried = [[4 * rng.poisson(0.75, 180) for _ in range(2)] for _ in range(40)]
    assert 2.5 < np.median([scatter(*arms) for arms in retried]) < 4.5
    assert np.median([dispersion(*(list(one[:4]) for one in arms)) for arms in retried]) < 2


def test_independent_requests_do_not_scatter() -> None:
    rng = np.random.default_rng(7)
    for rate in (0.01, 0.1, 0.5):
        found = [scatter(rng.binomial(250, rate, 180), rng.binomial(250, rate, 180)) for _ in range(200)]
        assert np.mean(np.array(found) > 1.0) < 0.05


def test_one_that_begins_to_fail_does_not_scatter_for_long_and_one_burst_not_at_all() -> None:
    rng = np.random.default_rng(8)
    before, fine, failing = rng.poisson(0.25, 120), rng.poisson(0.25, 180), rng.poisson(12.5, 60)
    assert scatter(np.concatenate([before, failing]), fine) < 3
    burst = fine.copy()
    burst[100] = 150
    assert scatter(burst, rng.poisson(0.25, 180)) == 1.0


def test_retries_are_recognized_from_recorded_sequences_and_the_latest_minute_is_left_out() -> None:
    recent, rng = RecentSequences[int](), np.random.default_rng(9)
    found = []
    for tick in range(96):
        arms = [[False] * 250, [False] * 250]
        for bad in arms if tick < 84 else arms[:1]:  # in the last minute, the canary fails half of its requests
            for first in rng.choice(60, rng.poisson(0.75), replace=False) * 4:
                bad[first : first + 8 : 2] = [True] * 4
        if tick >= 84:
            arms[0] = list(rng.random(250) < 0.5)
        found.append(recent.take(tick * 5.0, 0, arm(arms[0]), arm(arms[1])).get(ERRORS, 1.0))
    assert 2.5 < np.median(found[60:84]) < 5
    assert 2.5 < found[-1] < 5


def arm(bad: list[bool]) -> dict[str, InSequence]:
    """One tick, of 50 requests a second."""
    (found,) = sequences(np.zeros(len(bad)), np.array(bad), 1)
    return {ERRORS: found}


GOOD, DOWN, HALF = [False] * 250, [True] * 250, [True, False] * 125


def test_a_full_queue_that_refuses_every_other_request_is_one_occasion() -> None:
    recent = RecentSequences[int]()
    for tick in range(6):
        assert recent.take(tick * 5.0, 0, arm(GOOD), arm(GOOD)) == {}
    found = recent.take(30.0, 0, arm(HALF), arm(GOOD))
    assert 65 < found[ERRORS] <= 125


def test_a_burst_is_remembered_for_five_minutes_so_that_single_errors_do_not_outweigh_it() -> None:
    recent = RecentSequences[int]()
    recent.take(0.0, 0, arm([False] * 100 + [True] * 150), arm(GOOD))
    for tick in range(1, 60):
        assert recent.take(tick * 5.0, 0, arm(GOOD), arm([*GOOD[1:], True]))[ERRORS] > 50, tick
    assert recent.take(300.0, 0, arm(GOOD), arm([*GOOD[1:], True])) == {}


@pytest.mark.parametrize("share", [0.1, 0.5, 0.98])
@pytest.mark.parametrize("before", [0, 100])
def test_what_fails_often_for_twenty_seconds_is_no_burst(share: float, before: int) -> None:
    recent, rng = RecentSequences[int](), np.random.default_rng(5)
    for tick in range(before):
        recent.take(tick * 5.0, 0, arm(list(rng.random(250) < 0.001)), arm(GOOD))
    for tick in range(before, before + 5):
        found = recent.take(tick * 5.0, 0, arm(list(rng.random(250) < share)), arm(GOOD))
    assert found.get(ERRORS, 1.0) < 1.5


def test_where_everything_is_bad_for_ten_seconds_neither_bursts_nor_clusters_matter() -> None:
    recent = RecentSequences[int]()
    for tick in range(20):
        recent.take(tick * 5.0, 0, arm(GOOD), arm(GOOD))
    assert recent.take(100.0, 0, arm(DOWN), arm(GOOD))[ERRORS] > 200
    recent.take(105.0, 0, arm(DOWN), arm(GOOD))
    assert recent.take(110.0, 0, arm(DOWN), arm(GOOD)) == {}


def test_short_ticks_show_what_long_ones_do() -> None:
    found = {}
    for parts in (1, 50):
        recent, rng = RecentSequences[int](), np.random.default_rng(3)
        for tick in range(12):
            bad = rng.random(250) < (0.4 if tick == 10 else 0.01)
            for part, some in enumerate(np.split(bad, parts)):
                at = tick * 5.0 + (part + 1) * 5.0 / parts
                found[parts] = recent.take(at, 0, arm(list(some)), arm([False] * (250 // parts)))
    assert found[50][ERRORS] == pytest.approx(found[1][ERRORS], rel=0.35)
    assert found[1][ERRORS] > 40


def test_recorded_ticks_of_two_servers_give_the_same_number_across_a_restart() -> None:
    rng, recent = np.random.default_rng(4), (RecentSequences[int](), RecentSequences[int]())
    metrics = (errors(1.0),)
    seen = read = fresh = Evidence.start(metrics, 3600.0)
    each = again = PerServer()
    for tick in range(40):
        strata = []
        for server, known in enumerate(recent):
            canary, baseline = (arm(list(rng.random(250) < (0.5 if rng.random() < 0.1 else 0.01))) for _ in range(2))
            counts = [{ERRORS: Count(one[ERRORS].requests, one[ERRORS].bad)} for one in (canary, baseline)]
            strata.append(
                Stratum(f"{server}", *counts, dispersion=known.take(tick * 5.0, 0, canary, baseline)),
            )
        one = Tick(5.0, tuple(strata))
        seen, each = seen.taken(one), each.with_tick(one, fresh)
        recorded = Tick.from_json(json.loads(json.dumps(one.to_json())))
        read, again = read.taken(recorded), again.with_tick(recorded, fresh)
        if tick == 20:
            read = Evidence.from_json(json.loads(json.dumps(read.to_json())), metrics)
            again = PerServer.from_json(json.loads(json.dumps(again.to_json())), metrics)
            recent = (RecentSequences[int](), RecentSequences[int]())
    assert (read, again) == (seen, each)
    assert any(stratum.dispersion for stratum in strata)


CASES = {case.name: case for case in simulation.burst_cases()}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.kind == "null"])
def test_versions_that_do_not_differ_are_not_rolled_back_for_bursts(name: str) -> None:
    found = [simulation.burst_rollback(CASES[name], np.random.default_rng(seed), hours=0.5) for seed in range(6)]
    assert found == [None] * 6


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.kind == "detect"])
def test_one_that_fails_is_rolled_back_and_never_called_fit(name: str) -> None:
    case = CASES[name]
    outcomes = [simulation.burst_outcome(case, np.random.default_rng(seed), hours=1.0) for seed in range(5)]
    found = [minute for minute, _ in outcomes if minute is not None]
    assert len(found) == 5
    assert np.median(found) <= 1.35 * case.expected
    if not case.canary.late:
        assert not any(fit for _, fit in outcomes)
