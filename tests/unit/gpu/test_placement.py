"""Which GPUs a version is loaded on."""

from hypothesis import given
from hypothesis import strategies as st
from semver import Version

from turnout.config import Settings
from turnout.serving.loading.loader import on_devices
from turnout.serving.loading.memory_budget import Room, least_loaded

THREE = ["cuda:0", "cuda:1", "cuda:2"]
FREE = dict.fromkeys(THREE, Room(fits=True))


def test_a_version_goes_where_least_is() -> None:
    taken = [{"cuda:0": 30}, {"cuda:1": 10, "cuda:2": 20}]
    assert least_loaded(THREE, 1, taken, FREE) == ["cuda:1"]
    assert least_loaded(THREE, 2, taken, FREE) == ["cuda:1", "cuda:2"]
    assert least_loaded(["cuda:2", "cuda:0"], 1, taken, FREE) == ["cuda:2"]


def test_of_equals_the_one_with_fewer_versions_and_then_the_first_that_was_named() -> None:
    assert least_loaded(THREE, 1, [], FREE) == ["cuda:0"]
    assert least_loaded(["cuda:1", "cuda:0"], 1, [], FREE) == ["cuda:1"]
    assert least_loaded(THREE[:2], 1, [{"cuda:0": 5}, {"cuda:0": 5}, {"cuda:1": 10}], FREE) == ["cuda:1"]


def test_a_device_with_room_comes_before_one_that_has_to_make_it_whatever_is_on_them() -> None:
    key = "m", Version(1)
    never, later, evicting = Room(fits=False, possible=False), Room(fits=False), Room(fits=False, evict=(key,))
    taken = [{"cuda:0": 1, "cuda:1": 2, "cuda:2": 3}]
    for rooms, chosen in (
        ((never, evicting, FREE["cuda:2"]), "cuda:2"),
        ((never, later, evicting), "cuda:2"),
        ((never, later, never), "cuda:1"),
        ((never, never, never), "cuda:0"),
    ):
        assert least_loaded(THREE, 1, taken, dict(zip(THREE, rooms, strict=True))) == [chosen]
    assert least_loaded(THREE, 2, taken, dict(zip(THREE, (never, later, evicting), strict=True))) == THREE[1:]


def test_all_are_taken_where_nobody_asks_for_fewer() -> None:
    assert least_loaded(THREE, 0, [{"cuda:0": 9}], FREE) == THREE
    assert least_loaded(THREE, 7, [], FREE) == THREE
    assert least_loaded(["cpu"], 1, [{"cpu": 9}], FREE) == ["cpu"]


@given(sizes=st.lists(st.integers(1, 50), max_size=20), count=st.integers(1, 4))
def test_versions_that_come_one_after_the_other_are_spread(sizes: list[int], count: int) -> None:
    devices = [f"cuda:{number}" for number in range(count)]
    taken: list[dict[str, int]] = []
    for size in sizes:
        (device,) = least_loaded(devices, 1, taken, dict.fromkeys(devices, Room(fits=True)))
        taken.append({device: size})
    totals = [sum(memory.get(device, 0) for memory in taken) for device in devices]
    assert max(totals) - min(totals) <= max(sizes, default=0)


def test_the_devices_that_were_chosen_are_those_that_sessions_are_made_on() -> None:
    settings = Settings(runtime={"device_ids": [0, 1, 3], "gpus_per_version": 1}).for_model("m")
    placed = on_devices(settings, ["cuda:3"])
    assert placed.runtime.device_ids == (3,)
    assert placed.runtime.gpus_per_version == 1
    assert placed.batching == settings.batching
