"""Room in the cache that fetches in progress have reserved, known to all processes that share it.

    HOME/.staging/reserved-UUID     a number of bytes, in a file that the fetch keeps locked (flock)

The kernel releases the lock when a fetch is killed, and its reservation is then removed. All of this happens under the
cache's lock, so that no two fetches are promised the same room.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from turnout.host import files

_PREFIX = "reserved-"
_DIGITS = 20


class Reservation:
    """The bytes that one fetch still has to store."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor, self._left = descriptor, size
        self.stored(0)

    def stored(self, size: int) -> None:
        """Notes that `size` bytes were stored, and need no reservation any more."""
        self._left = max(self._left - size, 0)
        os.pwrite(self._descriptor, f"{self._left:0{_DIGITS}d}".encode(), 0)


@contextmanager
def reserved(directory: Path, size: int) -> Iterator[Reservation]:
    """Reserves `size` bytes until the end. The caller holds the cache's lock when it enters.

    Raises:
        OSError: The directory cannot be written to.
    """
    path = directory / f"{_PREFIX}{uuid4().hex}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        files.lock(descriptor)
        yield Reservation(descriptor, size)
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def reserved_bytes(directory: Path) -> int:
    """Returns how many bytes are reserved, and removes the reservations of processes that were killed.

    The caller holds the cache's lock.
    """
    total = 0
    for path in directory.glob(f"{_PREFIX}*"):
        with suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if files.try_lock(descriptor):
                    path.unlink(missing_ok=True)
                else:
                    total += int(os.pread(descriptor, _DIGITS, 0) or b"0")
            finally:
                os.close(descriptor)
    return total
