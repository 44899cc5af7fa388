"""What is folded by slot with NumPy is what a plain recount of the same requests says."""

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnout import errors
from turnout.rollout.counters import Counters
from turnout.rollout.evidence import GROUPS, Count
from turnout.rollout.guards.circuit_breaker import Outcomes
from turnout.rollout.guards.moved_slots import MovedSlots
from turnout.rollout.guards.slot_history import PACKED_SLOTS, SlotRecords
from turnout.rpc.errors import code_name
from turnout.serving.counting.arm_counts import Arms, FailedRequest
from turnout.serving.counting.keyed_outcomes import ERROR, INVALID, NO_SLOT, SLOTS, UNTIMED, KeyedLog, SlotHistory
from turnout.serving.counting.tick_counts import Replayed, Rules

THRESHOLDS = {"p90": 0.1, "p99": 0.2, "stalled": 1.0}
RULES = Rules(tuple(THRESHOLDS.values()), 0.05, warm_requests=0, stalled=1.0)
LATE = 2.0

SLOT = st.sampled_from([NO_SLOT, 0, 1, 511, 512, 513, 65_535])
SECONDS = st.sampled_from([0.01, 0.1, 0.1000001, 0.15, 0.2, 0.3, 1.0, 1.5, 2.0, 2.5, 12.0])
HOW = st.sampled_from(["answered", "invalid", "server", "caller", "cancelled", "expired", "asked", "excused", "hangs"])


@dataclass(frozen=True)
class Request:
    slot: int
    took: float
    how: str


REQUESTS = st.lists(st.builds(Request, SLOT, SECONDS, HOW), max_size=60)

ERRORS_OF = {
    "server": errors.UnavailableError("gone"),
    "caller": errors.InvalidRequest("nonsense"),
    "cancelled": errors.RequestCancelled("left"),
    "expired": errors.DeadlineExceededError("late"),
    "asked": errors.ModelFailure("raised"),
    "excused": errors.ModelFailure("raised"),
}


class Asked:
    """A baseline that says at the end of the tick what it does with a request."""

    def __init__(self) -> None:
        self.waiting = []

    def accepts(self, _request) -> bool:
        return True

    def ask(self, _request, settle) -> bool:
        self.waiting.append(settle)
        return True


def events(one: Request) -> tuple[bool, bool, bool, list[bool]]:
    """Whether a request is an error, invalid, timed, and slower than each threshold; said plainly."""
    if one.how == "hangs":
        return True, False, True, [True, True, True]
    late = one.took > LATE
    patient = one.how == "expired" and one.took >= RULES.client_timeout
    error = one.how in ("server", "asked") or late or patient
    timed = not (one.how in ("cancelled", "expired") and one.took <= 0.1)
    return error, one.how == "invalid", timed, [timed and one.took > limit for limit in THRESHOLDS.values()]


def run(requests: list[Request]) -> tuple[Counters, Asked]:
    """Counts requests of one tick, in the order in which they come."""
    arms: Arms = {}
    asked = Asked()
    counters = Counters(RULES)
    counters.attach((arms, "canary"), (arms, "baseline"), asked)
    counters.roll(5.0, 0.0, RULES, THRESHOLDS)
    counters.closed(0.0)
    says = []
    for one in requests:
        (meter,) = arms["canary"]
        before = len(asked.waiting)
        _, counts, slot = meter.admit(one.slot)
        if one.how in ("answered", "invalid"):
            if meter.answered(counts, slot, one.took, 1, invalid=one.how == "invalid"):
                meter.compare(counts, slot, FailedRequest({}, ()))
        elif one.how != "hangs":
            error = ERRORS_OF[one.how]
            meter.failed(counts, slot, one.took, code_name(error), error, FailedRequest({}, ()))
        says += [Replayed(one.how == "asked", invalid=False, seconds=0.01)] * (len(asked.waiting) - before)
    counters.roll(5.0, 5.0, RULES, THRESHOLDS)
    for settle, replayed in zip(asked.waiting, says, strict=True):
        settle(replayed)
    return counters, asked


