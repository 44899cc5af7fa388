"""What the operating system offers. Everything that not every system has is asked for here and nowhere else.

Linux is the platform. On macOS, which is for development, and on any other system what is missing does nothing or
answers what is known: a lock that cannot be had locks nothing, a limit that cannot be set is not set.
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
"""Variable of the environment in which `lower_priority` does nothing: tests set it, here and in children. They keep all
cores busy themselves, for minutes, and what runs when nobody else wants a core would not run before they gave it up."""

_NICENESS = 19
_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Of glibc's mallopt."""

_MAPPED_BYTES = 16 << 20
"""Blocks from this size on are mapped by themselves. Their pages are new each time: that costs 0.5 ms of CPU a MiB on a
virtual machine, where a copy costs 0.1: a tensor of 10 MB there and back took 40 ms with 4 MiB here, and takes 20."""

_KEPT_BYTES = 64 << 20
"""Most free bytes at the end of a heap: what four tensors of 10 MB that are answered at once take. With 32 MiB in four
heaps their pages were new each time, and a message took a sixth longer."""

_HEAPS = 2
"""The event loop's, and one that all other threads share, so that at most 128 MiB are kept free at their ends."""

_MOST_FILES = 65_536
"""Open files that a server asks for: some programs that it starts close all that they might have."""

_CLOSE_WAIT = 8
"""State of a TCP connection, the first byte of TCP_INFO, whose other end sends no more."""

_STATUS = Path("/proc/self/status")
_STATM = Path("/proc/self/statm")
_OOM_SCORE_ADJ = Path("/proc/self/oom_score_adj")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_FDINFO = Path("/proc/self/fdinfo")
_WATCHED = re.compile(r"^tfd:\s*(\d+)", re.MULTILINE)
"""A line about a descriptor that an epoll instance watches."""

_MEMINFO = Path("/proc/meminfo")


def usable_cores() -> float:
    """Returns the cores that this process may use: those it may run on, or the control groups' quota if less.

    A quota need not be whole: 1.5 is the time of one core and a half.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    scheduled = float(len(affinity(0))) if affinity is not None else float(os.cpu_count() or 1)
    quota = cgroups.cpu_quota()
    return scheduled if quota is None else min(scheduled, quota)


def whole_cores() -> int:
    """Returns how many threads can compute at once without being throttled, 1 or more.

    Of a quota of 1.5 that is 1: two would use it up in three quarters of each period, and for the rest of it every
    thread of the process stands still, the event loop's too.
    """
    return max(int(usable_cores()), 1)


def memory_limit() -> int:
    """Returns the most memory that this process may have, in bytes: the machine's, or what the control groups allow; 0
    where the system does not tell.
    """
    limits = [limit for limit in (cgroups.memory_limit(),) if limit is not None]
    with contextlib.suppress(OSError, ValueError, AttributeError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(limits, default=0)


def available_memory() -> int | None:
    """Returns the memory that can be had without swapping, in bytes; None where the system does not tell."""
    try:
        lines = _MEMINFO.read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    except (OSError, ValueError, StopIteration, IndexError):
        return None


def resident_bytes() -> int:
    """Returns the resident set of this process, in bytes; its peak where only that is known, 0 where nothing is."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if resource is not None and sys.platform == "darwin":
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return 0


def private_bytes(pid: int) -> int:
    """Returns the resident memory that process `pid` shares with no other, in bytes; 0 where the system does not tell.

    Libraries and mapped weights are left out: a second process that has them mapped costs nothing more.
    """
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
        return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def reset_peak() -> int:
    """Forgets the most memory that this process ever held, and returns what it holds now, in bytes."""
    with contextlib.suppress(OSError):
        _CLEAR_REFS.write_text("5")
    return resident_bytes()


def peak_bytes() -> int:
    """Returns the most memory that this process held since `reset_peak`, in bytes; what it holds if that is unknown."""
    return _status("VmHWM:") or resident_bytes()


def limit_data(more: int) -> None:
    """Bounds what this process may take from now on, in bytes of private writable memory.

    That is what arenas and tensors are (RLIMIT_DATA). RLIMIT_AS would count what is only reserved as well, and ONNX
    Runtime reserves far more than it uses. The bound can be moved later, since the hard limit stays.
    """
    if resource is not None and (used := _status("VmData:")):
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = used + more
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def unlimit_data() -> None:
    """Takes the bound of `limit_data` away: CUDA takes host memory for each kernel, and GPU arenas have their own."""
    if resource is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def return_freed_memory() -> None:
    """Has what this process frees from now on go back to the operating system, but for what is soon used again.

    By itself glibc raises both of its thresholds with the largest block that was freed, to 32 and 64 MiB: messages of
    20 to 50 MiB, one at a time, then left a server at 4 GiB, in as many heaps as it has threads.
    """
    with contextlib.suppress(OSError, AttributeError):  # not glibc: there is nothing to ask
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_ARENA_MAX, _HEAPS)


