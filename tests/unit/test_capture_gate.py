"""Nobody else uses CUDA while a graph is captured, nobody waits long for that, and who captures launches."""

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest

from turnout.serving.sessions.capture_gate import CaptureGate
from turnout.serving.sessions.prepared_runner import PreparedRunner
from turnout.serving.sessions.session import Run
from turnout.serving.sessions.tensor import Array

BOUND = 30.0


def _start(work) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def _join(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(BOUND)
        assert not thread.is_alive()


def test_whoever_is_alone_is_alone_and_all_the_others_get_in_at_once() -> None:
    gate, together = CaptureGate(), threading.Barrier(4, timeout=BOUND)
    inside, alone, seen = [0], [0], []
    counting = threading.Lock()

    def share() -> None:
        for _ in range(50):
            with gate:
                with counting:
                    inside[0] += 1
                    seen.append(alone[0])
                with counting:
                    inside[0] -= 1

    def be_alone() -> None:
        for _ in range(20):
            with gate.alone(attempts=1000, seconds=0.05):
                alone[0] = 1
                seen.append(inside[0])
                alone[0] = 0

    def meet() -> None:
        with gate:
            together.wait()  # breaks unless all are inside at the same time

    _join(*(_start(meet) for _ in range(4)))
    _join(*(_start(work) for work in (share, share, share, be_alone, be_alone)))
    assert set(seen) == {0}


def test_a_run_that_hangs_is_not_waited_for_and_holds_up_nobody_else() -> None:
    gate, hangs, ended = CaptureGate(), threading.Event(), threading.Event()

    def hang() -> None:
        with gate:
            hangs.set()
            assert ended.wait(BOUND)

    hanging = _start(hang)
    assert hangs.wait(BOUND)
    with pytest.raises(TimeoutError, match="2 attempts"), gate.alone(attempts=2, seconds=0.001):
        pytest.fail("somebody is inside")
    with gate:  # open again
        pass
    ended.set()
    _join(hanging)
    with gate.alone(attempts=1, seconds=BOUND):
        pass


class _Made:
    """Runs that tell which thread made them, and whether that was left."""

    def __init__(self) -> None:
        self.made_in: list[int] = []
        self.left_in: list[int] = []

    @contextlib.contextmanager
    def make(self) -> Iterator[Run]:
        self.made_in.append(threading.get_ident())

        def run(inputs: Mapping[str, Array], _: Sequence[str]) -> list[Array]:
            return [np.array(threading.get_ident())]

        yield run
        self.left_in.append(threading.get_ident())


def _otherwise() -> contextlib.AbstractContextManager[Run]:
    return contextlib.nullcontext(lambda inputs, outputs: [np.array(-1)])


def test_what_a_thread_made_is_run_and_left_in_that_thread_and_in_no_other() -> None:
    made, threads = _Made(), []
    runner = PreparedRunner(lambda work: threads.append(_start(work)), made.make, _otherwise)
    assert len(made.made_in) == 1
    ran: list[int] = []

    def work() -> None:
        with runner() as run:
            ran.append(int(run({}, ())[0]))

    work()  # this thread did not make it
    assert ran.pop() == -1
    assert runner.start(work)
    assert not runner.start(work)  # it is taken
    _join(*threads)
    assert ran == made.made_in == made.left_in
    runner.close()
    work()
    assert ran[-1] == -1


def test_a_runner_that_was_never_started_is_freed_in_its_thread_when_it_is_closed() -> None:
    made, threads = _Made(), []
    runner = PreparedRunner(lambda work: threads.append(_start(work)), made.make, _otherwise)
    runner.close()
    assert made.left_in == made.made_in
    assert not runner.start(lambda: pytest.fail("it was closed"))
    _join(*threads)


def test_what_goes_wrong_in_the_thread_is_raised_to_who_waits_for_it() -> None:
    threads: list[threading.Thread] = []

    @contextlib.contextmanager
    def make() -> Iterator[Run]:
        raise ValueError("no device")
        yield

    with pytest.raises(ValueError, match="no device"):
        PreparedRunner(lambda work: threads.append(_start(work)), make, _otherwise)
    _join(*threads)
