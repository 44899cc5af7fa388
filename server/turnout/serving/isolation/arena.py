"""Memory shared by two processes: one writes a message's tensors, the other reads them.

The memory is a nameless file whose descriptor the child inherits, so that nothing remains once both processes have
ended, however they end. On Linux it is a memfd, sealed against shrinking, since reading past the end of a truncated
file kills the reader. Elsewhere it is an unlinked temporary file.
"""

import contextlib
import mmap
import os
import sys
from typing import Self

from turnout.host.files import nameless_file

_FIRST_BYTES = 1 << 20
_KEPT_BYTES = 16 << 20
"""Memory in bytes that an arena always keeps once it has grown that far."""

_SMALL_USES = 256
"""Number of consecutive uses of at most a quarter of the arena after which it frees the rest."""


class ArenaFull(Exception):
    """Raised when a message is larger than the arena may be."""


class ArenaBroken(Exception):
    """Raised when the other side claims to have written more than the arena contains."""


class Arena:
    """One side's view of the shared memory. Used for one message at a time, by one thread at a time."""

    def __init__(self, fd: int, limit: int, *, writable: bool) -> None:
        """Takes over a descriptor made by `create` or `read_only`, maybe in another process; `close` closes it.

        A message may have `limit` bytes. One of the two sides writes, which is `writable` for it.
        """
        self.fd = fd
        self._limit = limit
        self._access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        self._mapped: mmap.mmap | None = None
        self._used = 0
        self._small_uses = 0

    @classmethod
    def create(cls, limit: int, *, writable: bool) -> Self:
        """Creates an arena of up to `limit` bytes, initially empty."""
        return cls(nameless_file(), limit, writable=writable)

    def read_only(self) -> int:
        """Returns another descriptor of the same memory that does not permit writing.

        Raises:
            OSError: The system cannot reopen a file by its descriptor.
        """
        return os.open(f"/proc/self/fd/{self.fd}" if sys.platform == "linux" else f"/dev/fd/{self.fd}", os.O_RDONLY)

    def room(self, nbytes: int) -> mmap.mmap:
        """Returns memory to write a message of `nbytes` to, growing the arena if necessary.

        Raises:
            ArenaFull: The message exceeds the limit.
        """
        if nbytes > self._limit:
            raise ArenaFull(f"{nbytes} bytes, where {self._limit} may be")
        mapped = self._mapped
        if mapped is None or len(mapped) < nbytes:
            size = min(max(1 << max(nbytes - 1, 0).bit_length(), _FIRST_BYTES), self._limit)
            size = max(size, os.fstat(self.fd).st_size)  # the other side may have grown it before a restart
            os.ftruncate(self.fd, size)
            mapped = self._mapped = mmap.mmap(self.fd, size, access=self._access)
        self._release_memory(mapped, nbytes)
        return mapped

    def written(self, nbytes: int) -> mmap.mmap:
        """Returns memory whose first `nbytes` were written by the other side.

        Raises:
            ArenaBroken: The memory is smaller.
        """
        mapped = self._mapped
        if mapped is None or len(mapped) < nbytes:
            size = os.fstat(self.fd).st_size
            if not 0 < nbytes <= size <= self._limit:
                raise ArenaBroken(f"{nbytes} bytes, where {size} are")
            mapped = self._mapped = mmap.mmap(self.fd, size, access=self._access)
        return mapped

    def close(self) -> None:
        """Releases the memory; arrays that refer to it keep it alive."""
        self._mapped = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _release_memory(self, mapped: mmap.mmap, nbytes: int) -> None:
        """Frees memory that has not been needed lately. The file keeps its size; its pages return when written."""
        self._small_uses = self._small_uses + 1 if nbytes <= self._used // 4 else 0
        self._used = max(self._used, nbytes)
        if self._small_uses < _SMALL_USES or self._used <= _KEPT_BYTES or not hasattr(mmap, "MADV_REMOVE"):
            return
        kept = -(-max(nbytes, _KEPT_BYTES) // mmap.PAGESIZE) * mmap.PAGESIZE
        if kept < len(mapped):
            with contextlib.suppress(OSError):  # the file system cannot free pages, so the memory is kept
                mapped.madvise(mmap.MADV_REMOVE, kept, len(mapped) - kept)
        self._used, self._small_uses = kept, 0
