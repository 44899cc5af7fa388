"""Access to operating system features that are not available on all platforms. No other module uses such features.

Turnout's platform is Linux. On macOS, which is supported for development, and on other systems, functions whose feature
is missing do nothing or return what is known: a lock that is not available locks nothing, and a limit that cannot be
set is not set.
"""

import contextlib
import ctypes
import os
import re
import select
import signal
import socket
import stat
import sys
import tempfile
import threading
from collections.abc import Collection
from pathlib import Path
from types import ModuleType

from turnout import cgroups

fcntl: ModuleType | None
resource: ModuleType | None
try:
    import fcntl
except ModuleNotFoundError:
    fcntl = None
try:
    import resource
except ModuleNotFoundError:
    resource = None

KEEP_PRIORITY = "_TURNOUT_KEEP_PRIORITY"
"""Environment variable that disables `lower_priority`. Tests set it for themselves and their child processes, because
they keep all cores busy for minutes, during which a thread that only runs on idle cores would not run at all."""

_NICENESS = 19
_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Parameters of glibc's mallopt."""

_MAPPED_BYTES = 16 << 20
"""Size in bytes from which blocks are mapped individually. Their pages are new for each allocation, which costs 0.5 ms
of CPU time per MiB on a virtual machine, compared with 0.1 ms for copying. A request and response with a tensor of 10
MB takes 20 ms with this value, and took 40 ms with 4 MiB."""

_KEPT_BYTES = 64 << 20
"""Maximum number of free bytes kept at the end of a heap: enough for four concurrent requests with tensors of 10 MB.
With 32 MiB in each of four heaps, the pages were new each time, and a message took a sixth longer."""

_HEAPS = 2
"""Number of heaps: one for the event loop and one for all other threads, so at most 128 MiB are kept free at their
ends."""

_MOST_FILES = 65_536
"""Limit of open files that a server requests. It is not higher because some child programs close every possible file
descriptor when they start."""

_STATUS = Path("/proc/self/status")
_STATM = Path("/proc/self/statm")
_OOM_SCORE_ADJ = Path("/proc/self/oom_score_adj")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_FDINFO = Path("/proc/self/fdinfo")
_WATCHED = re.compile(r"^tfd:\s*(\d+)", re.MULTILINE)
"""Matches a line of fdinfo about a file descriptor that an epoll instance watches."""

_MEMINFO = Path("/proc/meminfo")


def usable_cores() -> float:
    """Returns the number of cores that this process may use: its CPU affinity, or the control groups' quota if smaller.

    A quota may be fractional: 1.5 means the CPU time of one and a half cores.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    scheduled = float(len(affinity(0))) if affinity is not None else float(os.cpu_count() or 1)
    quota = cgroups.cpu_quota()
    return scheduled if quota is None else min(scheduled, quota)


def whole_cores() -> int:
    """Returns the number of threads that can compute at the same time without being throttled, 1 or more.

    For a quota of 1.5 this is 1: two threads would use up the quota in three quarters of each period, and all threads
    of the process, including the event loop, would be suspended for the rest of it.
    """
    return max(int(usable_cores()), 1)


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
        lines = _MEMINFO.read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    except (OSError, ValueError, StopIteration, IndexError):
        return None


def resident_bytes() -> int:
    """Returns the resident set size of this process in bytes; its peak if only that is known; 0 if it is unknown."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
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
        _CLEAR_REFS.write_text("5")
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
        mallopt(_M_ARENA_MAX, _HEAPS)


def open_file_limit() -> int:
    """Raises the limit of open files of this process as far as permitted, and returns the limit."""
    if resource is None:
        return 1024
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, _MOST_FILES) if hard != resource.RLIM_INFINITY else _MOST_FILES
    if soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS reports a hard limit that it does not grant
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return int(soft)


def write_no_core() -> None:
    """Prevents a crash of this process from writing a core file."""
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def go_first_when_memory_ends(score: int) -> None:
    """Makes Linux kill this process before others when memory runs out.

    Args:
        score: Value of `oom_score_adj`, at most 1,000; the process with the highest score is killed first.
    """
    with contextlib.suppress(OSError):
        _OOM_SCORE_ADJ.write_text(str(score))


