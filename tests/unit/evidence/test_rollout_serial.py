"""Requests that wait for one another: a run that takes long is one occasion, however many come after it."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations import queue as simulation
from turnout.rollout.counters import Counters
from turnout.rollout.evidence import GROUPS, Count, Evidence, Stratum, Tick, Units, latency
from turnout.rollout.evidence.serial import InSequence, RecentSequences, arm_dispersion, dispersions, shared_fate
from turnout.serving.counting.arm_counts import ArmMeter, Arms
from turnout.serving.counting.run_lengths import RunLengths
from turnout.serving.counting.tick_counts import Rules

P90 = latency("p90", 1.0)
FEW = {"p90": InSequence(250, 25, 23, 29)}
"""What 10 % of independent requests look like."""


def sequence(bad: list[bool]) -> InSequence:
    """The same, the long way."""
    lengths = [len(list(run)) for is_bad, run in itertools.groupby(bad) if is_bad]
    return InSequence(len(bad), sum(bad), len(lengths), sum(length**2 for length in lengths))


def dispersion(one: InSequence) -> float:
    return float(arm_dispersion(np.array(one)))


def compared(canary: dict[str, InSequence], baseline: dict[str, InSequence]) -> dict[str, float]:
    """The dispersion of the comparison by metric, where it is above 1."""
    found = dispersions(np.array([(canary[name], baseline[name]) for name in canary]))
    return {name: value for name, value in zip(canary, found.tolist(), strict=True) if value > 1}


@given(st.lists(st.lists(st.booleans(), max_size=30), max_size=6))
def test_runs_are_counted_across_ticks_as_if_there_were_none(ticks: list[list[bool]]) -> None:
    runs, parts = RunLengths(), []
    for tick in ticks:
        runs = runs.carried_on()
        for bad in tick:
            if bad:
                runs.add()
            else:
                runs.end()
        parts.append(InSequence(len(tick), sum(tick), runs.begun, runs.squares))
    total = InSequence(*map(sum, zip(InSequence(0, 0, 0, 0), *parts, strict=True)))
    assert total == sequence([bad for tick in ticks for bad in tick])


@given(st.integers(0, 40), st.integers(0, 40))
def test_several_at_once_are_as_many_one_by_one(before: int, more: int) -> None:
    one, other = RunLengths(), RunLengths()
    for _ in range(before + more):
        one.add()
    for count in (before, more):
        if count:
            other.add(count)
    assert (one.present.length, one.squares, one.begun) == (other.present.length, other.squares, other.begun)


def test_independent_requests_count_as_themselves() -> None:
    rng = np.random.default_rng(1)
    for rate in (0.01, 0.1, 0.5, 0.9):
        found = [dispersion(sequence(list(rng.random(2000) < rate))) for _ in range(50)]
        assert np.mean(found) == pytest.approx(1.0, abs=0.12), rate


@pytest.mark.parametrize("length", [2, 10, 50])
def test_a_run_of_bad_ones_among_many_good_counts_about_once(length: int) -> None:
    found = dispersion(sequence([False] * 300 + [True] * length + [False] * 300))
    assert length * 0.9 < found <= length


def test_where_all_are_bad_or_nearly_all_each_counts() -> None:
    assert dispersion(sequence([True] * 500)) == 1.0
    assert dispersion(sequence([False] + [True] * 500)) < 500 / 2.9
    rng = np.random.default_rng(2)
    assert dispersion(sequence(list(rng.random(500) < 0.98))) < 2
    assert dispersion(InSequence(0, 0, 0, 0)) == 1.0


def test_the_arm_that_decides_more_weighs_more() -> None:
    stalled = {"p90": InSequence(250, 60, 10, 2600)}
    (found,) = compared(stalled, FEW).values()
    assert found == compared(FEW, stalled)["p90"]
    assert 25 < found < dispersion(stalled["p90"])
    assert compared(FEW, FEW).get("p90", 1.0) < 1.1
    nothing = {"p90": InSequence(0, 0, 0, 0)}
    assert compared(nothing, nothing) == compared(stalled, nothing) == {}


def test_a_stall_is_looked_at_over_ten_seconds_however_short_ticks_are() -> None:
    recent = RecentSequences[str]()
    good, stalled = {"p90": InSequence(25, 0, 0, 0)}, {"p90": InSequence(25, 25, 1, 625)}
    for tick in range(40):
        assert recent.take(tick * 0.5, "rules", good, good) == {}
    assert recent.take(20.0, "rules", stalled, good)["p90"] > 24
    assert recent.take(20.5, "other rules", stalled, good) == {}, "what counted otherwise says nothing"


def test_what_a_batch_explains_is_not_counted_twice() -> None:
    found = shared_fate(np.array([1.0, 15.0, 15.1]), 8)
    assert found.tolist() == [8.0, 8.0, 15.1]


def stall(metric: str = "p90") -> Tick:
    """A second in which the canary's queue stood still, among five seconds."""
    arms = [{metric: Count(250, 70)}, {metric: Count(250, 25)}]
    counted = compared({metric: InSequence(250, 70, 20, 2530)}, {metric: InSequence(250, 25, 23, 29)})
    assert counted[metric] > 20
    return Tick(5.0, (Stratum("", *arms, dispersion=counted),))


