"""What requests with a routing key came to, by slot: appended to on a request's way, read with NumPy once a tick.

A slot is one of 65,536 hash buckets of keys, so no key is kept. Used on the event loop only.
"""

from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

SLOTS = 65_536

NO_SLOT = -1
"""Of a request without a key, and of one whose key found no room in a full log."""

ERROR, INVALID, UNTIMED, BAD, GIVEN_UP = 1 << 16, 1 << 17, 1 << 18, 1 << 19, 1 << 20
"""Marks beside the slot: failed by the server's fault; NaN or infinity in an output; says nothing about latency; any
bad event at all; its caller waited no longer, which with `ERROR` is a deadline that passed (see `Entries.judged`)."""

ROOM = 1 << 17
"""Requests that a log takes between two ticks: 26,000 a second at a tick of 5 s, in 1.5 MB."""

_SLOT = 0xFFFF
_HISTORY_REQUESTS = 1 << 18
_HISTORY_SECONDS = 1800.0

Marks = NDArray[np.uint32]

Flags = TypeVar("Flags", bool, NDArray[np.bool_])
"""Of one request, or of an array of them."""

BySlot = NDArray[np.int64]


class SlotFinder:
    """Finds the slots of keys under one salt.

    It remembers the latest: routing asks first, and whoever counts the request asks again, which takes 0.05 us.
    """

    __slots__ = ("_key", "_prefix", "_slot", "salt")

    def __init__(self, salt: bytes) -> None:
        self.salt = salt
        self._prefix = salt + b"\0"
        self._key: str | None = None
        self._slot = 0

    def slot(self, key: str) -> int:
        """Returns the slot of `key`: H64(salt || 0x00 || key) mod 65536; about 0.6 us."""
        if key is not self._key:
            digest = blake2b(self._prefix + key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            self._slot = digest[0] | digest[1] << 8
            self._key = key
        return self._slot


class KeyedLog:
    """Requests that ended, in the order in which they did.

    Attributes:
        lost: Those that found no room.
    """

    __slots__ = ("_marks", "_room", "_seconds", "lost")

    def __init__(self, room: int = ROOM) -> None:
        self.lost = 0
        self._room = room
        self._marks = array("I")
        self._seconds = array("d")

    def add(self, mark: int, seconds: float) -> None:
        """Takes a request: its slot with its marks, and the seconds from its arrival to its end."""
        if len(self._marks) < self._room:
            self._marks.append(mark)
            self._seconds.append(seconds)
        else:
            self.lost += 1

    def taken(self) -> "Entries":
        """Returns what was added, and begins anew."""
        marks, seconds = self._marks, self._seconds
        self._marks, self._seconds = array("I"), array("d")
        return Entries(np.frombuffer(marks, np.uint32), np.frombuffer(seconds, np.float64))


class Judged(NamedTuple, Generic[Flags]):
    """What is made of callers who waited no longer.

    Attributes:
        excused: It is not an error.
        untimed: It says nothing about how long the answer would have taken.
    """

    excused: Flags
    untimed: Flags


def judge(expired: Flags, given_up: Flags, early: Flags, before_first: Flags) -> Judged[Flags]:
    """Returns what is made of callers who waited no longer: the one rule, for a request as for an array of them.

    Args:
        expired: The deadline passed.
        given_up: That, or the caller cancelled.
        early: Sooner than the baseline's median (`Rules.client_timeout`).
        before_first: Not later than the least threshold.
    """
    return Judged(expired & early, given_up & (early | before_first))


@dataclass(frozen=True, eq=False)
class Entries:
    """Requests that ended.

    Attributes:
        marks: Slot and marks of each, shape (N,).
        seconds: From arrival to end, shape (N,).
    """

    marks: Marks
    seconds: NDArray[np.float64]

    @cached_property
    def slots(self) -> NDArray[np.uint32]:
        """The slot of each, shape (N,)."""
        return self.marks & np.uint32(_SLOT)

    def __len__(self) -> int:
        return len(self.marks)

    def count(self, which: NDArray[np.bool_] | None = None, modulus: int = SLOTS) -> BySlot:
        """Returns requests by slot, or by slot modulo `modulus`; shape (modulus,).

        Args:
            which: Those that count, shape (N,); None for all.
            modulus: A power of two, at most `SLOTS`.
        """
        slots = self.slots if which is None else self.slots[which]
        return np.bincount(slots & np.uint32(modulus - 1), minlength=modulus)

    def marked(self, mark: int) -> NDArray[np.bool_]:
        """Returns which requests have a mark, shape (N,)."""
        return np.asarray((self.marks & np.uint32(mark)) != 0)

    def slower(self, seconds: float) -> NDArray[np.bool_]:
        """Returns which requests that are timed took longer than `seconds`, shape (N,)."""
        return np.asarray(~self.marked(UNTIMED) & (self.seconds > seconds))

    def judged(self, least: float, client_timeout: float) -> "Entries":
        """Returns the requests with callers who waited no longer judged as a rollout's own requests are (`judge`).

        Args:
            least: The least threshold, seconds.
            client_timeout: As of `Rules`.
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
        """Returns which requests failed or were answered with an invalid output, shape (N,)."""
        return self.marked(ERROR | INVALID)

    def bad(self, stalled: float) -> NDArray[np.bool_]:
        """Returns which requests failed so or took longer than `stalled` seconds, shape (N,)."""
        return np.asarray(self.failed() | self.slower(stalled))


NO_ENTRIES = Entries(np.zeros(0, np.uint32), np.zeros(0))


def joined(parts: Sequence[Entries]) -> Entries:
    """Returns the entries of all `parts`, in their order."""
    if len(parts) < 2:
        return parts[0] if parts else NO_ENTRIES
    return Entries(np.concatenate([p.marks for p in parts]), np.concatenate([p.seconds for p in parts]))


@dataclass(slots=True, eq=False)
class SlotHistory:
    """The latest keyed requests that a version answered, or failed, because routing sent them to it.

    At most half an hour of them and at most 262,144, in 3 MB. What a slot did before it met a candidate is read here:
    exactly, and for whatever thresholds a plan comes with.

    Attributes:
        salt: That keys are hashed with.
        log: Where requests are added; None while nobody knows the salt.
        lost: Requests that a full log had no room for.
    """

    salt: bytes | None = None
    log: KeyedLog = field(default_factory=KeyedLog)
    lost: int = 0
    _parts: deque[tuple[float, Entries]] = field(default_factory=deque)
    _kept: int = 0

    def under(self, salt: bytes) -> KeyedLog:
        """Returns the log of requests whose keys are hashed with `salt`; what was hashed otherwise is forgotten."""
        if self.salt != salt:
            self.salt = salt
            self.log = KeyedLog()
            self._parts.clear()
            self._kept = 0
        return self.log

    def fold(self, now: float) -> None:
        """Takes in what was logged since the last time, and lets go what is too old or too much.

        Args:
            now: `time.monotonic()`.
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
        """Returns what was taken in after `moment`, by `time.monotonic()`."""
        return joined([entries for folded, entries in self._parts if folded > moment])

    def window(self) -> "KeyedWindow":
        """Returns what is kept now; it stays as it is."""
        return KeyedWindow(tuple(entries for _, entries in self._parts))


@dataclass(frozen=True, eq=False)
class KeyedWindow:
    """Keyed requests of one version over some time.

    Attributes:
        parts: The oldest first.
    """

    parts: tuple[Entries, ...] = ()

    @cached_property
    def entries(self) -> Entries:
        """All of them, the oldest first."""
        return joined(self.parts)

    def judged(self, least: float, client_timeout: float) -> "KeyedWindow":
        """Returns the window with its requests judged. Arguments as of `Entries.judged`."""
        return KeyedWindow((self.entries.judged(least, client_timeout),))

    def latest(self, slots: NDArray[np.bool_], most: int, stalled: float) -> tuple[BySlot, BySlot, BySlot]:
        """Returns by slot the latest requests, at most `most` each, those of them that failed, and the bad ones.

        Args:
            slots: Those that are looked at; others have none. Shape (SLOTS,).
            most: Requests of a slot.
            stalled: Seconds beyond which a request is bad.

        Returns:
            Three arrays, shapes (SLOTS,).
        """
        entries = self.entries
        mine = slots[entries.slots]
        of = entries.slots[mine][::-1]
        failed, bad = entries.failed()[mine][::-1], entries.bad(stalled)[mine][::-1]
        order = np.argsort(of, kind="stable")
        ranked = of[order]
        starts = np.searchsorted(ranked, ranked)  # where each slot's requests begin
        recent = order[np.arange(len(ranked)) - starts < most]
        of, failed, bad = of[recent], failed[recent], bad[recent]
        return _by_slot(of), _by_slot(of[failed]), _by_slot(of[bad])


def _by_slot(slots: NDArray[np.uint32]) -> BySlot:
    return np.bincount(slots, minlength=SLOTS)
