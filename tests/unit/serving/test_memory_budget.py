"""Which versions leave memory so that another fits."""

from hypothesis import given
from hypothesis import strategies as st
from semver import Version

from turnout.serving.loading.memory_budget import Occupant, Room, room_for


def _one(minor: int, size: int = 10, used_at: float = 0.0, device: str = "cpu", **message: bool) -> Occupant:
    return Occupant(("m", Version(1, minor)), {device: size}, used_at, **{"evictable": True} | message)


def _keys(*minors: int) -> tuple[tuple[str, Version], ...]:
    return tuple(("m", Version(1, minor)) for minor in minors)


def test_what_fits_unloads_nothing() -> None:
    assert room_for({"cpu": 10}, {"cpu": 20}, [_one(0)]) == Room(fits=True)
    assert room_for({"cpu": 1000}, {}, [_one(0)]) == Room(fits=True)


def test_the_least_recently_used_leaves_first_and_no_more_than_have_to() -> None:
    occupants = [_one(0, used_at=3), _one(1, used_at=1), _one(2, used_at=2)]
    assert room_for({"cpu": 10}, {"cpu": 30}, occupants) == Room(fits=False, evict=_keys(1))
    assert room_for({"cpu": 11}, {"cpu": 30}, occupants) == Room(fits=False, evict=_keys(1, 2))


def test_what_is_in_use_or_needed_stays() -> None:
    busy, needed = _one(0, used_at=1, in_use=True), _one(1, used_at=2, evictable=False)
    assert room_for({"cpu": 10}, {"cpu": 30}, [busy, needed, _one(2, used_at=3)]).evict == _keys(2)
    assert room_for({"cpu": 10}, {"cpu": 20}, [busy, needed]) == Room(fits=False)
    never = room_for({"cpu": 11}, {"cpu": 20}, [busy, needed])
    assert not never.possible
    assert never.lacking == {"cpu": 1}


def test_nothing_leaves_for_a_load_that_may_never_fit() -> None:
    assert room_for({"cpu": 25}, {"cpu": 30}, [_one(0, evictable=False), _one(1)]).evict == ()
    assert room_for({"cpu": 25}, {"cpu": 30}, [_one(0, in_use=True), _one(1)]).evict == ()


def test_what_leaves_already_is_waited_for_and_nothing_else_leaves_beside_it() -> None:
    occupants = [_one(0, leaving=True, evictable=False), _one(1)]
    assert room_for({"cpu": 10}, {"cpu": 20}, occupants) == Room(fits=False)


def test_a_device_gains_nothing_from_what_leaves_another() -> None:
    occupants = [_one(0, used_at=1, device="cuda:0"), _one(1, used_at=2, device="cuda:1")]
    assert room_for({"cuda:1": 10}, {"cuda:0": 10, "cuda:1": 10}, occupants).evict == _keys(1)
    assert room_for({"cpu": 10}, {"cuda:0": 10}, occupants).fits


_OCCUPANTS = st.lists(
    st.tuples(st.integers(0, 20), st.floats(0, 9), st.booleans(), st.booleans(), st.booleans()), max_size=6
)


@given(need=st.integers(0, 40), budget=st.integers(1, 60), drawn=_OCCUPANTS)
def test_once_what_is_to_leave_is_gone_the_version_fits_and_nothing_needed_left(need, budget, drawn) -> None:
    occupants = [
        _one(n, size, used, evictable=evictable, in_use=in_use, leaving=leaving)
        for n, (size, used, evictable, in_use, leaving) in enumerate(drawn)
    ]
    room = room_for({"cpu": need}, {"cpu": budget}, occupants)
    gone = [one for one in occupants if one.key in room.evict]
    assert all(one.evictable and not one.in_use and not one.leaving for one in gone)
    if room.evict:
        left = [one for one in occupants if one not in gone and not one.leaving]
        assert need + sum(one.memory["cpu"] for one in left) <= budget
        stayed = [one for one in left if one.evictable and not one.in_use and one.memory["cpu"]]
        assert not stayed or max(one.used_at for one in gone) <= min(one.used_at for one in stayed)
    least = sum(one.memory["cpu"] for one in occupants if not one.leaving and not one.evictable)
    assert room.possible == (need + least <= budget)
