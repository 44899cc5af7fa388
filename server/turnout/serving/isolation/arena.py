"""Memory that two processes share: one writes a message's tensors there, the other reads them.

It is a file without a name, whose descriptor the child inherits: nothing is left of it when both processes are gone,
however they ended. On Linux it is a memfd, sealed against shrinking, since reading past the end of a file that was cut
ends the reader; elsewhere an unlinked temporary file.
"""

import contextlib
import mmap
import os
import sys
from typing import Self

from turnout.host.files import nameless_file

_FIRST_BYTES = 1 << 20
_KEPT_BYTES = 16 << 20
"""What an arena keeps in any case once it has grown that far."""

_SMALL_USES = 256
"""Uses in a row of a quarter of what an arena holds, after which it gives the rest back."""


class ArenaFull(Exception):
    """A message does not fit the most that an arena may hold."""


class ArenaBroken(Exception):
    """The other side claims to have written more than there is."""


class Arena:
    """One side's view of the memory. Used for one message at a time, by one thread at a time.

    Attributes:
        fd: Its descriptor.
    """

    def __init__(self, fd: int, limit: int, *, writable: bool) -> None:
        """Takes over a descriptor that `create` or `read_only` made, here or in another process.

        Args:
            fd: The descriptor; closed with the arena.
            limit: Most bytes that a message may have.
            writable: This side writes.
        """
        self.fd = fd
        self._limit = limit
        self._access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        self._mapped: mmap.mmap | None = None
        self._used = 0
        self._small_uses = 0

    @classmethod
    def create(cls, limit: int, *, writable: bool) -> Self:
        """Makes an arena of up to `limit` bytes, of which none are in use yet."""
        return cls(nameless_file(), limit, writable=writable)

    def read_only(self) -> int:
        """Returns another descriptor of the same memory, through which it cannot be written.

        Raises:
            OSError: The system has no way to open a file again by its descriptor.
        """
        return os.open(f"/proc/self/fd/{self.fd}" if sys.platform == "linux" else f"/dev/fd/{self.fd}", os.O_RDONLY)

    def room(self, nbytes: int) -> mmap.mmap:
        """Returns memory for a message of `nbytes` to be written, grown if it has to be.

        Raises:
            ArenaFull: It is more than the arena may hold.
        """
        if nbytes > self._limit:
            raise ArenaFull(f"{nbytes} bytes, where {self._limit} may be")
        mapped = self._mapped
        if mapped is None or len(mapped) < nbytes:
            size = min(max(1 << max(nbytes - 1, 0).bit_length(), _FIRST_BYTES), self._limit)
            size = max(size, os.fstat(self.fd).st_size)  # the other side of a restart may have grown it
            os.ftruncate(self.fd, size)
            mapped = self._mapped = mmap.mmap(self.fd, size, access=self._access)
        self._release_memory(mapped, nbytes)
        return mapped

    def written(self, nbytes: int) -> mmap.mmap:
        """Returns memory whose first `nbytes` the other side has written.

        Raises:
            ArenaBroken: There is less.
        """
        mapped = self._mapped
        if mapped is None or len(mapped) < nbytes:
            size = os.fstat(self.fd).st_size
            if not 0 < nbytes <= size <= self._limit:
                raise ArenaBroken(f"{nbytes} bytes, where {size} are")
            mapped = self._mapped = mmap.mmap(self.fd, size, access=self._access)
        return mapped

    def close(self) -> None:
        """Lets the memory go; arrays over it keep their part alive."""
        self._mapped = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _release_memory(self, mapped: mmap.mmap, nbytes: int) -> None:
        """Frees what has long not been needed; the file keeps its size, and its pages come again when written."""
        self._small_uses = self._small_uses + 1 if nbytes <= self._used // 4 else 0
        self._used = max(self._used, nbytes)
        if self._small_uses < _SMALL_USES or self._used <= _KEPT_BYTES or not hasattr(mmap, "MADV_REMOVE"):
            return
        kept = -(-max(nbytes, _KEPT_BYTES) // mmap.PAGESIZE) * mmap.PAGESIZE
        if kept < len(mapped):
            with contextlib.suppress(OSError):  # a file system that cannot: only memory, which it keeps
                mapped.madvise(mmap.MADV_REMOVE, kept, len(mapped) - kept)
        self._used, self._small_uses = kept, 0