@given(REQUESTS)
@settings(max_examples=40)
def test_units_and_unkeyed_counts_are_those_of_a_plain_recount(requests) -> None:
    counters, _ = run(requests)
    (closed,) = counters.closed(1000.0)
    (stratum,) = closed.tick.strata
    wanted = defaultdict(lambda: [0, 0])
    for one in requests:
        group = one.slot % GROUPS if one.slot != NO_SLOT else None
        error, invalid, timed, slow = events(one)
        for metric, counts, bad in (
            ("errors", True, error),
            ("invalid", True, invalid),
            *((name, timed, over) for name, over in zip(THRESHOLDS, slow, strict=True)),
        ):
            wanted[metric, group][0] += counts
            wanted[metric, group][1] += bad
    for metric in ("errors", "invalid", *THRESHOLDS):
        assert stratum.canary[metric] == Count(*wanted[metric, None]), metric
        if not any(one.slot != NO_SLOT for one in requests):
            assert not stratum.keyed_canary
            continue
        units = stratum.keyed_canary[metric]
        for group in {one.slot % GROUPS for one in requests if one.slot != NO_SLOT}:
            assert [units.requests[group], units.bad[group]] == wanted[metric, group], (metric, group)
        assert units.total == Count(*np.sum([v for (m, g), v in wanted.items() if m == metric and g is not None], 0))
    assert not any(count.requests for count in stratum.baseline.values())


@given(REQUESTS)
@settings(max_examples=30)
def test_a_request_is_bad_once_for_the_circuit_breaker(requests) -> None:
    counters, _ = run(requests)
    moved = MovedSlots()
    moved.own(np.ones(SLOTS, np.bool_), SlotHistory().window(), SlotRecords(np.zeros(SLOTS, np.int64)), 1.0)
    tick = counters._open[0]
    moved.take(tick.canary.close(), 5.0)
    seen, fell, bad, ran, failed = Counter(), Counter(), Counter(), Counter(), Counter()
    for one in requests:
        error, invalid, timed, _ = events(one)
        went_badly = error or invalid or (timed and one.took > RULES.stalled) or one.how == "hangs"
        seen[one.slot] += 1
        fell[one.slot] += error or invalid
        bad[one.slot] += went_badly
        if one.how in ("asked", "excused") or (went_badly and one.how != "hangs"):
            ran[one.slot] += 1
            failed[one.slot] += one.how != "asked"
    found = {record.slot: record.candidate for record in moved.records()}
    for record in moved.records():
        there = failed[record.slot]
        assert record.before == Outcomes(ran[record.slot], there, there), "the baseline ran what went badly"
    assert found == {s: Outcomes(seen[s], fell[s], bad[s]) for s in seen if s != NO_SLOT and bad[s]}
    assert (tick.canary.failed, tick.canary.bad) == (sum(fell.values()), sum(bad.values()))


ENTRIES = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 512, 700, 65_535]),
        SECONDS,
        st.sampled_from([0, ERROR, INVALID, UNTIMED, ERROR | UNTIMED]),
    ),
    max_size=80,
)


