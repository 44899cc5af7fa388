"""Blocking work has threads of its own for each thing that may hang, so that nothing that hangs takes another along."""

import asyncio
import contextlib
import contextvars
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from semver import Version

from onnx_models import matmul, save, scaled
from started_servers import starting
from turnout.app.server import Running
from turnout.errors import UnavailableError
from turnout.routing.policy import Policy
from turnout.routing.traffic import ChangeOrigin
from turnout.serving.sessions import memory
from turnout.serving.versions.lifecycle import LifecycleState
from turnout.state.release_status import ReleaseStatus
from turnout.telemetry.system_stats import CachedReading
from turnout.threads import Threads
from wire import X, outputs_of, request, stub_of

BOUND = 100.0
ONE, TWO = Version(1, 0, 0), Version(2, 0, 0)


class Hang:
    """Calls that do not return before the test ends; a bounded wait stands for what never does."""

    def __init__(self) -> None:
        self._released = threading.Event()
        self._entered = threading.Semaphore(0)
        self.given_up = False

    def __call__(self, *_: object, **__: object) -> None:
        self._entered.release()
        self.given_up |= not self._released.wait(BOUND)

    def release(self) -> None:
        self._released.set()

    async def entered(self, calls: int = 1) -> None:
        """Waits until so many more calls hang."""
        threads = Threads("test")
        for _ in range(calls):
            assert await threads.run(self._entered.acquire, timeout=BOUND)
        threads.shutdown()


@pytest.fixture
def hang() -> Iterator[Hang]:
    hang = Hang()
    yield hang
    hang.release()


async def test_calls_that_come_at_once_have_a_thread_each_up_to_the_bound() -> None:
    threads = Threads("few", 3)
    for _ in range(50):
        barrier = threading.Barrier(3, timeout=BOUND)
        await asyncio.gather(*(threads.run(barrier.wait) for _ in range(3)))
    names = {thread.name for thread in threading.enumerate() if thread.name.startswith("few-")}
    assert names == {"few-0", "few-1", "few-2"}
    threads.shutdown(wait=True)


async def test_a_call_has_its_callers_context_and_its_error_is_the_callers() -> None:
    threads, variable = Threads("context"), contextvars.ContextVar[str]("variable")
    variable.set("the caller's")
    assert await threads.run(variable.get) == "the caller's"
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 // 0)
    with pytest.raises(SystemExit):  # the thread lives on
        await threads.run(sys.exit)
    assert await threads.run(lambda: 1) == 1
    threads.shutdown(wait=True)


async def test_a_cancelled_caller_takes_its_call_back_if_it_has_not_begun(hang: Hang) -> None:
    threads, ran = Threads("one"), []
    running = asyncio.ensure_future(threads.run(hang))
    await hang.entered()
    waiting = asyncio.ensure_future(threads.run(ran.append, 1))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    hang.release()
    await running
    assert await threads.run(lambda: list(ran)) == []
    threads.shutdown(wait=True)
    with pytest.raises(UnavailableError, match="closed"):
        await threads.run(list)


def test_a_call_that_hangs_holds_no_process_up() -> None:
    program = (
        "import asyncio, threading\n"
        "from turnout.threads import Threads\n"
        "async def main():\n"
        "    begun = threading.Event()\n"
        "    hung = asyncio.ensure_future(Threads('t').run(lambda: (begun.set(), threading.Event().wait())))\n"
        "    await asyncio.sleep(0)\n"
        "    begun.wait()\n"
        "    hung.cancel()\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=BOUND)


async def test_threads_end_when_nothing_was_to_do_for_a_while_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnout.threads._IDLE_SECONDS", 0.01)
    threads = Threads("passing", 2)

    def alive() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("passing-")]

    for _ in range(20):
        barrier = threading.Barrier(2, timeout=BOUND)
        await asyncio.gather(*(threads.run(barrier.wait) for _ in range(2)))
        async with asyncio.timeout(BOUND):
            while alive():
                await asyncio.sleep(0.001)
    for _ in range(300):  # calls that come just as a thread gives up
        assert await asyncio.wait_for(threads.run(lambda: 1), BOUND) == 1
        await asyncio.sleep(0.01)