def open_file_limit() -> int:
    """Returns how many files this process may have open, which it raises as far as it may."""
    if resource is None:
        return 1024
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, _MOST_FILES) if hard != resource.RLIM_INFINITY else _MOST_FILES
    if soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS names a hard limit that it does not grant
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return int(soft)


def write_no_core() -> None:
    """Has a crash of this process write no core file."""
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def go_first_when_memory_ends(score: int) -> None:
    """Has Linux end this process before others where memory runs out, the more so the higher the score, up to 1,000."""
    with contextlib.suppress(OSError):
        _OOM_SCORE_ADJ.write_text(str(score))


def lower_priority() -> None:
    """Lets every other thread of the machine go before the calling one, and before the threads that it starts.

    On Linux policy and niceness belong to a thread. SCHED_IDLE is what makes a waking thread take the core at once: a
    thread that is only nice keeps it until its slice is over, some 3 ms since Linux 6.6, and p99 shows that. Niceness
    is set besides, since accounting goes by it. Neither can be undone without privileges, so this is for threads
    that do nothing else.
    """
    if sys.platform != "linux" or KEEP_PRIORITY in os.environ:
        return  # elsewhere niceness is the whole process's
    with contextlib.suppress(OSError, AttributeError):  # not allowed: such threads are only less polite
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def has_low_priority() -> bool:
    """Tells whether the calling thread lets all others go first, as after `lower_priority`."""
    return hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) == os.SCHED_IDLE


def die_with_parent(parent: int) -> None:
    """Has this process end when the thread that started it does; exits at once where it is gone.

    Args:
        parent: Process id of who started it.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before that was asked for
        sys.exit(1)


def nameless_file() -> int:
    """Returns the descriptor of a new, empty file in memory that has no name, so that nothing is left of it.

    On Linux it is a memfd, sealed against shrinking; elsewhere an unlinked temporary file.
    """
    if fcntl is not None and hasattr(os, "memfd_create"):
        memory = os.memfd_create("turnout", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        return memory
    descriptor, path = tempfile.mkstemp(prefix="turnout-")
    os.unlink(path)
    return descriptor


def lock(descriptor: int) -> None:
    """Waits until nobody else holds the lock of an open file, and holds it until the file is closed."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Holds the lock of an open file until it is closed; False where somebody else holds one that forbids it.

    Args:
        descriptor: Of the file.
        shared: Others may hold the lock too, as long as they share it.

    Raises:
        OSError: The file system has no locks.
    """
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def user_id() -> str:
    """Returns the number of who runs this process, as text; "" where the system has no such numbers."""
    getuid = getattr(os, "getuid", None)
    return "" if getuid is None else str(getuid())


def _status(name: str) -> int:
    """Returns a number of bytes that the system tells of this process; 0 where it does not."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return 0


def connections(port: int) -> list[tuple[int, socket.socket]]:
    """Returns the TCP connections of this process that were made to its port `port`, whatever holds them.

    Each comes with its descriptor there, and is a descriptor of its own: it stays open until that is closed, too.
    """
    found = []
    for number in _open_files():
        with contextlib.suppress(OSError):  # it was closed just now, or no more descriptors are to be had
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
    except OSError:  # it has been reset
        return False


def clients_that_left(port: int) -> set[tuple[str, int]]:
    """Returns the addresses of clients that have closed a connection to this process's port `port`.

    A client that has only ended what it sends looks the same. Nobody is found where the system does not tell.
    """
    left: set[tuple[str, int]] = set()
    if sys.platform != "linux":
        return left
    for _, connection in connections(port):
        with connection, contextlib.suppress(OSError):  # it has been reset meanwhile
            if connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _CLOSE_WAIT:
                host, client_port = connection.getpeername()[:2]
                left.add((host.partition("%")[0], client_port))
    return left


def cut_connections(port: int) -> None:
    """Ends all TCP connections of this process that were made to its port `port`, whatever holds them."""
    for _, connection in connections(port):
        with connection, contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def same_file(number: int) -> frozenset[int]:
    """Returns the descriptors of this process that are of the same file or socket as `number`, that one included."""
    wanted, found = os.fstat(number), set()
    for other in _open_files():
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(other), wanted):
                found.add(other)
    return frozenset(found)


def unwatch(numbers: Collection[int]) -> bool:
    """Has no event loop of this process look at these descriptors any more, whoever runs it.

    What is open stays open: a listening socket is not asked for connections under this number, and under others it is.

    Returns:
        Whether any loop looked at one of them, and does not now. Only Linux can tell.
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
