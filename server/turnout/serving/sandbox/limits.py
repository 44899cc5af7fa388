"""What a child may take: memory, and time for one run."""

import contextlib
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

_STATUS = Path("/proc/self/status")


def bound_memory(more: int) -> None:
    """Bounds what this process may take from now on, beside what it holds.

    RLIMIT_DATA counts private writable memory, which is what arenas and tensors are. RLIMIT_AS would count what is only
    reserved as well, and ONNX Runtime reserves far more than it uses. A bound can be moved later, since the hard limit
    stays.

    Args:
        more: Bytes.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _private_writable() + more
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def unbound_memory() -> None:
    """Takes the bound away: CUDA takes host memory for each kernel that is first run, and GPU arenas have their own."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def be_first_to_go() -> None:
    """Has the system end this process before any other when the machine's memory runs out all the same."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


@contextlib.contextmanager
def bounded_time(seconds: float) -> Iterator[None]:
    """Ends this process, by SIGALRM, when the block takes longer: nothing else ends one kernel that does not."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _private_writable() -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return 0
