"""What a rollout's counters expect of units, from what their slots did before the first step."""

import numpy as np
import pytest

from turnout.rollout.counters import Counters, SlotsInForce
from turnout.rollout.evidence import GROUPS
from turnout.rollout.guards.circuit_breaker import Breaker, tripped
from turnout.routing.slots import SLOTS, Owners, SlotTable
from turnout.serving.counting.arm_counts import Arms
from turnout.serving.counting.keyed_outcomes import SlotHistory
from turnout.serving.counting.tick_counts import Rules

LIMITS = {"p90": 0.1, "stalled": 1.0}
RULES = Rules(tuple(LIMITS.values()), warm_requests=0, stalled=1.0)
OWNERS = Owners.of(SlotTable(order=b"one").arranged({"1.1.0": SLOTS // 4, "twin": SLOTS // 4}))
SLOTS_NOW = SlotsInForce(OWNERS, "1.1.0", "twin", ("1.1.0",))
CANARY = [int(slot) for slot in np.flatnonzero(OWNERS.owned("1.1.0"))[:2]]
TWIN = [int(slot) for slot in np.flatnonzero(OWNERS.owned("twin"))[:2]]


class Two:
    """Two arms and the history of the version that was good before; one clock."""

    def __init__(self, history: str = "") -> None:
        self.arms: Arms = {}
        self.history = SlotHistory()
        self.log = self.history.under(b"")
        self.counters = Counters(RULES, history=history)
        self.counters.attach((self.arms, "canary"), (self.arms, "twin"), None, (self.arms, "baseline"))
        self.now = 0.0

    def saw(self, slot: int, requests: int, slow: int) -> None:
        for number in range(requests):
            self.log.add(slot, 0.5 if number < slow else 0.01)

    def tick(self, limits=LIMITS, *, began: bool = True, slots: SlotsInForce = SLOTS_NOW, seconds: float = 5.0):
        self.now += seconds
        self.history.fold(self.now)
        self.counters.watch(slots, self.history, limits, began=began)
        rules = Rules(tuple(limits.values()), warm_requests=0, stalled=1.0)
        self.counters.roll(seconds, self.now, rules, limits)
        (closed,) = self.counters.closed(self.now)
        return closed.tick.strata[0]

    def answer(self, part: str, slot: int, count: int, took: float = 0.01) -> None:
        for _ in range(count):
            (meter,) = self.arms[part]
            _, counts, known = meter.admit(slot)
            meter.answered(counts, known, took, 1)

    def ask_all(self) -> None:
        for part, slots in (("canary", CANARY), ("twin", TWIN)):
            for slot in slots:
                self.answer(part, slot, 10)


def begun() -> Two:
    """The first slot of each arm was slow in half of its requests before, the second never."""
    two = Two()
    for first, second in (CANARY, TWIN):
        two.saw(first, 400, 200)
        two.saw(second, 400, 0)
    two.tick(began=False)
    two.tick(began=True)
    return two


def test_a_tenant_that_was_always_slow_is_expected_to_be() -> None:
    two = begun()
    two.ask_all()
    stratum = two.tick()
    for arm, (first, second) in ((stratum.keyed_canary, CANARY), (stratum.keyed_baseline, TWIN)):
        expected = arm["p90"].expected
        assert expected[first % GROUPS] == pytest.approx(10 * 202 / 408, abs=1e-6), "its own share, shrunk a little"
        assert expected[second % GROUPS] == pytest.approx(10 * 2 / 408, abs=1e-6)
        assert (arm["errors"].expected == arm["errors"].requests).all(), "nobody failed: all are alike"


def test_what_comes_after_the_first_step_changes_no_expectation() -> None:
    two = begun()
    two.saw(TWIN[1], 10_000, 10_000)
    two.ask_all()
    two.tick()
    two.ask_all()
    assert two.tick().keyed_baseline["p90"].expected[TWIN[1] % GROUPS] == pytest.approx(10 * 2 / 408, abs=1e-6)


def test_another_threshold_in_a_later_step_is_counted_in_the_same_window() -> None:
    two = begun()
    two.tick({"p90": 0.6, "stalled": 1.0})
    two.ask_all()
    expected = two.tick({"p90": 0.6, "stalled": 1.0}).keyed_canary["p90"].expected
    assert expected[CANARY[0] % GROUPS] == 10, "nobody was slower than that before"


def test_after_a_restart_the_kept_history_is_what_is_expected_by() -> None:
    kept = begun().counters.history
    again = Two(kept)
    again.tick()
    again.ask_all()
    stratum = again.tick()
    assert stratum.keyed_canary["p90"].expected[CANARY[0] % GROUPS] == pytest.approx(10 * 202 / 408, abs=1e-6)
    assert again.counters.history == kept


def test_keys_hashed_otherwise_tell_nothing() -> None:
    two = begun()
    other = Owners.of(SlotTable(b"other", order=b"one").arranged({"1.1.0": SLOTS // 4, "twin": SLOTS // 4}))
    fresh = Two()
    fresh.saw(CANARY[0], 400, 200)
    fresh.tick(began=False, slots=SlotsInForce(other, "1.1.0", "twin", ("1.1.0",)))
    fresh.tick(slots=SlotsInForce(other, "1.1.0", "twin", ("1.1.0",)))
    fresh.ask_all()
    stratum = fresh.tick(slots=SlotsInForce(other, "1.1.0", "twin", ("1.1.0",)))
    assert (stratum.keyed_canary["p90"].expected == stratum.keyed_canary["p90"].requests).all()
    assert two.counters.history


def test_a_twin_is_starved_only_where_keyed_traffic_meets_the_candidate_and_hardly_the_twin() -> None:
    two = begun()
    for tick in range(6):
        assert not two.counters.starved or tick == 5, "some ticks are waited for"
        two.answer("canary", CANARY[0], 10)
        two.answer("baseline", 7, 10)
        two.tick()
    assert two.counters.starved
    two.counters.redrawn()
    assert not two.counters.starved, "the new slots are given time"
    for _ in range(6):
        two.ask_all()
        two.tick()
    assert not two.counters.starved


def test_a_slot_that_fails_on_the_candidate_is_told_with_what_it_did_before_and_what_others_do() -> None:
    two = begun()
    two.answer("canary", CANARY[1], 30, took=1.5)
    two.answer("canary", CANARY[0], 30)
    two.answer("twin", TWIN[0], 5)
    two.answer("baseline", 7, 40)
    two.answer("baseline", 7, 1, took=1.5)
    two.tick()
    (record,) = two.counters.slot_records
    assert record.slot == CANARY[1]
    assert (record.candidate.requests, record.candidate.bad) == (30, 30)
    assert (record.before.requests, record.before.bad) == (200, 0)
    assert (record.elsewhere.requests, record.elsewhere.bad) == (46, 1)


def test_of_many_requests_of_a_slot_the_older_ones_fade() -> None:
    two = begun()
    for _ in range(10):
        two.answer("canary", CANARY[0], 100)
        two.tick()
    for _ in range(3):
        two.answer("canary", CANARY[0], 100, took=1.5)
        two.tick()
    (record,) = two.counters.slot_records
    assert record.candidate.requests == 200
    assert record.candidate.bad > 100, "it fails now, whatever it did for long"


@pytest.mark.parametrize("seconds", [0.5, 1.0, 2.0, 5.0])
def test_one_stall_of_the_queue_trips_no_circuit_breaker_however_short_ticks_are(seconds: float) -> None:
    """A tenant of 100 requests a second: its latest 200 came in two seconds, for which the queue stands still."""
    two = begun()
    each = round(100 * seconds)
    for tick in range(round(20 / seconds)):
        held_up = round(100 * max(min((tick + 1) * seconds, 12) - max(tick * seconds, 10), 0))
        two.answer("canary", CANARY[1], each - held_up)
        two.answer("canary", CANARY[1], held_up, took=1.5)
        two.tick(seconds=seconds)
        assert tripped(Breaker(), two.counters.slot_records) is None, tick


@pytest.mark.parametrize("seconds", [0.5, 1.0, 2.0, 5.0])
def test_a_stall_right_after_a_tenant_was_moved_trips_none_and_total_failure_does(seconds: float) -> None:
    for stalled, trips in ((2.0, False), (20.0, True)):
        two = begun()
        each, found = round(40 * seconds), []
        for tick in range(round(20 / seconds)):
            bad = round(40 * min(max(stalled - tick * seconds, 0), seconds))
            two.answer("canary", CANARY[1], bad, took=1.5)
            two.answer("canary", CANARY[1], each - bad)
            two.tick(seconds=seconds)
            found.append(tripped(Breaker(), two.counters.slot_records) is not None)
        assert any(found) is trips
        assert not trips or found.index(True) * seconds <= 5, "and at once"
