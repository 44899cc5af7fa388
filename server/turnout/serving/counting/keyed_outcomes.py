"""Outcomes of requests with a routing key, by slot: appended as requests end, and read with NumPy once per tick.

A slot is one of 65,536 hash buckets of routing keys, so that no key is stored. Used on the event loop only.
"""

from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

SLOTS = 65_536

NO_SLOT = -1
"""Slot of a request that has no key, or whose key did not fit into a full log."""

ERROR, INVALID, UNTIMED, BAD, GIVEN_UP = 1 << 16, 1 << 17, 1 << 18, 1 << 19, 1 << 20
"""Marks stored beside the slot: a failure that is the server's fault; NaN or infinity in an output; a request that says
nothing about latency; any bad event; a caller who stopped waiting, which with `ERROR` means that the deadline passed
(see `Entries.judged`)."""

ROOM = 1 << 17
"""Maximum number of requests in a log between two ticks: 26,000 per second at a tick of 5 s, in 1.5 MB."""

_SLOT = 0xFFFF
_HISTORY_REQUESTS = 1 << 18
_HISTORY_SECONDS = 1800.0

Marks = NDArray[np.uint32]

Flags = TypeVar("Flags", bool, NDArray[np.bool_])
"""A flag of one request, or an array of flags of several requests."""

BySlot = NDArray[np.int64]