async def test_a_reading_that_hangs_takes_one_thread_and_the_last_value_stands_in() -> None:
    threads, hang = Threads("reading", 2), Hang()
    answers: list[object] = [1]

    def read() -> object:
        return answers[0]() if callable(answers[0]) else answers[0]  # type: ignore[operator]

    reading = CachedReading[object](lambda: threads.run(read), 0)
    assert await reading.value(BOUND) == 1
    answers[0] = hang
    for _ in range(5):
        assert await reading.value(0.001) == 1
    await hang.entered()
    assert len([t for t in threading.enumerate() if t.name.startswith("reading-")]) <= 2
    answers[0] = 2
    hang.release()
    await reading.value(BOUND)  # of the read that hung
    assert await reading.value(BOUND) == 2
    threads.shutdown(wait=True)


async def _hang_versions(server: Running, hang: Hang, count: int) -> list["asyncio.Task[object]"]:
    """Has every runner of `count` versions hang in a run, and their unloads wait for them."""
    calls = []
    for number in range(count):
        handle = server.services.catalog.snapshot.models["hangs"].versions[Version(1, number, 0)].handle
        assert handle is not None
        batcher = handle._batchers[""]
        batcher._unused = [lambda: contextlib.nullcontext(hang)] * len(batcher._unused)
        calls.append(asyncio.create_task(handle.infer({"x": X}, (), None)))
    await hang.entered(count)
    for call in calls:
        call.cancel()  # the clients left; the runs go on
    unloads = [
        asyncio.create_task(server.parts.serving.manager.unload("hangs", Version(1, number, 0)))
        for number in range(count)
    ]
    await server.services.catalog.wait_for(
        lambda s: {e.state for e in s.models["hangs"].versions.values()} == {LifecycleState.DRAINING}
    )
    return unloads


async def test_versions_that_hang_keep_no_rollback_from_being_recorded_and_nothing_else_from_going_on(
    publish_model, start_server, hang: Hang
) -> None:
    count = min(32, (os.cpu_count() or 1) + 4)  # as many as asyncio's executor has threads
    for number in range(count):
        publish_model("hangs", f"1.{number}.0", scaled(number))
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "2.0.0", scaled(2))
    server = await start_server(
        runtime={"runners": 1, "inline_threshold_us": 0}, batching={"enabled": False}, drain={"timeout_s": 0.1}
    )
    parts = server.parts
    applied = await parts.serving.traffic.put("m", Policy(TWO), ChangeOrigin("test", "forward"))
    unloads = await _hang_versions(server, hang, count)
    async with asyncio.timeout(BOUND):
        await parts.serving.traffic.put("m", Policy(ONE), ChangeOrigin("test", "back", expected_epoch=applied.epoch))
        async with stub_of(server) as stub, httpx.AsyncClient() as http:
            answer = await stub.Predict(request("m", x=X))
            assert outputs_of(answer)["y"].tolist() == X.tolist()
            assert (await http.get(f"http://{server.http}/metrics")).status_code == 200
        await parts.serving.manager.load("m", TWO)
        assert not any(unload.done() for unload in unloads)
    hang.release()
    await asyncio.wait_for(asyncio.gather(*unloads), BOUND)
    assert {e.state for e in parts.base.catalog.snapshot.models["hangs"].versions.values()} == {LifecycleState.UNLOADED}


