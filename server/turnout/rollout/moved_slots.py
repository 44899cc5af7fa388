"""The slots that meet a candidate, each with what it did before on the baseline: what the circuit breaker looks at."""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from turnout.rollout.breaker import SlotRecord
from turnout.rollout.evidence import Count
from turnout.rollout.history import LATEST, SlotRecords
from turnout.serving.arms import KeyedCounts
from turnout.serving.keyed import BAD, SLOTS, BySlot, Window

_ELSEWHERE_SECONDS = 60.0
_MOST_RECORDS = 64


class MovedSlots:
    """Counts by slot what came of the requests that a candidate got since the slot was moved to it.

    What the slot did on the baseline are its latest requests there before; and those that failed on the candidate and
    that the baseline was asked about, where fewer than 200 are known.
    """

    def __init__(self) -> None:
        self._owned = np.zeros(SLOTS, np.bool_)
        self._requests, self._bad = np.zeros(SLOTS), np.zeros(SLOTS)
        self._before: tuple[BySlot, BySlot] = (np.zeros(SLOTS, np.int64), np.zeros(SLOTS, np.int64))
        self._elsewhere: deque[tuple[float, Count]] = deque()

    def own(self, owned: NDArray[np.bool_], window: Window, records: SlotRecords, stalled: float) -> None:
        """Notes which slots meet the candidate from now on.

        Args:
            owned: Those slots, shape (SLOTS,).
            window: The baseline's latest keyed requests.
            records: What is known from before the first step, where the requests themselves are lost.
            stalled: Seconds beyond which a request is bad.
        """
        new = owned & ~self._owned
        if new.any():
            known = window.latest(new, LATEST, stalled)
            kept = records.latest()
            blank = new & (known[0] == 0)
            for before, latest, old in zip(self._before, known, kept, strict=True):
                before[new] = latest[new]
                before[blank] = old[blank]
            self._requests[new] = self._bad[new] = 0.0
        self._owned = owned.copy()

    def take(self, keyed: KeyedCounts) -> None:
        """Counts the candidate's requests of a tick. Of more than 200 of a slot, the older ones fade."""
        if not len(keyed.admitted):
            return
        ended = keyed.ended
        requests = keyed.admitted.count()
        bad = ended.count(ended.marked(BAD)) + keyed.blamed.count(keyed.blamed.marked(BAD))
        bad += requests - ended.count()  # under way at the close, so that it is late
        some = np.flatnonzero(requests)  # of 65,536
        self._requests[some] += requests[some]
        self._bad[some] += bad[some]
        over = some[self._requests[some] > LATEST]
        self._bad[over] *= LATEST / self._requests[over]
        self._requests[over] = LATEST
        # What the baseline does with the very requests is known of a slot that it never had any of.
        replayed = keyed.replayed
        if len(replayed):
            ran, failed = replayed.count(), replayed.count(replayed.marked(BAD))
            asked = np.flatnonzero(ran)
            room = asked[self._before[0][asked] < LATEST]
            for before, counts in zip(self._before, (ran, failed), strict=True):
                before[room] += counts[room]

    def take_elsewhere(self, count: Count, ended: float) -> None:
        """Counts the baseline's requests of a tick, which ended at `ended` by the monotonic clock."""
        self._elsewhere.append((ended, count))
        while ended - self._elsewhere[0][0] > _ELSEWHERE_SECONDS:
            self._elsewhere.popleft()

    def records(self) -> list[SlotRecord]:
        """Returns the slots that have bad requests on the candidate, at most 64, those with the most first."""
        slots = np.flatnonzero(self._owned & (self._bad >= 0.5))
        slots = slots[np.argsort(-self._bad[slots], kind="stable")][:_MOST_RECORDS]
        elsewhere = Count(sum(c.requests for _, c in self._elsewhere), sum(c.bad for _, c in self._elsewhere))
        return [
            SlotRecord(
                "",
                int(slot),
                Count(round(self._requests[slot]), round(min(self._bad[slot], self._requests[slot]))),
                Count(*(int(before[slot]) for before in self._before)),
                elsewhere,
            )
            for slot in slots
        ]
