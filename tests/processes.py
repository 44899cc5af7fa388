"""The `turnout` command, and its server: as a process, or in a thread of this one."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import command_line
from conftest import make_settings
from turnout.app import running
from turnout.serving import providers
from turnout.telemetry.logging import make_logger

T = TypeVar("T")

TURNOUT = [sys.executable, "-m", "turnout"]
"""The command as a process: where that it is one matters, such as for signals, a terminal, or a kill."""


def turnout(*arguments: str | Path, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Runs a command to its end, in this process."""
    done = command_line.run(*arguments)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def turnout_process(*arguments: str | Path, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Runs a command to its end, in a process of its own."""
    done = subprocess.run([*TURNOUT, *map(str, arguments)], capture_output=True, text=True, timeout=240)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@dataclass
class Server:
    """Where a server listens."""

    grpc: str
    http: str
    control: str


@dataclass
class ServerProcess(Server):
    """A server in a process of its own."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(timeout=60)


@contextmanager
def serving(
    models: Path,
    *,
    program: Sequence[str] = TURNOUT,
    grpc: str = "127.0.0.1:0",
    control: str = "127.0.0.1:0",
    **environment: str,
) -> Iterator[ServerProcess]:
    """Starts `turnout serve`, or what `program` has in the place of `turnout`; it is killed at the end."""
    log = models.parent / f"server-{time.monotonic_ns()}.log"
    command = [*program, "serve", "--models", str(models), "--json"]
    command += ["--grpc", grpc, "--http", "127.0.0.1:0", "--control", control]
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stderr=stderr, env=os.environ | environment)
    try:
        pattern = re.compile(r'"grpc": "([^"]+)", "http": "([^"]+)", "control": "([^"]+)"')
        deadline = time.monotonic() + 60
        while not (found := pattern.search(log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield ServerProcess(*found.groups(), process, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@contextmanager
def serving_in_thread(models: Path, **settings: Any) -> Iterator[Server]:
    """Runs a server in a thread of this process, where the test and its commands are not on an event loop.

    It serves as one in a process of its own does, and starts in a tenth of the time.
    """
    providers.start_runtime()
    providers.probe()  # once in a process, and takes standard output away for that time: from a command, too
    loop, stack = asyncio.new_event_loop(), AsyncExitStack()

    def do(work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result(60)

    thread = threading.Thread(target=loop.run_forever, name="server")
    thread.start()
    try:
        context = running(make_settings(models, **settings), make_logger("json", "warning"))
        server = do(stack.enter_async_context(context))
        yield Server(str(server.grpc), str(server.http), str(server.control))
    finally:
        do(stack.aclose())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
