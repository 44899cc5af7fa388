"""Keeps the temporary files of a run in memory instead of on a disk.

Tests create and delete a thousand files a second, most of them SQLite's and PostgreSQL's. On ext4 without a journal, as
virtual machines have it, each creation first passes over all inodes that were freed within the last minutes: 0.1 to
0.6 ms each, instead of 5 us, and all of it is CPU time of the kernel.
"""

import atexit
import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

MEMORY = Path("/dev/shm")
_PREFIX = "tt-"
"""Short, since the path of a Unix socket has at most 107 bytes."""
_LEAST_FREE_BYTES = 8 << 30
"""Twice what the largest test needs, in bytes. All tests together leave less, since pytest removes what passed."""


def keep_files_in_memory(memory: Path = MEMORY) -> None:
    """Makes a directory in memory that is TMPDIR of this process and of those it starts, and removed at its end.

    Does nothing if TMPDIR is already set, or where `memory` is missing, too small, or lets no program run from there.
    """
    if "TMPDIR" in os.environ or not _suits(memory):
        return
    _remove_abandoned(memory)
    directory = Path(tempfile.mkdtemp(prefix=f"new-{_PREFIX}", dir=memory))
    directory.chmod(0o711)  # PostgreSQL runs as another user
    fcntl.flock(os.open(directory, os.O_RDONLY), fcntl.LOCK_EX)  # held until this process ends, however it does
    directory = directory.rename(memory / directory.name.removeprefix("new-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(directory)


def _suits(memory: Path) -> bool:
    try:
        found = os.statvfs(memory)
    except OSError:
        return False
    free = found.f_bavail * found.f_frsize
    return free >= _LEAST_FREE_BYTES and not found.f_flag & os.ST_NOEXEC and os.access(memory, os.W_OK)


def _remove_abandoned(memory: Path) -> None:
    """Removes the directories of runs that were killed: nobody locks them."""
    for directory in memory.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            descriptor = os.open(directory, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(descriptor)
