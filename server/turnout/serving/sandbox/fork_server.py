"""Children by fork: a warm process (`turnout.serving.sandbox.template_process`) starts them in milliseconds, and looks
after them.

    this process                        warm process                      child
      connect, "scratch directory" ---->  accept, fork ------------------->  answers, in the scratch directory
      {code, peak} <------------------- its end, as the kernel tells <-----  ends
      close, or die ------------------->  kills it

One connection is one child: whoever asked and goes away, however that happens, takes its child along.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from turnout.cancellation import Cancellation
from turnout.errors import ModelFailure
from turnout.host import cpu
from turnout.serving.sandbox.messages import receive_frame, send_frame
from turnout.serving.sandbox.processes import (
    Ended,
    Processes,
    SpawnedProcesses,
    end_child,
    readable,
    short_address,
    start_child,
)

SHARED = "_TURNOUT_FORK_SERVER"
"""Environment variable: the socket of a warm process that others share, as a suite of tests that publishes all the
time does. No setting, as its first letter says. Whoever listens there is asked for children, so it lies in a directory
of one's own."""

_WARM = "turnout.serving.sandbox.template_process"
_SOCKET = "socket"
_START_SECONDS = 60.0
_END_SECONDS = 5.0
_IDLE_SECONDS = 60.0
_LEAST_SECONDS = 1e-6
"""Of a socket's timeout: 0 would mean something else."""


class ForkServer:
    """A warm process of one's own; it starts with the first child, and ends with its owner at the latest."""

    def __init__(self, idle_seconds: float | None = None) -> None:
        """Prepares; nothing is started.

        Args:
            idle_seconds: Ends the warm process, which holds some 80 MiB, when no child was wanted for so long; it is
                started again when one is. None keeps it.
        """
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._home = ""
        self._warm: subprocess.Popen[bytes] | None = None

    def run(self, scratch: Path, timeout: float, cancellation: Cancellation) -> Ended:
        """As `Processes.run`."""
        address = self.address()
        try:
            return ask(address, scratch, timeout, cancellation)
        except ModelFailure:
            if not self._forget(address):  # it lives, and something else was wrong
                raise
            return ask(self.address(), scratch, timeout, cancellation)  # it ended, idle, while it was asked

    def address(self) -> str:
        """Returns where the warm process listens; starts it if it does not run.

        Raises:
            ModelFailure: It does not start.
        """
        with self._lock:
            if self._warm is None or self._warm.poll() is not None:
                self._end()
                self._start()
            return os.path.join(self._home, _SOCKET)

    def close(self) -> None:
        """Ends the warm process, and with it every child that still runs."""
        with self._lock:
            self._end()

    def _forget(self, address: str) -> bool:
        """Lets go of the warm process that listened at `address`; False if it still does."""
        with self._lock:
            if os.path.join(self._home, _SOCKET) != address:
                return True
            if self._warm is not None and self._warm.poll() is None and os.path.exists(address):
                return False
            self._end()
            return True

    def _start(self) -> None:
        idle = str(self._idle_seconds or "")
        self._home = tempfile.mkdtemp(prefix="turnout-warm-")  # nobody else may enter it
        address = os.path.join(self._home, _SOCKET)
        # The end of its standard input is its owner's end.
        warm = start_child(_WARM, address, idle, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._warm = warm
        assert warm.stdout is not None
        # It says so when it listens.
        if not readable(warm.stdout.fileno(), time.monotonic() + _START_SECONDS) or not warm.stdout.read(1):
            self._end()
            raise ModelFailure("the process that starts trial runs did not start")

    def _end(self) -> None:
        warm, self._warm = self._warm, None
        if warm is not None:
            assert warm.stdin is not None
            assert warm.stdout is not None
            warm.stdin.close()
            try:
                warm.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                end_child(warm)
            warm.stdout.close()
        shutil.rmtree(self._home, ignore_errors=True)


class SharedForkServer:
    """A warm process that belongs to someone else, such as a suite of tests."""

    def __init__(self, address: str) -> None:
        self._address = address

    def run(self, scratch: Path, timeout: float, cancellation: Cancellation) -> Ended:
        """As `Processes.run`."""
        return ask(self._address, scratch, timeout, cancellation)

    def close(self) -> None:
        """As `Processes.close`: its owner ends it."""


def start_processes() -> Processes:
    """Returns what starts children here: by fork on Linux, else with an interpreter for each."""
    if sys.platform != "linux":  # elsewhere system libraries start threads of their own, or nothing tells of them
        return SpawnedProcesses()
    shared = os.environ.get(SHARED)
    return SharedForkServer(shared) if shared else ForkServer(_IDLE_SECONDS)


def ask(address: str, scratch: Path, timeout: float, cancellation: Cancellation) -> Ended:
    """Has the warm process at `address` start a child, and waits for its end; as `Processes.run`.

    Raises:
        ModelFailure: There is no warm process, or it died.
    """
    deadline = time.monotonic() + timeout
    message = json.dumps({"scratch": str(scratch.absolute()), "idle": cpu.has_low_priority()}).encode()
    with socket.socket(socket.AF_UNIX) as connection:

        def stop() -> None:
            connection.shutdown(socket.SHUT_RDWR)

        try:
            with short_address(address) as path:
                connection.connect(path)
            with cancellation.stopping(stop):
                send_frame(connection, message)
                connection.settimeout(max(deadline - time.monotonic(), _LEAST_SECONDS))
                reply: dict[str, Any] = json.loads(receive_frame(connection, lambda: True))
        except TimeoutError:
            return Ended(-9, timed_out=True)  # leaving closes the connection, which kills it
        except EOFError:
            cancellation.check()
            raise ModelFailure("the process that starts trial runs died") from None
        except OSError as error:
            cancellation.check()
            raise ModelFailure(f"no process for the trial run could be started ({error.strerror})") from error
    return Ended(int(reply["code"]), int(reply["peak_bytes"]))