def test_one_stall_is_no_verdict() -> None:
    start = Evidence.start([P90], 7200.0)
    tick = stall()
    (stratum,) = tick.strata
    blind = Tick(5.0, (Stratum("", stratum.canary, stratum.baseline),))
    assert start.taken(blind).combined > 100, "as if the fifty had nothing to do with each other"
    assert start.taken(tick).combined < 2
    read = Tick.from_json(json.loads(json.dumps(tick.to_json())))
    assert read == tick
    assert start.taken(read) == start.taken(tick)
    assert "dispersion" not in json.dumps(blind.to_json()), "an earlier release reads what is as it was"


@pytest.mark.parametrize("wrong", [0.5, float("nan"), float("inf")])
def test_a_dispersion_that_cannot_be_is_refused(wrong: float) -> None:
    body = stall().to_json()
    body["strata"][0]["dispersion"] = {"p90": wrong}
    with pytest.raises(ValueError, match="dispersions of 1 or more"):
        Tick.from_json(body)


class Two:
    """Two arms of a rollout, by one clock."""

    def __init__(self) -> None:
        self.arms: Arms = {}
        self.limits = {"p90": 0.1}
        self.rules = Rules((0.1,), warm_requests=0)
        self.counters = Counters(self.rules)
        self.counters.attach((self.arms, "canary"), (self.arms, "twin"))
        self.now = 0.0
        self.tick()

    def tick(self, wait: float = 0.0) -> Stratum:
        self.now += 5.0
        self.counters.roll(5.0, self.now, self.rules, self.limits)
        (closed,) = self.counters.closed(self.now + wait)
        return closed.tick.strata[0]

    def meter(self, part: str) -> ArmMeter:
        (meter,) = self.arms[part]
        return meter

    def answer(self, part: str, count: int, took: float = 0.01) -> None:
        for _ in range(count):
            meter, counts, slot = self.meter(part).admit()
            meter.answered(counts, slot, took, 1)


def test_what_arms_count_says_how_long_runs_are() -> None:
    two = Two()
    for part in ("canary", "twin"):
        two.answer(part, 100)
    two.answer("canary", 50, took=0.5)
    two.answer("canary", 100)
    stratum = two.tick()
    assert stratum.canary["p90"] == Count(250, 50)
    assert stratum.dispersion == {"p90": pytest.approx(50 * 199 / 201, abs=0.01)}
    two.answer("canary", 100)
    two.answer("twin", 100)
    assert two.tick().dispersion == {"p90": pytest.approx(50, abs=0.5)}, "it was less than ten seconds ago"
    two.answer("canary", 100)
    assert two.tick().dispersion == {"p90": pytest.approx(50, abs=0.5)}, "nor five minutes"
    for _ in range(57):
        two.tick()
    assert two.tick().dispersion == {}