async def test_a_scrape_answers_though_the_driver_does_not(
    publish_model, start_server, hang: Hang, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await start_server()
    monkeypatch.setattr(memory, "resident_bytes", hang)
    async with httpx.AsyncClient(timeout=BOUND) as http:
        for _ in range(2):
            text = (await http.get(f"http://{server.http}/metrics")).text
            assert "turnout_version_info" in text
    hang.release()


async def test_a_repository_that_hangs_keeps_no_release_or_rollback_elsewhere_from_being_followed(
    publish_model, start_server, models: Path, hang: Hang, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another server of the same store changes traffic while this one's repository does not answer."""
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "2.0.0", scaled(2))
    elsewhere = set(threading.enumerate())  # of servers that ended, and wait for their time to end too
    server, other = await start_server(), await start_server()
    manager = server.parts.serving.manager
    monkeypatch.setattr("turnout.registry.storage.timed_scan.SCAN_SECONDS", 0.05)
    monkeypatch.setattr(manager._repository, "scan", hang)
    await other.parts.serving.traffic.put("m", Policy(TWO), ChangeOrigin("elsewhere", "forward"))
    await hang.entered()  # this server saw that, and looks at the repository since
    back = await other.parts.serving.traffic.put("m", Policy(ONE), ChangeOrigin("elsewhere", "back"))
    async with asyncio.timeout(BOUND):
        while server.parts.serving.policies.current["m"].epoch != back.epoch:
            await asyncio.sleep(0.01)
    started = set(threading.enumerate()) - elsewhere
    assert len([t for t in started if t.name.startswith("repository-")]) <= 8
    hang.release()


@pytest.mark.parametrize("change", ["release", "withdraw"])
async def test_a_repository_that_hangs_keeps_no_release_from_being_recorded(
    publish_model, start_server, hang: Hang, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The server knows the version. Another one is refused, and does not hold up what only needs the state store."""
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "2.0.0", scaled(2), release=change == "withdraw")
    server = await start_server()
    rollouts, store = server.parts.rollouts, server.parts.base.store
    monkeypatch.setattr("turnout.rollout.engine.operators.releases._REPOSITORY_WAIT", 0.2)
    for method in ("find", "scan"):
        monkeypatch.setattr(server.parts.base.repository, method, hang)
    async with asyncio.timeout(BOUND):
        with pytest.raises(UnavailableError, match=r"the model repository has not answered within 0\.2 s"):
            await rollouts.releases.release("m", Version(3, 0, 0), "ann", "")
        done = await getattr(rollouts.releases, change)("m", TWO, "ann", "")
        assert done.changed
        here = server.services.catalog.snapshot.models["m"].versions[TWO].release_status
        assert here is store.release_state().of("m").release_status(TWO)
        assert str(here) == ("released" if change == "release" else "candidate")
        if change == "release":
            back = await rollouts.releases.rollback("m", ONE, "ann", "")
            assert (back.baseline, server.services.catalog.snapshot.models["m"].versions[TWO].release_status) == (
                ONE, ReleaseStatus.CANDIDATE,
            )  # fmt: skip


async def test_a_repository_that_hangs_does_not_delay_the_servers_end(
    publish_model, models: Path, hang: Hang, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_model("m", "1.0.0", scaled(1))
    async with asyncio.timeout(BOUND), starting(models, "h2corn") as start:
        server = await start()
        monkeypatch.setattr("turnout.serving.versions.follow._identity", hang)
        monkeypatch.setattr(server.parts.serving.manager._repository, "scan", hang)
        publish_model("m", "2.0.0", scaled(2))
        await hang.entered(2)  # the watch, and the scan that the new version calls for


async def test_a_state_store_that_hangs_does_not_delay_the_servers_end(
    publish_model, models: Path, hang: Hang, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To close a file of SQLite waits for its file system."""
    publish_model("m", "1.0.0", scaled(1))
    async with asyncio.timeout(BOUND), starting(models, "h2corn") as start:
        server = await start()
        monkeypatch.setattr(server.parts.rollouts.engine.commands._store._database._writes.pool, "dispose", hang)
    await hang.entered()
    assert not hang.given_up, "the end waited for it"


@pytest.mark.slow
def test_a_process_ends_with_its_code_although_threads_are_in_native_code(tmp_path) -> None:
    """The interpreter's own end takes such threads down through frames of C++, which aborts the process."""
    model = save(matmul(256), tmp_path / "model.onnx")
    program = (
        "import sys, threading, numpy, onnxruntime\n"
        "from turnout.threads import end_process\n"
        "run = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider']).run\n"
        "x, begun = numpy.ones((64, 256), numpy.float32), threading.Semaphore(0)\n"
        "def work():\n"
        "    while True:\n"
        "        run(None, {'x': x})\n"
        "        begun.release()\n"
        "for _ in range(3):\n"
        "    threading.Thread(target=work, daemon=True).start()\n"
        "for _ in range(6):\n"
        "    begun.acquire()\n"
        "print('said')\n"
        "end_process(3)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(model)], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (3, "said\n", "")
