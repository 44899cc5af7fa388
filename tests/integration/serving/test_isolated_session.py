"""A session in a child process: the same answers, and nothing that it does reaches this process."""

import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import ModelProto, TensorProto

import onnx_models
from onnx_models import save
from turnout.config import Runtime
from turnout.errors import MemoryBudgetExceeded, ModelCrashed, ModelFailure, ModelTimedOut
from turnout.host.cpu import KEEP_PRIORITY
from turnout.registry.onnx.model import read_model
from turnout.serving.isolation.session import IsolatedSession
from turnout.serving.sessions.providers import CPU
from turnout.serving.sessions.session import Session
from turnout.serving.sessions.spec import SessionSpec

pytestmark = pytest.mark.slow


def within(seconds: float) -> Callable[[], bool]:
    """Gives a run up when it has taken so long."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until


X = np.ones((1, 4), np.float32)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[object]:
    """Starts children, and ends them at the end of the test."""
    children: list[IsolatedSession] = []

    def start_one(proto: ModelProto, **more: Any) -> IsolatedSession:
        path = save(proto, tmp_path / f"{len(children)}" / "model.onnx")
        child = IsolatedSession(SessionSpec(path, read_model(path).signature, [CPU], 0, Runtime()), **more)
        children.append(child)
        child.start()
        return child

    yield start_one
    for child in children:
        child.close()


@pytest.mark.parametrize(
    ("proto", "inputs"),
    [
        (onnx_models.matmul(), {"x": np.random.default_rng(0).random((3, 64), np.float32)}),
        (onnx_models.matmul(), {"x": np.empty((0, 64), np.float32)}),
        (onnx_models.bfloat16_cast(), {"x": np.array([[1.5, -2.0]], ml_dtypes.bfloat16)}),
        (onnx_models.string_identity(), {"x": np.array(["a", "", "é\u4e2d"], object)}),
        (onnx_models.scalar(), {"x": np.array(2.5, np.float32)}),
        (onnx_models.identity(TensorProto.BOOL), {"x": np.array([[True, False, True, True]])}),
        (onnx_models.identity(TensorProto.UINT64), {"x": np.array([[0, 1, 2**63, 2**64 - 1]], np.uint64)}),
    ],
    ids=["float32", "empty", "bfloat16", "string", "scalar", "bool", "uint64"],
)
def test_it_answers_as_a_session_in_this_process_does(start, tmp_path, proto, inputs) -> None:
    child = start(proto)
    path = save(proto, tmp_path / "here" / "model.onnx")
    here = Session(SessionSpec(path, read_model(path).signature, [CPU], 0, Runtime()))
    (expected,) = here.run(inputs, ["y"])
    (got,) = child.run(inputs, ["y"], within(60.0))
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="only x86 traps on an integer's overflow")
def test_a_native_crash_is_named_and_a_restart_answers_again(start) -> None:
    child = start(onnx_models.divides())
    good = {"x": np.full((1, 1), 8, np.int32), "d": np.full(1, 2, np.int32)}
    assert child.run(good, ["y"], within(60.0))[0].tolist() == [[4]]
    with pytest.raises(ModelCrashed, match="died of SIGFPE"):
        child.run({"x": np.full((1, 1), -(2**31), np.int32), "d": np.full(1, -1, np.int32)}, ["y"], within(60.0))
    assert not child.alive
    with pytest.raises(ModelCrashed, match="not running"):
        child.run(good, ["y"], within(60.0))
    child.start()
    assert child.run(good, ["y"], within(60.0))[0].tolist() == [[4]]


def test_a_run_that_raises_leaves_the_child_alive(start) -> None:
    child = start(onnx_models.look_up())
    with pytest.raises(ModelFailure) as caught:
        child.run({"index": np.array([10**6])}, ["y"], within(60.0))
    assert type(caught.value) is ModelFailure
    pid = child.pid
    assert child.run({"index": np.array([0])}, ["y"], within(60.0))[0].tolist() == [[0, 1, 2, 3]]
    assert child.pid == pid


def test_a_run_that_hangs_is_killed_when_its_time_is_over(start) -> None:
    child = start(onnx_models.slow())
    began = time.monotonic()
    with pytest.raises(ModelTimedOut):
        child.run({"x": X, "n": np.array(10**9)}, ["y"], within(0.5))
    assert time.monotonic() - began < 60, "the model takes hours"
    assert not child.alive


def test_a_run_that_meets_the_memory_limit_says_so_and_the_child_lives_on(start) -> None:
    child = start(onnx_models.grows(), memory_limit=256 * 2**20)
    assert child.run({"x": X, "n": np.array(10**6)}, ["y"], within(60.0))[0].tolist() == [[1, 1, 1, 1]]
    with pytest.raises(MemoryBudgetExceeded):
        child.run({"x": X, "n": np.array(10**9)}, ["y"], within(60.0))
    assert child.alive
    assert child.run({"x": X, "n": np.array(10)}, ["y"], within(60.0))[0].tolist() == [[1, 1, 1, 1]]


def test_a_model_that_cannot_be_loaded_is_refused(tmp_path) -> None:
    path = save(onnx_models.matmul(), tmp_path / "model.onnx")
    signature = read_model(path).signature
    path.write_bytes(b"no model")
    with pytest.raises(ModelFailure, match="cannot load"):
        IsolatedSession(SessionSpec(path, signature, [CPU], 0, Runtime())).start()


def test_closing_ends_the_child_even_while_it_runs(start) -> None:
    child = start(onnx_models.slow())
    caught: list[BaseException] = []

    def run() -> None:
        try:
            child.run({"x": X, "n": np.array(10**9)}, ["y"], within(60.0))
        except ModelCrashed as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while not _uses_cpu(child.pid):
        time.sleep(0.01)
    child.close()
    thread.join(60)
    assert caught
    assert not child.alive
    with pytest.raises(ModelCrashed):
        child.run({"x": X, "n": np.array(1)}, ["y"], within(1.0))
    with pytest.raises(ModelCrashed):
        child.start()


def test_the_child_dies_with_its_parent(tmp_path) -> None:
    path = save(onnx_models.matmul(), tmp_path / "model.onnx")
    script = (
        "import sys, time; from pathlib import Path\n"
        "from turnout.config import Runtime\n"
        "from turnout.registry.onnx.model import read_model\n"
        "from turnout.serving.isolation.session import IsolatedSession\n"
        f"path = Path({str(path)!r})\n"
        "from turnout.serving.sessions.spec import SessionSpec\n"
        "spec = SessionSpec(path, read_model(path).signature, ['CPUExecutionProvider'], 0, Runtime())\n"
        "child = IsolatedSession(spec)\n"
        "child.start()\n"
        "print(child.pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 60
    while _runs(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_child_gets_the_processor_when_nobody_else_wants_it_and_no_secrets(start, monkeypatch) -> None:
    monkeypatch.setenv("TURNOUT_STATE", "postgresql://user:secret@host/db")
    monkeypatch.delenv(KEEP_PRIORITY)
    child = start(onnx_models.matmul(), priority="low")
    assert os.sched_getscheduler(child.pid) == os.SCHED_IDLE
    assert b"secret" not in Path(f"/proc/{child.pid}/environ").read_bytes()


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def _uses_cpu(pid: int) -> bool:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0] == "R"