class SlotFinder:
    """Computes the slots of keys under one salt.

    Caches the latest key: routing and counting both ask for it, and a cached slot takes 0.05 us.
    """

    __slots__ = ("_key", "_prefix", "_slot", "salt")

    def __init__(self, salt: bytes) -> None:
        self.salt = salt
        self._prefix = salt + b"\0"
        self._key: str | None = None
        self._slot = 0

    def slot(self, key: str) -> int:
        """Returns the slot of `key`: H64(salt || 0x00 || key) mod 65536. Takes about 0.6 us."""
        if key is not self._key:
            digest = blake2b(self._prefix + key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            self._slot = digest[0] | digest[1] << 8
            self._key = key
        return self._slot


class KeyedLog:
    """Requests in the order in which they ended; `lost` is the number of those that did not fit."""

    __slots__ = ("_marks", "_room", "_seconds", "lost")

    def __init__(self, room: int = ROOM) -> None:
        self.lost = 0
        self._room = room
        self._marks = array("I")
        self._seconds = array("d")

    def add(self, mark: int, seconds: float) -> None:
        """Adds a request: its slot with its marks, and the seconds from its arrival to its end."""
        if len(self._marks) < self._room:
            self._marks.append(mark)
            self._seconds.append(seconds)
        else:
            self.lost += 1

    def taken(self) -> "Entries":
        """Returns the entries and starts anew."""
        marks, seconds = self._marks, self._seconds
        self._marks, self._seconds = array("I"), array("d")
        return Entries(np.frombuffer(marks, np.uint32), np.frombuffer(seconds, np.float64))


def judge(expired: Flags, given_up: Flags, early: Flags, before_first: Flags) -> tuple[Flags, Flags]:
    """Judges requests whose callers stopped waiting; the same rule serves one request and arrays of them.

    Such a request has `expired` if the deadline passed, and was `given_up` if that or a cancellation by the caller
    ended it; `early` if it ended sooner than the baseline's median (`Rules.client_timeout`), and `before_first` if no
    later than the lowest threshold. Returns whether it does not count as an error, and whether it says nothing about
    how long the answer would have taken.
    """
    return expired & early, given_up & (early | before_first)


@dataclass(frozen=True, eq=False)
class Entries:
    """Requests that have ended: the slot and marks of each, and the seconds that it took. Two arrays of shape (N,)."""

    marks: Marks
    seconds: NDArray[np.float64]

    @cached_property
    def slots(self) -> NDArray[np.uint32]:
        """Slot of each request, shape (N,)."""
        return self.marks & np.uint32(_SLOT)

    def __len__(self) -> int:
        return len(self.marks)

    def count(self, which: NDArray[np.bool_] | None = None, modulus: int = SLOTS) -> BySlot:
        """Returns the number of requests by slot, or by slot modulo `modulus`, a power of two of at most `SLOTS`.

        `which` is a mask of the requests to count, of shape (N,); None for all. The result has shape (modulus,).
        """
        slots = self.slots if which is None else self.slots[which]
        return np.bincount(slots & np.uint32(modulus - 1), minlength=modulus)

    def marked(self, mark: int) -> NDArray[np.bool_]:
        """Returns the mask of requests that have a mark, shape (N,)."""
        return np.asarray((self.marks & np.uint32(mark)) != 0)

    def slower(self, seconds: float) -> NDArray[np.bool_]:
        """Returns the mask of timed requests that took longer than `seconds`, shape (N,)."""
        return np.asarray(~self.marked(UNTIMED) & (self.seconds > seconds))

    def judged(self, least: float, client_timeout: float) -> "Entries":
        """Applies `judge` to requests whose callers stopped waiting, as a rollout does for its own requests.

        The lowest latency threshold is `least` seconds; `client_timeout` is that of `Rules`.
        """
        given_up = self.marked(GIVEN_UP)
        if not given_up.any():
            return self
        expired = given_up & self.marked(ERROR)
        excused, untimed = judge(expired, given_up, self.seconds < client_timeout, self.seconds <= least)
        marks = self.marks.copy()
        marks[excused] &= np.uint32(~ERROR & 0xFFFFFFFF)
        marks[untimed] |= np.uint32(UNTIMED)
        return Entries(marks, self.seconds)

    def failed(self) -> NDArray[np.bool_]:
        """Returns the mask of requests that failed or were answered with an invalid output, shape (N,)."""
        return self.marked(ERROR | INVALID)

    def bad(self, stalled: float) -> NDArray[np.bool_]:
        """Returns the mask of requests that failed or took longer than `stalled` seconds, shape (N,)."""
        return np.asarray(self.failed() | self.slower(stalled))


NO_ENTRIES = Entries(np.zeros(0, np.uint32), np.zeros(0))


def joined(parts: Sequence[Entries]) -> Entries:
    """Returns the concatenated entries of all `parts`."""
    if len(parts) < 2:
        return parts[0] if parts else NO_ENTRIES
    return Entries(np.concatenate([p.marks for p in parts]), np.concatenate([p.seconds for p in parts]))


@dataclass(slots=True, eq=False)
class SlotHistory:
    """The latest requests with a key that routing sent to a version, answered or failed.

    Covers at most half an hour and 262,144 requests, in 3 MB. A rollout reads from it exactly what a slot did before it
    met the candidate, for any thresholds.

    Attributes:
        salt: Salt that keys are hashed with.
        log: Log that requests are added to; not used until the salt is known.
        lost: Number of requests that did not fit into a full log.
    """

    salt: bytes | None = None
    log: KeyedLog = field(default_factory=KeyedLog)
    lost: int = 0
    _parts: deque[tuple[float, Entries]] = field(default_factory=deque)
    _kept: int = 0

    def under(self, salt: bytes) -> KeyedLog:
        """Returns the log for keys hashed with `salt`. Discards entries hashed with another salt."""
        if self.salt != salt:
            self.salt = salt
            self.log = KeyedLog()
            self._parts.clear()
            self._kept = 0
        return self.log

    def fold(self, now: float) -> None:
        """Moves newly logged requests into the history and drops those that are too old or too many.

        `now` is `time.monotonic()`.
        """
        self.lost += self.log.lost
        self.log.lost = 0
        entries = self.log.taken()
        if len(entries):
            self._parts.append((now, entries))
            self._kept += len(entries)
        while self._parts and (self._kept > _HISTORY_REQUESTS or now - self._parts[0][0] > _HISTORY_SECONDS):
            self._kept -= len(self._parts.popleft()[1])

    def since(self, moment: float) -> Entries:
        """Returns the requests folded in after `moment`, a `time.monotonic()` value."""
        return joined([entries for folded, entries in self._parts if folded > moment])

    def window(self) -> "KeyedWindow":
        """Returns an immutable copy of the history."""
        return KeyedWindow(tuple(entries for _, entries in self._parts))


@dataclass(frozen=True, eq=False)
class KeyedWindow:
    """Requests with a key that one version received over some time; the entries are in `parts`, oldest first."""

    parts: tuple[Entries, ...] = ()

    @cached_property
    def entries(self) -> Entries:
        """All entries, oldest first."""
        return joined(self.parts)

    def judged(self, least: float, client_timeout: float) -> "KeyedWindow":
        """Returns the window with its requests judged. Arguments as in `Entries.judged`."""
        return KeyedWindow((self.entries.judged(least, client_timeout),))

    def latest(self, slots: NDArray[np.bool_], most: int, stalled: float) -> tuple[BySlot, BySlot, BySlot]:
        """Returns, by slot, the latest requests (at most `most` each), those that failed, and those that were bad.

        `slots` is a mask of the slots to look at, of shape (SLOTS,), as are the three arrays of counts; other slots get
        0. A request is bad beyond `stalled` seconds.
        """
        entries = self.entries
        mine = slots[entries.slots]
        of = entries.slots[mine][::-1]
        failed, bad = entries.failed()[mine][::-1], entries.bad(stalled)[mine][::-1]
        order = np.argsort(of, kind="stable")
        ranked = of[order]
        starts = np.searchsorted(ranked, ranked)  # where the requests of each slot begin
        recent = order[np.arange(len(ranked)) - starts < most]
        of, failed, bad = of[recent], failed[recent], bad[recent]
        return _by_slot(of), _by_slot(of[failed]), _by_slot(of[bad])


def _by_slot(slots: NDArray[np.uint32]) -> BySlot:
    return np.bincount(slots, minlength=SLOTS)
