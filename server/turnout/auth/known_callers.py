"""The callers that were identified, by their credential: bounded in number and bytes, the oldest first to go."""

import sys

from turnout.auth.caller import Caller

_MOST = 10_000
_MOST_BYTES = 64 << 20
"""A JWT that names many groups takes 50 KB."""


class KnownCallers:
    """Identified callers by the digest of their token, or by their certificate in PEM."""

    def __init__(self) -> None:
        self._callers: dict[bytes | str, Caller] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._callers)

    def find(self, key: bytes | str) -> Caller | None:
        """Returns the caller with this credential; None if it is not known."""
        return self._callers.get(key)

    def add(self, key: bytes | str, caller: Caller) -> None:
        """Adds a caller, and removes the oldest ones if there are too many."""
        self._remove(key)
        self._callers[key] = caller
        self._bytes += sys.getsizeof(key) + caller.nbytes
        while len(self._callers) > _MOST or self._bytes > _MOST_BYTES:
            self._remove(next(iter(self._callers)))

    def remove_ended(self) -> None:
        """Removes the callers whose credential is no longer valid."""
        for key in [key for key, caller in self._callers.items() if caller.ended]:
            self._remove(key)

    def _remove(self, key: bytes | str) -> None:
        if (caller := self._callers.pop(key, None)) is not None:
            self._bytes -= sys.getsizeof(key) + caller.nbytes
