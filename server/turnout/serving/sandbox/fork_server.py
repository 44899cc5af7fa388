"""Starts children by fork: a warm process (`turnout.serving.sandbox.template_process`) starts them in milliseconds and
watches them.

    this process                        warm process                      child
      connect, "scratch directory" ---->  accept, fork ------------------->  answers, in the scratch directory
      {code, peak} <------------------- its end, as the kernel reports <---  ends
      close, or die ------------------->  kills it

Each connection belongs to one child. When the process that asked goes away, however that happens, its child is killed.
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
"""Environment variable with the socket of a warm process to share, for test suites that publish all the time. It is not
a setting, as the leading underscore shows. Whatever listens there starts the children, so the socket must be in a
private directory."""

_WARM = "turnout.serving.sandbox.template_process"
_SOCKET = "socket"
_START_SECONDS = 60.0
_END_SECONDS = 5.0
_IDLE_SECONDS = 60.0
_LEAST_SECONDS = 1e-6
"""Shortest timeout of a socket, since 0 means non-blocking."""


class ForkServer:
    """A private warm process. It starts with the first child and ends with its owner at the latest."""

    def __init__(self, idle_seconds: float | None = None, shared: str = "") -> None:
        """Prepares the server; no process is started.

        After `idle_seconds` without children the warm process, which takes some 80 MiB, is ended, and restarted when
        needed; None keeps it running. With the address of one that is `shared`, no private one is started.
        """
        self._idle_seconds = idle_seconds
        self._shared = shared
        self._lock = threading.Lock()
        self._home = ""
        self._warm: subprocess.Popen[bytes] | None = None

    def run(self, scratch: Path, timeout: float, cancellation: Cancellation) -> Ended:
        """Does the same as `Processes.run`."""
        if self._shared:
            return ask(self._shared, scratch, timeout, cancellation)
        address = self.address()
        try:
            return ask(address, scratch, timeout, cancellation)
        except ModelFailure:
            if not self._forget(address):  # it is alive, so something else was wrong
                raise
            return ask(self.address(), scratch, timeout, cancellation)  # it had timed out idle during the request

    def address(self) -> str:
        """Returns the address of the warm process, starting it if necessary.

        Raises:
            ModelFailure: It does not start.
        """
        with self._lock:
            if self._warm is None or self._warm.poll() is not None:
                self._end()
                self._start()
            return os.path.join(self._home, _SOCKET)

    def close(self) -> None:
        """Ends the warm process and all its children."""
        with self._lock:
            self._end()

    def _forget(self, address: str) -> bool:
        """Drops the warm process that listened at `address`; returns False if it still listens."""
        with self._lock:
            if os.path.join(self._home, _SOCKET) != address:
                return True
            if self._warm is not None and self._warm.poll() is None and os.path.exists(address):
                return False
            self._end()
            return True

    def _start(self) -> None:
        idle = str(self._idle_seconds or "")
        self._home = tempfile.mkdtemp(prefix="turnout-warm-")  # accessible to this user only
        address = os.path.join(self._home, _SOCKET)
        # The warm process ends when its standard input is closed, as happens when its owner ends.
        warm = start_child(_WARM, address, idle, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._warm = warm
        assert warm.stdout is not None
        # It writes a byte once it listens.
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


def start_processes() -> Processes:
    """Returns the means to start children here: by fork on Linux, otherwise with an interpreter for each."""
    if sys.platform != "linux":  # system libraries start threads elsewhere, or the end of a process is not reported
        return SpawnedProcesses()
    return ForkServer(_IDLE_SECONDS, os.environ.get(SHARED, ""))


def ask(address: str, scratch: Path, timeout: float, cancellation: Cancellation) -> Ended:
    """Starts a child through the warm process at `address` and waits for its end; see `Processes.run`.

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
            return Ended(-9, timed_out=True)  # leaving the block closes the connection, which kills the child
        except EOFError:
            cancellation.check()
            raise ModelFailure("the process that starts trial runs died") from None
        except OSError as error:
            cancellation.check()
            raise ModelFailure(f"no process for the trial run could be started ({error.strerror})") from error
    return Ended(int(reply["code"]), int(reply["peak_bytes"]))
