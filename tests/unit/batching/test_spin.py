"""When an idle runner looks for requests before it sleeps, and what runner threads hand back to the event loop."""

import asyncio
import threading
from collections.abc import Sequence

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from turnout.serving.batching.hand_back import HandBack
from turnout.serving.batching.spin import _MOST_MISSES, Spin, look

BOUND = 30.0

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


def test_without_a_bound_nobody_looks() -> None:
    spin = Spin(0.0)
    spin.idled(0.0)
    assert not spin.worthwhile


@given(st.lists(st.floats(0, 1), max_size=100))
def test_a_runner_looks_while_one_of_the_latest_idle_times_was_short_enough(idle: Sequence[float]) -> None:
    spin = Spin(0.5)
    for seconds in idle:
        spin.idled(seconds)
    latest = idle[-_MOST_MISSES:]
    assert spin.worthwhile == (len(idle) < _MOST_MISSES or any(seconds <= 0.5 for seconds in latest))


def test_who_looks_finds_what_is_there_and_gives_up_in_time() -> None:
    free, times = threading.Lock(), iter(range(10))
    assert look(free, 0.0)
    assert not look(free, 3.0, lambda: float(next(times)))  # it is held now
    assert next(times) == 4


@pytest.mark.parametrize("new_loop", LOOPS, ids=["asyncio", "uvloop"])
def test_what_threads_hand_back_comes_once_each_in_order_whatever_fails(new_loop) -> None:
    threads, each = 4, 500
    came: list[tuple[int, int]] = []
    failed: list[object] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: failed.append(context["exception"]))
        hand_back, done = HandBack(loop), asyncio.Event()

        def take(item: tuple[int, int]) -> None:
            came.append(item)
            if len(came) == threads * each:
                done.set()
            if item[1] == 7:
                raise ValueError(item)

        def work(number: int) -> None:
            for index in range(each):
                hand_back.call(take, (number, index))

        workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        await asyncio.wait_for(done.wait(), BOUND)
        for worker in workers:
            worker.join()
        await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
    assert len(failed) == threads
    for number in range(threads):
        assert [index for of, index in came if of == number] == list(range(each))


def test_what_comes_before_the_loop_looks_takes_one_wakeup_of_asyncios_loop() -> None:
    wakeups: list[object] = []
    came: list[int] = []

    class Loop:
        def call_soon_threadsafe(self, call) -> None:
            wakeups.append(call)

    hand_back = HandBack(Loop())  # type: ignore[arg-type]
    for number in range(5):
        hand_back.call(came.append, number)
    assert len(wakeups) == 1
    wakeups.pop()()
    assert came == [0, 1, 2, 3, 4]
    hand_back.call(came.append, 5)
    assert len(wakeups) == 1


def test_a_closed_loop_is_handed_nothing_and_nobody_fails() -> None:
    for new_loop in LOOPS:
        loop = new_loop()
        hand_back = HandBack(loop)
        loop.close()
        hand_back.call(print, 1)
