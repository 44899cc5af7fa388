"""Nobody else uses CUDA while a graph is captured, nobody waits long for that, and who captures launches."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnx_models import matmul
from turnout.config import Runtime
from turnout.registry.onnx.model import read_model
from turnout.serving.sessions import capture_gate, session
from turnout.serving.sessions.capture_gate import LOADS, RUNS, CaptureGate, GatedSessions
from turnout.serving.sessions.io_binding import BoundRunner, pageable
from turnout.serving.sessions.prepared_runner import PreparedRunner
from turnout.serving.sessions.providers import CPU, CUDA
from turnout.serving.sessions.session import Run, Session
from turnout.serving.sessions.spec import SessionSpec
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


MakeSession = Callable[..., Session]


@pytest.fixture
def gated_sessions(monkeypatch: pytest.MonkeyPatch) -> GatedSessions:
    """Nothing was loaded in this process, and no captures are expected."""
    gated_sessions = GatedSessions()
    monkeypatch.setattr(session, "GATED", gated_sessions)
    monkeypatch.setattr(capture_gate, "GATED", gated_sessions)
    return gated_sessions


@pytest.fixture
def on_gpu(tmp_path: Path) -> MakeSession:
    """Makes sessions as they are made for a GPU; ONNX Runtime puts them on the CPU where there is none."""
    if CUDA not in ort.get_available_providers():
        pytest.skip("this build of ONNX Runtime has no CUDA provider")
    path = tmp_path / "model.onnx"
    onnx.save(matmul(), path)
    signature = read_model(path).signature
    return lambda names=(CUDA, CPU), **given: Session(SessionSpec(path, signature, names, 0, Runtime()), **given)


def _run_all_ways(made: Session) -> None:
    x = np.ones((1, 64), np.float32)
    made.run({"x": x}, ["y"])
    with BoundRunner(made, pageable) as bound:
        bound({"x": x}, ["y"])


@pytest.mark.usefixtures("gated_sessions")
def test_without_captures_a_session_on_a_gpu_is_made_and_run_and_closed_past_the_gates(on_gpu: MakeSession) -> None:
    done: list[bool] = []

    def work() -> None:
        made = on_gpu()
        _run_all_ways(made)
        made.close()
        done.append(made.gated)

    with LOADS.alone(1, BOUND), RUNS.alone(1, BOUND):  # whoever passes a gate waits until this ends
        _join(_start(work))
    assert done == [False]


def test_once_captures_are_expected_what_is_made_for_a_gpu_passes_the_gates(
    gated_sessions: GatedSessions, on_gpu: MakeSession
) -> None:
    gated_sessions.expect_captures()
    made, on_the_cpu = on_gpu(), on_gpu((CPU,))
    assert made.gated
    assert not on_the_cpu.gated
    ran = threading.Event()

    def run() -> None:
        _run_all_ways(made)
        ran.set()

    with RUNS.alone(1, BOUND):
        _run_all_ways(on_the_cpu)
        waiting = _start(run)
        assert not ran.wait(0.05)
    _join(waiting)
    assert ran.is_set()


def test_nothing_is_captured_as_long_as_there_are_sessions_that_pass_no_gate(
    gated_sessions: GatedSessions, on_gpu: MakeSession
) -> None:
    old = on_gpu()
    new = on_gpu((CPU,), captures=True)
    assert new.gated
    binding = new.bind()
    x = np.ones((1, 64), np.float32)
    binding.bind_cpu_input("x", x)
    binding.bind_output("y", "cpu")
    with pytest.raises(TimeoutError, match="before CUDA graphs were enabled"):
        new.capture(binding, 1)
    cycle = [old]
    cycle.append(cycle)
    del old, cycle  # gone, though nobody has looked for it yet
    new.capture(binding, 2)
    again = on_gpu()  # as when the version is loaded again
    assert again.gated
    new.capture(binding, 3)
    assert gated_sessions.complete


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
