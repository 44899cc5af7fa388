"""What a load takes is counted once, also while others are loaded."""

from collections import Counter
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.serving.loading import memory_growth
from turnout.serving.loading.memory_growth import MemoryGrowth


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The bytes in use by device."""
    bytes_by_device: Counter[str] = Counter(cpu=1000)
    monkeypatch.setattr(memory_growth, "used_bytes", lambda device: bytes_by_device[device])
    return bytes_by_device


def test_loads_at_the_same_time_share_what_memory_grows_by(used: Counter[str]) -> None:
    growth = MemoryGrowth()
    with ExitStack() as first, ExitStack() as second:
        one = first.enter_context(growth.measuring(["cpu"], 10))
        used["cpu"] += 100
        two = second.enter_context(growth.measuring(["cpu"], 30))
        used["cpu"] += 40
        first.close()
        assert one.memory == {"cpu": 110}
        used["cpu"] += 5
        second.close()
        assert two.memory == {"cpu": 35}
    used["cpu"] += 1000  # by something else
    with growth.measuring(["cpu"], 10) as later:
        used["cpu"] += 7
    assert later.memory == {"cpu": 7}


def test_devices_are_measured_apart_and_what_was_freed_meanwhile_is_nothing(used: Counter[str]) -> None:
    growth = MemoryGrowth()
    with growth.measuring(["cuda:0", "cuda:1"], 10) as both, growth.measuring(["cuda:1"], 10) as one:
        used.update({"cuda:0": 50, "cuda:1": 20})
        with growth.measuring(["cpu"], 0) as none:
            used["cpu"] -= 500
    assert (both.memory, one.memory, none.memory) == ({"cuda:0": 50, "cuda:1": 10}, {"cuda:1": 10}, {"cpu": 0})


def test_a_load_that_fails_is_not_counted_on(used: Counter[str]) -> None:
    growth = MemoryGrowth()
    with pytest.raises(ValueError, match="no kernel"), growth.measuring(["cpu"], 10):
        raise ValueError("no kernel")
    with growth.measuring(["cpu"], 10) as own:
        used["cpu"] += 30
    assert own.memory == {"cpu": 30}


@given(steps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 100)), max_size=30))
def test_all_loads_together_have_what_memory_grew_by_while_any_was_under_way(steps: list[tuple[int, int]]) -> None:
    growth, under_way, ended = MemoryGrowth(), {}, []
    used = total = 0
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(memory_growth, "used_bytes", lambda _: used)
        for load, grown in [*steps, *((load, 0) for load in range(4) for _ in range(2))]:
            total += grown if under_way else 0
            used += grown
            if load in under_way:
                under_way.pop(load).close()
            else:
                stack = under_way[load] = ExitStack()
                ended.append(stack.enter_context(growth.measuring(["cpu"], 1 + load)))
        for stack in under_way.values():
            stack.close()
    assert sum(load.shares["cpu"] for load in ended) == pytest.approx(total)
