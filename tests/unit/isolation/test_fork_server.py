"""Children of the warm process: quick, told of by their end, and gone when nobody waits for them."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from turnout.cancellation import Cancellation, WorkCancelled
from turnout.errors import UnavailableError
from turnout.serving.sandbox.fork_server import ForkServer, ask
from turnout.serving.sandbox.processes import (
    Ended,
    Processes,
    SpawnedProcesses,
    child_environment,
)

pytestmark = pytest.mark.slow

WARM = """
import os, sys
from turnout.serving.sandbox import child as sandbox_child
from turnout.serving.sandbox import template_process as warm
def answer(scratch):
    (scratch / "pid").write_text(str(os.getpid()))
    exec((scratch / "job.json").read_text(), {"scratch": scratch})
sandbox_child.answer = answer
if sys.argv.pop() == 'threads':
    import threading
    threading.Thread(target=threading.Event().wait, daemon=True).start()
warm.main()
"""
"""A warm process whose children run the Python that they are given."""


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 100
    while not true():
        assert time.monotonic() < until
        time.sleep(0.005)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("warm")
    address = str(home / "s")
    command = [sys.executable, "-c", WARM, address, ""]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_environment()) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.read(1)
        yield address
        process.stdin.close()


def run(warm: str, scratch: Path, program: str, timeout: float = 60.0) -> Ended:
    (scratch / "job.json").write_text(program)
    return ask(warm, scratch, timeout, Cancellation())


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("pass", 0),
        ("raise ValueError('x')", 1),
        ("import os; os._exit(7)", 7),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV),
        ("import os; os.abort()", -signal.SIGABRT),
        ("import signal; signal.setitimer(signal.ITIMER_REAL, 0.01); signal.pause()", -signal.SIGALRM),
    ],
)
def test_how_a_child_ended_is_told(warm: str, tmp_path: Path, program: str, code: int) -> None:
    assert run(warm, tmp_path, program).code == code


def test_the_most_memory_a_child_held_is_told(warm: str, tmp_path: Path) -> None:
    little = run(warm, tmp_path, "pass").peak_bytes
    assert run(warm, tmp_path, "b'x' * (100 << 20)").peak_bytes - little > 90 << 20


def test_a_child_leads_a_group_has_no_input_and_no_descriptor_of_another(warm: str, tmp_path: Path) -> None:
    program = (
        "import os\nfiles = []\nfor f in os.listdir('/proc/self/fd'):\n"
        "    try: files.append(os.readlink(f'/proc/self/fd/{f}').split(':')[0])\n"
        "    except OSError: pass\n"
        "(scratch / 'found').write_text(repr([os.getpgid(0) == os.getpid(), os.read(0, 1),"
        " len(os.listdir('/proc/self/task')), files]))"
    )
    assert run(warm, tmp_path, program).code == 0
    leads, read, threads, files = eval((tmp_path / "found").read_text())
    assert (leads, read, threads) == (True, b"", 1)
    assert "socket" not in files


def test_a_child_is_killed_when_its_time_is_over(warm: str, tmp_path: Path) -> None:
    ended = run(warm, tmp_path, "import signal; signal.pause()", timeout=2.0)
    assert ended.timed_out
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: gone(pid))


def test_cancelling_kills_the_child_and_says_why(warm: str, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text("import signal; signal.pause()")
    cancellation = Cancellation()

    def cancel() -> None:
        wait_until(lambda: (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text()))
        cancellation.cancel(UnavailableError("the server stops"))

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(WorkCancelled, match="the server stops"):
        ask(warm, tmp_path, 60.0, cancellation)
    thread.join()
    wait_until(lambda: gone(int((tmp_path / "pid").read_text())))
    with pytest.raises(WorkCancelled):
        ask(warm, tmp_path, 60.0, cancellation)


@pytest.mark.slow
def test_a_child_dies_with_whoever_asked_and_with_the_warm_process(tmp_path: Path) -> None:
    address = str(tmp_path / "s")
    scratches = [tmp_path / "one", tmp_path / "two"]
    asking = (
        "import sys; from pathlib import Path; from turnout.serving.sandbox.fork_server import ask;"
        "from turnout.cancellation import Cancellation;"
        "ask(sys.argv[1], Path(sys.argv[2]), 60.0, Cancellation())"
    )
    command = [sys.executable, "-c", WARM, address, ""]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_environment()) as warm:
        assert warm.stdout is not None
        assert warm.stdout.read(1)
        callers = []
        for scratch in scratches:
            scratch.mkdir()
            (scratch / "job.json").write_text("import signal; signal.pause()")
            callers.append(subprocess.Popen([sys.executable, "-c", asking, address, str(scratch)], stderr=-3))
        for scratch in scratches:
            wait_until(lambda s=scratch: (s / "pid").exists() and bool((s / "pid").read_text()))  # type: ignore[misc]
        first, second = (int((scratch / "pid").read_text()) for scratch in scratches)
        callers[0].kill()
        callers[0].wait()
        wait_until(lambda: gone(first))
        assert not gone(second)
        warm.kill()
        wait_until(lambda: gone(second))
        assert callers[1].wait(100) == 1


@pytest.mark.slow
def test_a_process_of_several_threads_is_not_forked(tmp_path: Path) -> None:
    address = str(tmp_path / "s")
    command = [sys.executable, "-c", WARM, address, "threads"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_environment()) as warm:
        assert warm.stdout is not None
        assert warm.stdout.read(1)
        (tmp_path / "job.json").write_text(
            json.dumps({"question": "compare_latency", "subjects": [], "golden": [], "runtime": {}})
        )
        assert (
            ask(address, tmp_path, 60.0, Cancellation()).code == 1
        )  # a race of nobody: an interpreter of its own ran it
        assert not (tmp_path / "pid").exists()
        warm.kill()


@pytest.mark.parametrize("make", [ForkServer, SpawnedProcesses])
def test_an_owner_s_processes_end_with_it(tmp_path: Path, make: Callable[[], Processes]) -> None:
    processes = make()
    try:
        (tmp_path / "job.json").write_text("{}")
        assert processes.run(tmp_path, 60.0, Cancellation()).code == 1
        home = Path(processes.address()).parent if isinstance(processes, ForkServer) else None
    finally:
        processes.close()
    assert home is None or not home.exists()


@pytest.mark.slow
def test_a_warm_process_that_nobody_wants_ends_and_is_started_again(tmp_path: Path) -> None:
    server = ForkServer(idle_seconds=1.0)
    try:
        (tmp_path / "job.json").write_text("{}")
        first = server.address()
        wait_until(lambda: not Path(first).exists())
        assert server.run(tmp_path, 60.0, Cancellation()).code == 1
        assert server.address() != first
    finally:
        server.close()


def test_a_long_directory_for_scratch_files_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("d" * 100) / ("e" * 100)
    long.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    server = ForkServer()
    try:
        (tmp_path / "job.json").write_text("{}")
        assert server.run(tmp_path, 60.0, Cancellation()).code == 1
        assert Path(server.address()).is_relative_to(long)
    finally:
        server.close()
    assert list(long.iterdir()) == []