def lower_priority() -> None:
    """Gives the calling thread, and the threads that it starts, the lowest priority on the machine.

    On Linux, the scheduling policy and the niceness belong to a thread. With the policy SCHED_IDLE, any other thread
    that wakes up preempts this one immediately. With niceness alone, this thread would keep the core until its time
    slice ends, about 3 ms since Linux 6.6, which is visible in the p99 latency. The niceness is set as well, because
    CPU accounting uses it. Neither can be undone without privileges, so this function is for dedicated threads.
    """
    if sys.platform != "linux" or KEEP_PRIORITY in os.environ:
        return  # on other systems, niceness applies to the whole process
    with contextlib.suppress(OSError, AttributeError):  # not permitted: the threads keep their priority
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def has_low_priority() -> bool:
    """Returns whether the calling thread has the lowest priority, as set by `lower_priority`."""
    return hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) == os.SCHED_IDLE


def die_with_parent(parent: int) -> None:
    """Makes this process end when the thread that started it ends. Exits immediately if the parent has already ended.

    Args:
        parent: Process id of the parent.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the parent ended before the call to prctl
        sys.exit(1)


def nameless_file() -> int:
    """Returns the descriptor of a new, empty file without a name, which disappears when it is closed.

    On Linux this is a memfd, sealed against shrinking; on other systems, an unlinked temporary file.
    """
    if fcntl is not None and hasattr(os, "memfd_create"):
        memory = os.memfd_create("turnout", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        return memory
    descriptor, path = tempfile.mkstemp(prefix="turnout-")
    os.unlink(path)
    return descriptor


def lock(descriptor: int) -> None:
    """Acquires the exclusive lock of an open file, waiting if necessary. Closing the file releases the lock."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Tries to acquire the lock of an open file without waiting. Closing the file releases the lock.

    Args:
        descriptor: File descriptor of the file.
        shared: Whether to acquire a shared lock instead of an exclusive one.

    Returns:
        Whether the lock was acquired; False if another process holds a conflicting lock.

    Raises:
        OSError: The file system does not support locks.
    """
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def user_id() -> str:
    """Returns the user id of this process as a string; "" if the system has no user ids."""
    getuid = getattr(os, "getuid", None)
    return "" if getuid is None else str(getuid())


def _status(name: str) -> int:
    """Returns a field of `/proc/self/status` in bytes; 0 if it is unavailable."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return 0


def connections(port: int) -> list[tuple[int, socket.socket]]:
    """Returns the TCP connections that this process has accepted on its port `port`, including those of libraries.

    Each item is the existing file descriptor of a connection and a new socket with a duplicate of it. The connection
    stays open until the duplicate is closed as well.
    """
    found = []
    for number in _open_files():
        with contextlib.suppress(OSError):  # closed in the meantime, or no descriptors are left
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            connection = socket.socket(fileno=os.dup(number))
            if _is_connection(connection, port):
                found.append((number, connection))
            else:
                connection.close()
    return found


def _is_connection(connection: socket.socket, port: int) -> bool:
    try:
        if connection.family not in (socket.AF_INET, socket.AF_INET6):
            return False
        listens = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        return not listens and bool(connection.getsockname()[1] == port)
    except OSError:  # the connection was reset
        return False


def cut_connections(port: int) -> None:
    """Shuts down all TCP connections that this process has accepted on port `port`, including those of libraries."""
    for _, connection in connections(port):
        with connection, contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def same_file(number: int) -> frozenset[int]:
    """Returns the file descriptors of this process that refer to the same file or socket as `number`, including it."""
    wanted, found = os.fstat(number), set()
    for other in _open_files():
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(other), wanted):
                found.add(other)
    return frozenset(found)


def unwatch(numbers: Collection[int]) -> bool:
    """Removes file descriptors from all epoll instances of this process, including those of libraries.

    The files stay open. In particular, a listening socket can still be watched through another descriptor.

    Returns:
        Whether an epoll instance watched one of the descriptors. Always False on systems other than Linux.
    """
    found = False
    with contextlib.suppress(OSError):
        for file in _FDINFO.iterdir():
            with contextlib.suppress(OSError):
                watched = {int(match[1]) for match in _WATCHED.finditer(file.read_text())} & set(numbers)
                if not watched:
                    continue
                with select.epoll.fromfd(os.dup(int(file.name))) as loop:
                    for number in watched:
                        loop.unregister(number)
                found = True
    return found


def _open_files() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/dev/fd")]
    except OSError:
        return []
