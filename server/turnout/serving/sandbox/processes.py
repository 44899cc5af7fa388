"""Child processes that answer one question each, and are ended when the answer is no longer needed.

A child reads its question from `job.json` in a scratch directory and writes its answer there. Its output is discarded,
since native code prints paths. Nothing that a child writes is executed: it is JSON, and arrays without pickles.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from turnout.cancellation import Cancellation
from turnout.host.cpu import KEEP_PRIORITY

JOB_FILE, ANSWER_FILE, ANSWERS_FILE = "job.json", "answer.json", "answers.npz"
"""Files in a scratch directory: the question, the answer, and its arrays."""

DROPPED_FILE = "dropped.onnx"
"""File in a scratch directory: a model without its ZipMap."""

GRAPH_FILE = "graph.onnx"
"""File in a scratch directory: the structure of a model, prepared to be described."""

KEPT_ENVIRONMENT = (
    *("PATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR", "LANG", "PYTHONPATH", "CUDA_VISIBLE_DEVICES"),
    KEEP_PRIORITY,
)
KEPT_PREFIXES = ("CUDA", "NVIDIA", "OMP")

CHILD_ENVIRONMENT = {"ORT_DISABLE_TELEMETRY": "1", "OPENBLAS_NUM_THREADS": "1"}
"""ONNX Runtime's telemetry and OpenBLAS each start a thread when imported, and a process with threads must not fork."""

ZEROED_ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.malloc.perturb=255:glibc.malloc.tcache_count=0"}
"""Has malloc fill what it returns with the inverse of 255, which the cache of small blocks would circumvent."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended.

    Attributes:
        code: Exit code, or the negative number of the signal that ended it.
        peak_bytes: Peak memory in bytes, as counted by the kernel (`ru_maxrss`).
        timed_out: Whether it was killed because it ran out of time.
    """

    code: int
    peak_bytes: int = 0
    timed_out: bool = False

    @property
    def cause(self) -> str:
        """Cause of the end, to be appended to a sentence, such as ` of SIGFPE`."""
        return f" of {ending(self.code)}" if self.code < 0 else f" with {ending(self.code)}"


class Processes(Protocol):
    """Starts children that answer questions."""

    def run(self, scratch: Path, timeout: float, cancellation: Cancellation) -> Ended:
        """Starts a child that answers the question in `scratch`, and waits until it has ended.

        The child is killed after `timeout` seconds, or when the work is cancelled.

        Raises:
            WorkCancelled: The work was cancelled; the child is gone.
        """

    def close(self) -> None:
        """Ends any process kept for starting children."""


class SpawnedProcesses:
    """Starts an interpreter for each child, with nearly half a second of imports. Works on every platform."""

    def run(self, scratch: Path, timeout: float, cancellation: Cancellation) -> Ended:
        """Does the same as `Processes.run`."""
        child = start_child("turnout.serving.sandbox.child", scratch, os.getpid())
        timed_out = False
        try:
            with cancellation.stopping(child.kill):
                child.wait(timeout)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            end_child(child)
        return Ended(child.returncode, timed_out=timed_out)

    def close(self) -> None:
        """Does nothing, since no process is kept."""


def start_child(
    module: str,
    *arguments: object,
    pass_fds: Sequence[int] = (),
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
    stderr: int | None = subprocess.DEVNULL,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> "subprocess.Popen[bytes]":
    """Starts `python -m module`, as `subprocess.Popen` does, with `environment` but no secrets in its environment.

    The child is in its own process group, so that Ctrl-C for its owner does not reach it. It stays in the owner's
    session, since Linux schedules sessions as groups, and priority counts only within one (sched_autogroup).

    Raises:
        OSError: The process cannot be started.
    """
    return subprocess.Popen(  # noqa: S603 - the command contains nothing from a client
        [sys.executable, "-m", module, *map(str, arguments)],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env={**child_environment(), **environment},
        pass_fds=pass_fds,
        process_group=0,
    )


def end_child(child: "subprocess.Popen[bytes]") -> None:
    """Kills a child and waits until it is gone."""
    child.kill()
    child.wait()


def ending(code: int) -> str:
    """Describes an exit code: `exit code 1` or `SIGFPE`."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def child_environment() -> dict[str, str]:
    """Returns the environment for children: without secrets, and with variables that keep them single-threaded."""
    kept = {
        name: value for name, value in os.environ.items() if name in KEPT_ENVIRONMENT or name.startswith(KEPT_PREFIXES)
    }
    return kept | CHILD_ENVIRONMENT


@contextlib.contextmanager
def short_address(address: str) -> Iterator[str]:
    """Yields a short path to a socket, since socket paths are limited to 107 bytes and TMPDIR may be longer."""
    directory, name = os.path.split(address)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def readable(descriptor: int, deadline: float) -> bool:
    """Waits until a descriptor is readable; returns False if a deadline on the monotonic clock passes first."""
    poll = select.poll()  # select() does not support descriptors from 1,024 on, which a server may have
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(deadline - time.monotonic(), 0.0) * 1000))