def test_a_stall_is_one_run_although_its_requests_came_in_many_ticks() -> None:
    meter, rules = ArmMeter(Rules((0.1, 0.2), warm_requests=0)), Rules((0.1, 0.2), warm_requests=0)
    waiting, ticks = [], []
    for _ in range(20):
        waiting += [meter.admit()[1:] for _ in range(5)]
        ticks.append(meter.roll())
    for number, (counts, slot) in enumerate(waiting):
        meter.answered(counts, slot, 2.5 if number < 95 else 0.15, 1)
    _, counts, slot = meter.admit()
    meter.answered(counts, slot, 0.01, 1)
    ticks.append(meter.roll())
    assert ticks[0].rules == rules
    for index, length in ((0, 100), (1, 95)):
        runs = [tick.slow_runs[index] for tick in ticks]
        assert (sum(one.begun for one in runs), sum(one.squares for one in runs)) == (1, length**2)
    assert sum(tick.error_runs.squares for tick in ticks) == 95**2
    assert meter.counts.slow_runs[0].present.length == 0
    meter.admit()
    hung = meter.roll()
    hung.close()
    assert hung.slow_runs[1].present.length == 1
    _, counts, slot = meter.admit()
    meter.answered(counts, slot, 0.01, 1)
    assert hung.slow_runs[1].present.length == 0, "what hung was bad, and the next was not"


def test_errors_and_what_never_ended_come_in_runs_too() -> None:
    two = Two()
    two.answer("canary", 200)
    two.answer("twin", 200)
    meter = two.meter("canary")
    for _ in range(5):
        _, counts, slot = meter.admit()
        meter.failed(counts, slot, 0.01, "UNAVAILABLE", RuntimeError(), None)  # type: ignore[arg-type]
    for _ in range(15):
        meter.admit()
    stratum = two.tick(wait=60.0)
    assert stratum.canary["errors"] == Count(220, 20)
    assert stratum.dispersion["errors"] == pytest.approx(20 * 199 / 201, abs=0.01)
    assert stratum.dispersion["p90"] > 14


def keyed_stalls(seed: int, ticks: int) -> list[Tick]:
    """Tenants that do not differ; now and then one arm's queue stands still, and fifty of its requests are slow."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(ticks):
        arms, sequences = [], []
        for _arm in range(2):
            n = rng.poisson(250 / GROUPS, GROUPS)
            total = int(n.sum())
            held_up = 50 if rng.random() < 0.1 else 0
            x = rng.binomial(n, 0.02)
            x += rng.multivariate_hypergeometric(n - x, held_up)
            single = int(x.sum()) - held_up
            arms.append(Units(n, x, n.astype(float)))
            sequences.append({"p90": InSequence(total, int(x.sum()), single + bool(held_up), single + held_up**2)})
        stratum = Stratum("", {}, {}, {"p90": arms[0]}, {"p90": arms[1]}, compared(*sequences))
        found.append(Tick(5.0, (stratum,)))
    return found


def test_stalls_of_a_queue_are_no_verdict_where_tenants_share_it() -> None:
    """The variance between tenants does not show what happens to all tenants of an arm at once."""
    back = {True: 0, False: 0}
    for seed, told in itertools.product(range(6), (True, False)):
        evidence = Evidence.start([P90], 3600.0)
        for tick in keyed_stalls(seed, 120):
            (stratum,) = tick.strata
            arms = stratum.keyed_canary, stratum.keyed_baseline
            evidence = evidence.taken(tick if told else Tick(5.0, (Stratum("", {}, {}, *arms),)))
        again = Evidence.from_json(json.loads(json.dumps(evidence.to_json())), [P90])
        assert again == evidence
        back[told] += evidence.peak >= 100
    assert back[True] == 0
    assert back[False] > 0


CASES = {case.name: case for case in simulation.queue_cases()}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.kind == "null"])
def test_versions_that_do_not_differ_are_not_rolled_back_for_stalls_of_their_queues(name: str) -> None:
    for seed in range(6):
        assert simulation.queue_rollback(CASES[name], np.random.default_rng(seed), hours=0.5) is None


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.kind == "detect"])
def test_one_that_is_slower_is_found_in_a_queue(name: str) -> None:
    case = CASES[name]
    found = [simulation.queue_rollback(case, np.random.default_rng(seed), hours=0.5) for seed in range(5)]
    assert None not in found
    assert np.median(found) <= 1.35 * case.expected


def test_without_the_runs_every_other_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation.RecentSequences, "take", lambda *_: {})
    case = CASES["queue: no difference, one run in 500 takes 0.5 s"]
    found = [simulation.queue_rollback(case, np.random.default_rng(seed), hours=0.5) for seed in range(5)]
    assert sum(one is not None for one in found) >= 3
