"""The memory of this process: how much it uses and may use, and how freed memory is returned."""

import contextlib
import ctypes
import os
import sys
from pathlib import Path

from turnout.host import cgroups
from turnout.host.process import resource

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
"""Parameters of glibc's mallopt."""

_MAPPED_BYTES = 16 << 20
"""Size in bytes from which blocks are mapped individually. Their pages are new for each allocation, which costs 0.5 ms
of CPU time per MiB on a virtual machine, compared with 0.1 ms for copying. A request and response with a tensor of 10
MB takes 20 ms with this value, and took 40 ms with 4 MiB."""

_KEPT_BYTES = 64 << 20
"""Maximum number of free bytes kept at the end of a heap: enough for four concurrent requests with tensors of 10 MB.
With 32 MiB in each of four heaps, the pages were new each time, and a message took a sixth longer."""

_LEFT_BYTES = 48 << 20
"""Number of free bytes that stay at the end of a heap when the rest is returned. By default these are 128 KiB: four
concurrent requests with tensors of 10 MB, whose bytes are freed together, then got half of their pages anew."""

_HEAPS = 2
"""Number of heaps: one for the event loop and one for all other threads, so at most 128 MiB are kept free at their
ends."""


def memory_limit() -> int:
    """Returns the memory limit of this process in bytes; 0 if it is unknown.

    This is the memory of the machine, or the limit of the control groups if smaller.
    """
    limits = [limit for limit in (cgroups.memory_limit(),) if limit is not None]
    with contextlib.suppress(OSError, ValueError, AttributeError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(limits, default=0)


def available_memory() -> int | None:
    """Returns the memory that is available without swapping, in bytes; None if it is unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    except (OSError, ValueError, StopIteration, IndexError):
        return None


def resident_bytes() -> int:
    """Returns the resident set size of this process in bytes; its peak if only that is known; 0 if it is unknown."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if resource is not None and sys.platform == "darwin":
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return 0


def private_bytes(pid: int) -> int:
    """Returns the private resident memory of process `pid` in bytes; 0 if it is unknown.

    Libraries and mapped weights are not counted, since mapping them in another process takes no additional memory.
    """
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
        return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def reset_peak() -> int:
    """Resets the peak memory of this process, and returns its current resident set size in bytes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return resident_bytes()


def peak_bytes() -> int:
    """Returns the peak memory of this process since `reset_peak` in bytes; the current memory if that is unknown."""
    return _status("VmHWM:") or resident_bytes()


def limit_data(more: int) -> None:
    """Limits the private writable memory of this process to its current size plus `more` bytes (RLIMIT_DATA).

    Arenas and tensors are such memory. RLIMIT_AS would also count memory that is only reserved, and ONNX Runtime
    reserves far more than it uses. The limit can be changed later, since the hard limit is not changed.
    """
    if resource is not None and (used := _status("VmData:")):
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = used + more
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def unlimit_data() -> None:
    """Removes the limit of `limit_data`. CUDA needs host memory for each kernel; GPU arenas have their own limit."""
    if resource is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def return_freed_memory() -> None:
    """Makes this process return freed memory to the operating system, except for an amount that is soon reused.

    By default, glibc raises its two thresholds with the size of the largest freed block, up to 32 and 64 MiB. As a
    result, a server that received messages of 20 to 50 MiB, one at a time, grew to 4 GiB, in as many heaps as threads.
    """
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TOP_PAD, _LEFT_BYTES)
        mallopt(_M_ARENA_MAX, _HEAPS)


def raise_oom_score(score: int) -> None:
    """Makes Linux kill this process before others when memory runs out.

    Args:
        score: Value of `oom_score_adj`, at most 1,000; the process with the highest score is killed first.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(score))


def _status(name: str) -> int:
    """Returns a field of `/proc/self/status` in bytes; 0 if it is unavailable."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return 0
