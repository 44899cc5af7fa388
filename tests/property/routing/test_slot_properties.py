"""Slots keep their promises (docs/decisions/0009-*.md), whatever weights come in whatever order."""

import itertools
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from semver import Version

from turnout.routing.policy import UNITS, Canary, Policy, PolicyState
from turnout.routing.slots import SLOTS, Owners, SlotTable
from turnout.routing.split import Cursor
from turnout.serving.counting.keyed_outcomes import SlotFinder

SALTS = st.binary(min_size=1, max_size=16)
SHARES = st.integers(0, SLOTS)
ARRANGEMENTS = st.lists(
    st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.integers(0, SLOTS // 3), max_size=4), max_size=8
)


def owned(table: SlotTable) -> dict[str, set[int]]:
    """The slots of each owner, by the look-up table that requests use."""
    owners = Owners.of(table)
    assert isinstance(owners.by_slot, bytes)  # as for any table of fewer than 256 owners
    by_slot = np.frombuffer(owners.by_slot, np.uint8)
    return {name: set(np.flatnonzero(by_slot == number).tolist()) for number, name in enumerate(owners.names) if name}


@given(SALTS, ARRANGEMENTS)
@settings(max_examples=60, deadline=None)
def test_each_owner_has_as_many_slots_as_it_was_given_and_no_slot_has_two(salt, arrangements) -> None:
    table = SlotTable(salt)
    for wanted in arrangements:
        table = table.arranged(wanted)
        slots = owned(table)
        sizes = {name: len(s) for name, s in slots.items()}
        assert sizes == {name: table.slots_of(name) for name in sizes}
        if sum(wanted.values()) <= SLOTS:
            assert sizes == {name: count for name, count in wanted.items() if count}
        else:
            assert sum(sizes.values()) == SLOTS
            assert all(size <= wanted[name] for name, size in sizes.items())
        assert sum(len(s) for s in slots.values()) == len(set().union(*slots.values()))


@given(SALTS, SHARES, SHARES)
@settings(max_examples=60, deadline=None)
def test_growing_keeps_every_slot_and_shrinking_gives_exactly_the_first_set_back(salt, one, two) -> None:
    small, large = sorted((one, two))
    first = SlotTable(salt).arranged({"a": small})
    grown = first.arranged({"a": large})
    assert owned(first).get("a", set()) <= owned(grown).get("a", set())
    assert grown.arranged({"a": small}) == first


@given(SALTS, ARRANGEMENTS)
@settings(max_examples=60, deadline=None)
def test_a_slot_changes_hands_only_between_an_owner_and_the_baseline(salt, arrangements) -> None:
    table = SlotTable(salt)
    for wanted in arrangements:
        after = table.arranged(wanted)
        before_slots, after_slots = owned(table), owned(after)
        for name, slots in before_slots.items():
            for other, taken in after_slots.items():
                if other != name:
                    # What another has now and this one had before was given back by this one first.
                    assert not (slots & taken) or wanted.get(name, 0) < len(slots)
            kept = after_slots.get(name, set())
            assert kept <= slots or slots <= kept
        table = after


@given(SALTS, st.integers(0, SLOTS // 2), st.integers(0, SLOTS // 2), st.integers(0, SLOTS // 2))
@settings(max_examples=60, deadline=None)
def test_raising_one_canary_never_moves_another(salt, a, before, after) -> None:
    table = SlotTable(salt).arranged({"a": a, "b": before})
    assert owned(table.arranged({"a": a, "b": after})).get("a") == owned(table).get("a")


@given(SALTS, ARRANGEMENTS)
@settings(max_examples=60, deadline=None)
def test_what_is_kept_reads_back_as_the_same_table(salt, arrangements) -> None:
    table = SlotTable(salt)
    for wanted in arrangements:
        table = table.arranged(wanted)
    again = SlotTable.from_json(table.to_json())
    assert again == table
    assert Owners.of(again).by_slot == Owners.of(table).by_slot


@given(SALTS, st.text(max_size=64))
def test_a_key_meets_the_same_slot_in_every_process(salt, key) -> None:
    assert SlotFinder(salt).slot(key) == SlotFinder(bytes(salt)).slot(str(key))
    assert 0 <= SlotFinder(salt).slot(key) < SLOTS


@given(SALTS, st.sampled_from([0.01, 0.05, 0.25, 0.5]))
@settings(max_examples=30, deadline=None)
def test_the_share_of_keys_is_within_five_sigma_of_the_weight(salt, weight) -> None:
    by_slot = Owners.of(SlotTable(salt).arranged({"a": round(weight * SLOTS)})).by_slot
    finder, keys = SlotFinder(salt), 20_000
    hits = sum(by_slot[finder.slot(f"user-{n}")] for n in range(keys))
    # Five, not three: hypothesis looks at many salts, and three sigma would fail in 0.3 % of sound ones.
    assert abs(hits - weight * keys) <= 5 * math.sqrt(keys * weight * (1 - weight))


@given(SALTS, SALTS)
@settings(max_examples=30, deadline=None)
def test_two_salts_draw_their_keys_independently(one, other) -> None:
    if one == other:
        return
    share, keys = 0.25, 20_000
    both = 0
    first = Owners.of(SlotTable(one).arranged({"a": round(share * SLOTS)})).by_slot
    second = Owners.of(SlotTable(other).arranged({"a": round(share * SLOTS)})).by_slot
    finder, other_finder = SlotFinder(one), SlotFinder(other)
    for n in range(keys):
        both += first[finder.slot(f"user-{n}")] and second[other_finder.slot(f"user-{n}")]
    expected = share * share
    assert abs(both - expected * keys) <= 6 * math.sqrt(keys * expected * (1 - expected))


@given(st.integers(0, 2**64 - 1), st.integers(1, 60), SALTS)
@settings(max_examples=100, deadline=None)
def test_without_keys_even_one_per_cent_is_exact_over_a_thousand_requests(start, per_cent, salt) -> None:
    by_position = Owners.of(SlotTable(salt).arranged({"a": round(per_cent / 100 * SLOTS)})).by_position
    cursor = Cursor(start)
    hits = sum(by_position[cursor.advance()] for _ in range(1000))
    assert abs(hits - 10 * per_cent) <= 2


@given(st.lists(st.tuples(st.integers(-5, SLOTS + 5), st.integers(-5, SLOTS + 5)), max_size=4))
def test_a_table_that_cannot_be_is_refused(runs) -> None:
    body = {"salt": "00", "claims": [{"owner": "a", "runs": [list(run) for run in runs]}]}
    ordered = sorted(runs)
    sound = all(0 <= a < b <= SLOTS for a, b in runs) and all(
        left[1] <= right[0] for left, right in itertools.pairwise(ordered)
    )
    try:
        table = SlotTable.from_json(body)
    except ValueError:
        assert not sound
    else:
        assert sound
        assert table.slots_of("a") == sum(b - a for a, b in runs)


@given(SALTS, SALTS)
@settings(max_examples=30, deadline=None)
def test_two_trials_draw_their_slots_independently(one, other) -> None:
    if one == other:
        return
    share = 0.25
    wanted = {"a": round(share * SLOTS)}
    first, second = (owned(SlotTable(b"model", order=order).arranged(wanted))["a"] for order in (one, other))
    expected = share * share * SLOTS
    assert abs(len(first & second) - expected) <= 6 * math.sqrt(expected)


@given(SALTS, st.lists(st.integers(1, 10_000), min_size=2, max_size=40), st.sampled_from([0.05, 0.25, 0.5]))
@settings(max_examples=200, deadline=None)
def test_a_twin_is_drawn_where_there_is_traffic_if_there_is_any_left_for_it(order, requests, weight) -> None:
    share = round(weight * SLOTS)
    table = SlotTable(order=order).arranged({"canary": share, "twin": min(share, (SLOTS - share) // 2)})
    traffic = np.zeros(SLOTS, np.int64)
    for number, count in enumerate(requests):
        traffic[SlotFinder(b"").slot(f"tenant {number}")] += count
    drawn = owned(table.balanced("twin", "canary", traffic))
    canary, twin = (int(traffic[sorted(drawn[name])].sum()) for name in ("canary", "twin"))
    assert drawn["canary"] == owned(table)["canary"]
    assert twin or not canary or canary == traffic.sum(), "some key is neither, and nobody is compared"


@given(st.lists(st.integers(0, UNITS), min_size=1, max_size=7), st.integers(0, UNITS))
def test_canaries_with_all_of_the_traffic_leave_the_baseline_none(cuts: list[int], twin: int) -> None:
    bounds = [0, *sorted(min(cut, UNITS - twin) for cut in cuts), UNITS - twin]
    weights = [stop - start for start, stop in itertools.pairwise(bounds)]
    canaries = tuple(Canary(Version(4, number), weight) for number, weight in enumerate(weights))
    table = PolicyState().with_policy(Policy(Version(3), canaries, twin=twin), b"order").table
    assert sum(claim.slots for claim in table.claims) == SLOTS
    for canary in canaries:
        assert abs(table.slots_of(str(canary.version)) / SLOTS - canary.weight / UNITS) < len(weights) / SLOTS
