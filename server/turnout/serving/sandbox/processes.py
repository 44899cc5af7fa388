"""Children that answer one question each, and are ended when nobody wants the answer any more.

A child finds its question in a scratch directory, as `job.json`, and leaves its answer there. What it prints is lost,
since native code prints paths. Nothing that a child leaves is executed: JSON, and arrays without pickles.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from turnout.cancellation import Cancellation
from turnout.host.cpu import KEEP_PRIORITY

JOB_FILE, ANSWER_FILE, ANSWERS_FILE = "job.json", "answer.json", "answers.npz"
"""What a scratch directory holds: the question, the answer, and its arrays."""

DROPPED_FILE = "dropped.onnx"
"""In a scratch directory, a model without its ZipMap."""

KEPT_ENVIRONMENT = (
    *("PATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR", "LANG", "PYTHONPATH", "CUDA_VISIBLE_DEVICES"),
    KEEP_PRIORITY,
)
KEPT_PREFIXES = ("CUDA", "NVIDIA", "OMP")

CHILD_ENVIRONMENT = {"ORT_DISABLE_TELEMETRY": "1", "OPENBLAS_NUM_THREADS": "1"}
"""ONNX Runtime's telemetry and OpenBLAS each start a thread when imported; a process of two cannot be forked."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended.

    Attributes:
        code: Its exit code, or the negative number of the signal that ended it.
        peak_bytes: The most memory it held, as the kernel counts (`ru_maxrss`).
        timed_out: It was killed since its time was over.
    """

    code: int
    peak_bytes: int = 0
    timed_out: bool = False

    @property
    def cause(self) -> str:
        """By what it ended, as the end of a sentence: ` of SIGFPE`."""
        return f" of {ending(self.code)}" if self.code < 0 else f" with {ending(self.code)}"


class Processes(Protocol):
    """Starts children that answer questions."""

    def run(self, scratch: Path, timeout: float, cancellation: Cancellation) -> Ended:
        """Has a child answer the question in `scratch`, and waits until it ended.

        Args:
            scratch: Holds `job.json`; the answer is left there.
            timeout: Seconds after which the child is killed.
            cancellation: Kills it too.

        Raises:
            WorkCancelled: It was cancelled; the child is gone.
        """

    def close(self) -> None:
        """Ends what was started for children to come."""


class SpawnedProcesses:
    """Starts an interpreter for each child: nearly half a second of imports, and works everywhere."""

    def run(self, scratch: Path, timeout: float, cancellation: Cancellation) -> Ended:
        """As `Processes.run`."""
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
        """As `Processes.close`: there is nothing."""


def start_child(
    module: str,
    *arguments: object,
    pass_fds: Sequence[int] = (),
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
    stderr: int | None = subprocess.DEVNULL,
) -> "subprocess.Popen[bytes]":
    """Starts `python -m module`, as `subprocess.Popen` does, without secrets in its environment.

    A Ctrl-C for its owner is not one for the child. It has no session of its own, since Linux schedules sessions as
    groups, and priority counts only within one (sched_autogroup).

    Raises:
        OSError: It cannot be started.
    """
    return subprocess.Popen(  # noqa: S603 - nothing of a client's is in the command
        [sys.executable, "-m", module, *map(str, arguments)],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=child_environment(),
        pass_fds=pass_fds,
        process_group=0,
    )


def end_child(child: "subprocess.Popen[bytes]") -> None:
    """Kills a child, and waits until it is gone."""
    child.kill()
    child.wait()


def ending(code: int) -> str:
    """Returns what an exit code tells: `exit code 1`, or `SIGFPE`."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def child_environment() -> dict[str, str]:
    """Returns the environment that children get: nothing that is secret, and what keeps them to one thread."""
    kept = {
        name: value for name, value in os.environ.items() if name in KEPT_ENVIRONMENT or name.startswith(KEPT_PREFIXES)
    }
    return kept | CHILD_ENVIRONMENT


@contextlib.contextmanager
def short_address(address: str) -> Iterator[str]:
    """Gives a path of a socket that is short enough: a socket's may have 107 bytes, and a TMPDIR may have more."""
    directory, name = os.path.split(address)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def readable(descriptor: int, deadline: float) -> bool:
    """Waits until something can be read from a descriptor; False if that was not before the deadline.

    Args:
        descriptor: Of a file.
        deadline: On the monotonic clock.
    """
    poll = select.poll()  # select() cannot wait for descriptors from 1,024 on, and a server has that many
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(deadline - time.monotonic(), 0.0) * 1000))
