"""Runs the `turnout` command and its server, as a process or in a thread of this one."""

import functools
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import command_line
import forked
from turnout.serving.sandbox.processes import CHILD_ENVIRONMENT
from turnout.testing import Served as Server
from turnout.testing import serve

TURNOUT = [sys.executable, "-m", "turnout"]
"""The command as a process, for tests in which that matters, such as of signals, a terminal, or a kill."""


def turnout(*arguments: str | Path, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Runs a command to its end in this process."""
    done = command_line.run(*arguments)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@dataclass
class ServerProcess(Server):
    """A server in a separate process."""

    process: "ForkServerProcess"
    log: Path

    def send(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def lines(self) -> list[dict[str, Any]]:
        """Returns what it has logged. A line that is being written is left out: a reader may see a part of it."""
        text = self.log.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def wait(self) -> int:
        """Returns the exit code. If a signal ended the process, it is the negative signal number."""
        self.process.join(60)
        assert self.process.exitcode is not None, "it still runs"
        return self.process.exitcode


@contextmanager
def serving(
    models: Path,
    *,
    program: str = "from turnout.__main__ import main; main()",
    grpc: str = "127.0.0.1:0",
    http: str = "127.0.0.1:0",
    control: str = "127.0.0.1:0",
    options: Sequence[str] = (),
    **environment: str,
) -> Iterator[ServerProcess]:
    """Starts `turnout serve` with additional `options`, or the given `program`. Kills it at the end.

    The process is forked from one that has imported everything, and is otherwise the same: two of the three seconds
    that a server takes to start are imports.
    """
    log = models.parent / f"server-{time.monotonic_ns()}.log"
    log.touch()
    command = ["serve", "--models", str(models), "--json"]
    command += ["--grpc", grpc, "--http", http, "--control", control, *options]
    process = forking().Process(
        target=forked.run, args=(program, command, os.environ | {"TURNOUT_DRAIN__DELAY_S": "0"} | environment, str(log))
    )
    process.start()
    try:
        pattern = re.compile(r'"grpc": "([^"]+)", "http": "([^"]+)", "control": "([^"]+)"')
        deadline = time.monotonic() + 150
        while not (found := pattern.search(log.read_text())):
            assert process.is_alive(), log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield ServerProcess(*found.groups(), process, log)
    finally:
        process.kill()
        process.join()
        process.close()


@contextmanager
def running(program: str, *arguments: str | Path, log: Path, **environment: str) -> Iterator["ForkServerProcess"]:
    """Starts a Python program, forked like those of `serving`, with standard error in `log`. Kills it at the end."""
    log.touch()
    process = forking().Process(
        target=forked.run, args=(program, list(map(str, arguments)), os.environ | environment, str(log))
    )
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()
        process.close()


@functools.cache
def forking() -> ForkServerContext:
    """Returns the context that forks processes. It starts with the first process, and ends with this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["forked"])
    before = dict(os.environ)
    os.environ.update(CHILD_ENVIRONMENT)  # otherwise libraries would start threads there
    # Python 3.11 passes its path but does not use it, so that imports would silently fail there.
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


@contextmanager
def serving_in_thread(models: Path, *, wait: bool = False, **settings: Any) -> Iterator[Server]:
    """Runs a server in a thread of this process, for tests that do not use an event loop.

    It behaves like one in a separate process, and starts in a tenth of the time.
    """
    with serve(models, wait=wait, **settings) as server:
        yield server
