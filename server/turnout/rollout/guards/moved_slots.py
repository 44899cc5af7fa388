"""The slots that meet a candidate, each with what it did before on the baseline: what the circuit breaker looks at."""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from turnout.rollout.guards.circuit_breaker import Outcomes, SlotRecord
from turnout.rollout.guards.slot_history import LATEST, SlotRecords
from turnout.serving.counting.keyed_outcomes import BAD, SLOTS, BySlot, KeyedWindow
from turnout.serving.counting.tick_counts import KeyedCounts

_ELSEWHERE_SECONDS = 60.0
_MOST_RECORDS = 64


class MovedSlots:
    """Counts by slot what came of the requests that a candidate got since the slot was moved to it.

    What the slot did on the baseline are its latest requests there before; and those that failed on the candidate and
    that the baseline was asked about, if fewer than 200 are known.
    """

    def __init__(self) -> None:
        self._owned = np.zeros(SLOTS, np.bool_)
        self._met = np.zeros((3, SLOTS))  # requests, failed ones, bad ones; so is what follows
        self._before = np.zeros((3, SLOTS), np.int64)
        self._elsewhere: deque[tuple[float, Outcomes]] = deque()

    def own(self, owned: NDArray[np.bool_], window: KeyedWindow, records: SlotRecords, stalled: float) -> None:
        """Notes which slots the candidate answers from now on.

        Args:
            owned: Those slots, shape (SLOTS,).
            window: The baseline's latest keyed requests.
            records: What is known from before the first step, where the requests themselves are lost.
            stalled: Seconds beyond which a request is bad.
        """
        new = owned & ~self._owned
        if new.any():
            known, kept = np.stack(window.latest(new, LATEST, stalled)), np.stack(records.latest())
            blank = new & (known[0] == 0)
            self._before[:, new] = known[:, new]
            self._before[:, blank] = kept[:, blank]
            self._met[:, new] = 0.0
        self._owned = owned.copy()

    def take(self, keyed: KeyedCounts) -> None:
        """Counts the candidate's requests of a tick. Of more than 200 of a slot, the older ones fade."""
        if not len(keyed.admitted):
            return
        ended, blamed = keyed.ended, keyed.blamed
        requests = keyed.admitted.count()
        hanging = requests - ended.count()  # under way at the close, so that it is late
        failed = ended.count(ended.failed()) + blamed.count() + hanging
        bad = ended.count(ended.marked(BAD)) + blamed.count(blamed.marked(BAD)) + hanging
        some = np.flatnonzero(requests)  # of 65,536
        self._met[:, some] += np.stack([requests[some], failed[some], bad[some]])
        over = some[self._met[0, some] > LATEST]
        self._met[:, over] *= LATEST / self._met[0, over]
        # What the baseline does with the very requests is known of a slot that it never had any of.
        replayed = keyed.replayed
        if len(replayed):
            ran = replayed.count()
            asked = np.flatnonzero(ran)
            room = asked[self._before[0, asked] < LATEST]
            counts = ran, replayed.count(replayed.failed()), replayed.count(replayed.marked(BAD))
            self._before[:, room] += np.stack([one[room] for one in counts])

    def take_elsewhere(self, outcomes: Outcomes, ended: float) -> None:
        """Counts the baseline's requests of a tick, which ended at `ended` by the monotonic clock."""
        self._elsewhere.append((ended, outcomes))
        while ended - self._elsewhere[0][0] > _ELSEWHERE_SECONDS:
            self._elsewhere.popleft()

    def records(self) -> list[SlotRecord]:
        """Returns the slots that have bad requests on the candidate, at most 64, those with the most first."""
        bad = self._met[2]
        slots = np.flatnonzero(self._owned & (bad >= 0.5))
        slots = slots[np.argsort(-bad[slots], kind="stable")][:_MOST_RECORDS]
        elsewhere = sum((outcomes for _, outcomes in self._elsewhere), Outcomes())
        return [
            SlotRecord("", int(slot), _outcomes(self._met[:, slot]), _outcomes(self._before[:, slot]), elsewhere)
            for slot in slots
        ]


def _outcomes(counts: NDArray[np.float64] | BySlot) -> Outcomes:
    return Outcomes(*(round(one) for one in counts.tolist()))
