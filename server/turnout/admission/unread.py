"""Limits what answers take in memory that clients have not read.

A server that reads requests faster than a client reads its answers would keep any number of answers. So each large
answer is counted from when it is encoded until its bytes are freed, wherever they wait until then: in the queue of a
stream, in a call, or in the HTTP server, which takes whole answers before it sends them. Because the count follows the
bytes themselves, it is right however a call ends.

    encode -> reserve, or refuse the answer -> CountedBytes -> queue -> transport -> freed, and no longer counted
"""

import threading
from collections import Counter, deque
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from turnout.errors import Exhausted

LARGE_BYTES = 64 * 1024
"""Size in bytes above which an answer is counted. To count smaller ones would cost more than they take."""

_RETRY_SECONDS = 1.0


def connection_of(scope: Mapping[str, Any]) -> Hashable:
    """Returns the connection of an ASGI request: address and port of the client; None for all that have none."""
    client = scope.get("client")
    return client and tuple(client)


class UnsentBudget:
    """Limits the total size of all large answers in memory. Thread-safe, since answers are encoded in threads.

    A connection may hold no more than is left for all others together, so that a few clients that do not read leave
    room for those that do.

    Attributes:
        refused: Number of answers that were discarded because of the limit.
    """

    def __init__(self, limit: int) -> None:
        """Initializes the budget.

        Args:
            limit: Maximum total size in bytes.
        """
        self._limit = limit
        self._held = 0
        self._shares: Counter[Hashable] = Counter()
        self._lock = threading.Lock()
        self._freed: deque[tuple[Hashable, int]] = deque()  # by finalizers, which may run while the lock is held
        self.refused = 0

    @property
    def held(self) -> int:
        """Current total size in bytes."""
        with self._lock:
            self._settle()
            return self._held

    def reserve(self, connection: Hashable, size: int) -> "Unsent":
        """Counts an answer of `size` bytes to a client on `connection`, until the returned object is freed.

        Raises:
            Exhausted: The budget, or the connection's part of it, has no room for the answer.
        """
        with self._lock:
            self._settle()
            left, share = self._limit - self._held, self._shares[connection]
            if share + size <= left:
                return self._counted(connection, size)
            self.refused += 1
        raise Exhausted(
            f"the answer has {size} bytes, and clients have not read {self._limit - left} bytes of earlier answers, of "
            f"which {share} are on this connection; {left} are left, and a connection may hold at most as much as is "
            "left for all others (limits.max_unsent_bytes)",
            retry_after=_RETRY_SECONDS if size <= self._limit else None,
        )

    def hold(self, connection: Hashable, size: int) -> "Unsent":
        """Does the same as `reserve` without a limit, for bytes that replace others or cannot be refused any more."""
        with self._lock:
            self._settle()
            return self._counted(connection, size)

    def crowded(self, connection: Hashable) -> bool:
        """Returns whether a connection holds at least half of what it may, so that it should be given less to do."""
        with self._lock:
            self._settle()
            return self._shares[connection] * 2 > self._limit - self._held

    def _counted(self, connection: Hashable, size: int) -> "Unsent":
        self._held += size
        self._shares[connection] += size
        return Unsent(self._freed, connection, size)

    def _settle(self) -> None:
        while self._freed:
            connection, size = self._freed.popleft()
            self._held -= size
            self._shares[connection] -= size
            if not self._shares[connection]:
                del self._shares[connection]


class Unsent:
    """Bytes that count until they are released, or this object is freed."""

    __slots__ = ("_connection", "_freed", "_size")

    def __init__(self, freed: deque[tuple[Hashable, int]], connection: Hashable, size: int) -> None:
        self._freed = freed
        self._connection = connection
        self._size = size

    def release(self) -> None:
        """Ends the count. Idempotent."""
        size, self._size = self._size, 0
        if size:
            self._freed.append((self._connection, size))

    def __del__(self) -> None:
        self.release()


class CountedBytes(bytes):
    """Bytes that are counted as long as they exist.

    Attributes:
        unsent: What counts them. Other bytes may share it.
    """

    unsent: Unsent

    @classmethod
    def of(cls, data: bytes, unsent: Unsent) -> "CountedBytes":
        """Returns a copy of `data`, which takes about 30 microseconds for a megabyte."""
        counted = cls(data)
        counted.unsent = unsent
        return counted


def counts_of(pieces: Sequence[bytes]) -> Sequence[Unsent]:
    """Returns what counts some of the pieces."""
    return [piece.unsent for piece in pieces if isinstance(piece, CountedBytes)]
