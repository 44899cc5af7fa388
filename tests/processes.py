"""The `turnout` command, and its server as a process."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import command_line

TURNOUT = [sys.executable, "-m", "turnout"]
"""The command as a process: where that it is one matters, such as for signals, a terminal, or a kill."""


def turnout(*arguments: str | Path, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Runs a command to its end, in this process."""
    done = command_line.run(*arguments)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@dataclass
class ServerProcess:
    """A server in a process of its own."""

    process: "subprocess.Popen[bytes]"
    log: Path
    grpc: str
    http: str
    control: str

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
        yield ServerProcess(process, log, *found.groups())
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
