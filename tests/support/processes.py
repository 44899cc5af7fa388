"""The `turnout` command, and its server: as a process, or in a thread of this one."""

import functools
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
class ServerProcess(Server):
    """A server in a process of its own."""

    process: "ForkServerProcess"
    log: Path

    def send(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait(self) -> int:
        """Returns the exit code, which is the signal's number below 0 where one ended it."""
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
    """Starts `turnout serve` with more `options`, or what `program` makes of it; it is killed at the end.

    The process is forked from one that has imported everything, and is alike in all else: two of its three seconds of
    starting are imports.
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
def command(*arguments: str | Path, log: Path, **environment: str) -> Iterator["ForkServerProcess"]:
    """Starts a command in a process of its own, which may be killed; forked as `serving` does."""
    with running("from turnout.__main__ import main; main()", *arguments, log=log, **environment) as process:
        yield process


@contextmanager
def running(program: str, *arguments: str | Path, log: Path, **environment: str) -> Iterator["ForkServerProcess"]:
    """Starts a program of Python in a process of its own; what it writes to standard error is in `log`."""
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
    """Returns what forks: started with the first process, and ended with this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["forked"])
    before = dict(os.environ)
    os.environ.update(CHILD_ENVIRONMENT)  # or libraries start threads there
    # Python 3.11 hands its path over and does not use it: nothing would be found there, and nothing be said of it.
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


@contextmanager
def serving_in_thread(models: Path, *, wait: bool = False, **settings: Any) -> Iterator[Server]:
    """Runs a server in a thread of this process, where the test and its commands are not on an event loop.

    It serves as one in a process of its own does, and starts in a tenth of the time.
    """
    with serve(models, wait=wait, **settings) as server:
        yield server
