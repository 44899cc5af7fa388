"""File locks, files without a name, and the limit of open files."""

import contextlib
import os
import tempfile
from types import ModuleType

from turnout.host.process import resource

fcntl: ModuleType | None
try:
    import fcntl
except ModuleNotFoundError:
    fcntl = None

_MOST_FILES = 65_536
"""Limit of open files that a server requests. It is not higher because some child programs close every possible file
descriptor when they start."""


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
