"""Builds that take too long are left behind, and what they bring later is freed; what follows is decided by rules."""

import contextlib
import gc
import threading
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.cancellation import Cancellation, WorkCancelled
from turnout.errors import ModelFailure, ModelTimedOut, UnavailableError
from turnout.serving.loading.loader import LoadProgress
from turnout.serving.tensorrt.build import EngineBuilds
from turnout.serving.tensorrt.fallback import allowance, builds_engines, next_providers
from turnout.text.quantities import progress_text

BOUND = 30.0


class SlowBuild:
    """A build that goes on until it may end."""

    def __init__(self, fails: bool = False) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.freed = threading.Event()
        self._fails = fails

    def __call__(self) -> str:
        self.begun.set()
        assert self.may_end.wait(BOUND)
        if self._fails:
            raise ModelFailure("it cannot be built")
        return "engine"

    def discard(self, brought: str) -> None:
        assert brought == "engine"
        self.freed.set()


def _not_freed(brought: str) -> None:
    pytest.fail(f"{brought} was freed, though it is used")


def test_what_a_build_brings_or_raises_is_told_and_the_name_is_free_again() -> None:
    builds = EngineBuilds()
    for _ in range(2):
        assert builds.within(BOUND, "m", lambda: "engine", _not_freed) == "engine"

    def fail() -> str:
        raise ModelFailure("it cannot be built")

    with pytest.raises(ModelFailure, match="cannot be built"):
        builds.within(BOUND, "m", fail, _not_freed)
    assert builds.within(BOUND, "m", lambda: "engine", _not_freed) == "engine"


def test_a_build_that_takes_too_long_is_left_behind_and_freed_when_it_ends() -> None:
    builds, slow = EngineBuilds(), SlowBuild()
    with pytest.raises(ModelTimedOut, match=r"not built within 0.2 s .*tensorrt_build_timeout_s"):
        builds.within(0.2, "m", slow, slow.discard)
    assert slow.begun.wait(BOUND)
    with pytest.raises(ModelTimedOut, match="an earlier build"):
        builds.within(BOUND, "m", lambda: "engine", _not_freed)
    assert builds.within(BOUND, "other", lambda: "engine", _not_freed) == "engine"
    assert not slow.freed.is_set()
    slow.may_end.set()
    assert slow.freed.wait(BOUND)
    assert builds.within(BOUND, "m", lambda: "engine", _not_freed) == "engine"


def test_a_build_that_fails_after_it_was_left_behind_is_nobody_s() -> None:
    builds, slow = EngineBuilds(), SlowBuild(fails=True)
    with pytest.raises(ModelTimedOut):
        builds.within(0.1, "m", slow, slow.discard)
    slow.may_end.set()
    deadline = threading.Event()
    for _ in range(int(BOUND / 0.01)):
        try:
            assert builds.within(BOUND, "m", lambda: "engine", _not_freed) == "engine"
        except ModelTimedOut:
            deadline.wait(0.01)
        else:
            break
    else:
        pytest.fail("the build that was left behind never ended")
    assert not slow.freed.is_set()


def test_nothing_of_a_build_that_failed_stays_in_memory() -> None:
    """Its traceback leads to the sessions that it made, which may be most of what a device has."""
    made: list[weakref.ref[SlowBuild]] = []

    def fail() -> str:
        session = SlowBuild()
        made.append(weakref.ref(session))
        raise ModelFailure("it cannot be built")

    gc.disable()
    try:
        with contextlib.suppress(ModelFailure):
            EngineBuilds().within(BOUND, "m", fail, _not_freed)
        waiting = threading.Event()
        for _ in range(int(BOUND / 0.01)):  # the thread may still be about to let go of it
            if made[0]() is None:
                break
            waiting.wait(0.01)
        assert made[0]() is None
    finally:
        gc.enable()


def test_a_server_that_stops_does_not_wait_for_a_build() -> None:
    builds, slow, cancellation = EngineBuilds(), SlowBuild(), Cancellation()
    stopper = threading.Thread(
        target=lambda: slow.begun.wait(BOUND) and cancellation.cancel(UnavailableError("the server stops"))
    )
    stopper.start()
    with cancellation.applies(), pytest.raises(WorkCancelled):
        builds.within(600.0, "m", slow, slow.discard)
    stopper.join(BOUND)
    slow.may_end.set()
    assert slow.freed.wait(BOUND)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (("tensorrt", "cuda", "cpu"), ("cuda", "cpu")),
        (("tensorrt", "cpu"), ("cpu",)),
        (("tensorrt",), ()),
    ],
)
def test_the_next_provider_that_the_settings_name_serves_in_its_place(wanted, expected) -> None:
    assert next_providers(wanted) == expected


@given(st.lists(st.sampled_from(["cpu", "cuda", "tensorrt"]), unique=True), st.floats(0, 1e5))
def test_time_is_allowed_for_engines_only_where_they_are_built(wanted: list[str], seconds: float) -> None:
    first = wanted[:1] == ["tensorrt"]
    assert builds_engines(wanted) is first
    assert allowance(wanted, seconds) == (seconds if first else 0.0)
    assert not builds_engines("auto")


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.0, "0 s"), (59.9, "59 s"), (60.0, "1 min 0 s"), (3725.0, "62 min 5 s")]
)
def test_how_long_a_stage_goes_on_is_told(seconds: float, expected: str) -> None:
    assert progress_text("building TensorRT engines", seconds) == f"building TensorRT engines, for {expected}"


def test_nothing_of_a_try_is_told_once_it_was_given_up_and_loaded_is_told_once() -> None:
    told: list[str] = []
    tries = LoadProgress(lambda: told.append("loaded"), told.append)
    loaded, stage = tries.begin()
    stage("building")
    loaded()
    again, other = tries.begin()
    for call in (loaded, lambda: stage("late"), lambda: stage("")):
        call()
    other("copying")
    again()
    tries.close()
    other("late")
    assert told == ["building", "loaded", "copying"]