def history_of(entries, parts: int = 3) -> SlotHistory:
    history = SlotHistory()
    log = history.under(b"salt")
    for number, (slot, took, marks) in enumerate(entries):
        log.add(slot | marks, took)
        if number % max(len(entries) // parts, 1) == 0:
            history.fold(float(number))
    history.fold(float(len(entries)))
    return history


@given(ENTRIES, st.sampled_from([0.1, 0.15, 0.2, 1.0]))
@settings(max_examples=40)
def test_what_slots_did_before_follows_exactly_at_any_threshold(entries, limit) -> None:
    records = SlotRecords.of(history_of(entries).window(), {"p90": limit}, LATE)
    wanted = defaultdict(Counter)
    for slot, took, marks in entries:
        wanted["requests"][slot] += 1
        timed = not marks & UNTIMED
        wanted["errors"][slot] += bool(marks & ERROR) or (timed and took > LATE)
        wanted["invalid"][slot] += bool(marks & INVALID)
        wanted["p90"][slot] += timed and took > limit
    found = {"requests": records.requests, **records.bad}
    for name, counts in found.items():
        assert {slot: int(n) for slot, n in enumerate(counts) if n} == {s: n for s, n in wanted[name].items() if n}


@given(ENTRIES, st.integers(1, 30))
@settings(max_examples=40)
def test_the_latest_of_a_slot_are_its_latest(entries, most) -> None:
    slots = np.zeros(SLOTS, np.bool_)
    slots[[0, 512, 65_535]] = True
    requests, failed, bad = history_of(entries).window().latest(slots, most, 1.0)
    for slot in (0, 1, 512, 700, 65_535):
        own = [(took, marks) for s, took, marks in entries if s == slot][-most:] if slots[slot] else []
        assert requests[slot] == len(own)
        assert failed[slot] == sum(bool(m & (ERROR | INVALID)) for _, m in own)
        assert bad[slot] == sum(bool(m & (ERROR | INVALID)) or (not m & UNTIMED and took > 1.0) for took, m in own)


@given(ENTRIES)
@settings(max_examples=30)
def test_shares_are_shrunk_towards_the_mean_by_two_events_worth(entries) -> None:
    records = SlotRecords.of(history_of(entries).window(), {"p90": 0.15}, LATE)
    owned = np.zeros(SLOTS, np.bool_)
    owned[[0, 512, 65_535]] = True
    shares = records.shares("p90", owned)
    slow = [(s, not m & UNTIMED and took > 0.15) for s, took, m in entries]
    if not any(bad for _, bad in slow):
        assert (shares == 1.0).all()
        return
    mean = sum(bad for _, bad in slow) / len(slow)
    for group in (0, 1, 188, 511):
        own = [bad for s, bad in slow if owned[s] and s % GROUPS == group]
        assert shares[group] == pytest.approx((sum(own) + 2) / (len(own) + 2 / mean))


@given(ENTRIES)
@settings(max_examples=15)
def test_what_is_kept_of_the_history_reads_back_the_same(entries) -> None:
    records = SlotRecords.of(history_of(entries).window(), {"p90": 0.15, "stalled": 1.0}, LATE)
    again = SlotRecords.unpacked(records.packed())
    assert (again.requests == records.requests).all()
    assert again.bad.keys() == records.bad.keys()
    assert all((again.bad[name] == counts).all() for name, counts in records.bad.items())


def test_a_history_of_very_many_slots_is_kept_in_a_few_kilobytes_of_the_busiest() -> None:
    rng = np.random.default_rng(1)
    requests = rng.poisson(100, SLOTS)
    bad = {name: rng.binomial(requests, 0.1) for name in ("errors", "invalid", "p90", "p95", "p99", "stalled")}
    text = SlotRecords(requests, bad).packed()
    assert len(text) < 16_000
    again = SlotRecords.unpacked(text)
    kept = np.flatnonzero(again.requests)
    assert len(kept) == PACKED_SLOTS
    assert again.requests[kept].min() >= np.sort(requests)[-PACKED_SLOTS]
    assert (again.requests[kept] == requests[kept]).all()


@pytest.mark.parametrize("text", ["", "!", "AAAA", "eJwDAAAAAAE="])
def test_what_is_no_history_is_refused_with_a_sentence(text) -> None:
    with pytest.raises(ValueError, match=r".+"):
        SlotRecords.unpacked(text)


def test_a_full_log_counts_what_it_has_no_room_for() -> None:
    log = KeyedLog(room=3)
    for number in range(5):
        log.add(number, 0.1)
    assert log.lost == 2
    assert log.taken().slots.tolist() == [0, 1, 2]
    log.add(9, 0.1)
    assert log.taken().slots.tolist() == [9], "there is room again"


def test_a_history_is_bounded_in_time_and_number() -> None:
    history = SlotHistory()
    log = history.under(b"salt")
    for minute in range(60):
        for _ in range(10):
            log.add(minute, 0.1)
        history.fold(60.0 * minute)
    kept = history.window().entries
    assert set(kept.slots.tolist()) == set(range(29, 60)), "half an hour"
    for tick in range(40):
        for _ in range(10_000):
            log.add(tick, 0.1)
        history.fold(3600.0 + tick)
    assert len(history.window().entries) <= 1 << 18
    assert history.window().entries.slots[-1] == 39


def test_another_salt_begins_another_history() -> None:
    history = SlotHistory()
    history.under(b"one").add(7, 0.1)
    history.fold(0.0)
    assert history.under(b"one") is history.log
    assert len(history.window().entries) == 1
    history.under(b"other")
    assert len(history.window().entries) == 0
