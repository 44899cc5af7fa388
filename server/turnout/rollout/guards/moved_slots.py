"""The outcomes of slots on the candidate and before on the baseline, for the circuit breaker."""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from turnout.rollout.guards.circuit_breaker import Outcomes, SlotRecord
from turnout.rollout.guards.slot_history import LATEST, SlotRecords
from turnout.serving.counting.keyed_outcomes import BAD, SLOTS, BySlot, KeyedWindow
from turnout.serving.counting.tick_counts import KeyedCounts

_ELSEWHERE_SECONDS = 60.0
_MOST_RECORDS = 64

_LEAST_SECONDS = 5.0
"""A slot is judged by at least this time in seconds, so that one stall is not half of its requests. Ticks in which it
had no requests do not count."""


class MovedSlots:
    """Counts, by slot, the outcomes of the candidate's requests since the slot was moved to it.

    The comparison is the slot's latest requests on the baseline before that. If fewer than 200 are known, requests that
    failed on the candidate and were replayed on the baseline are added.
    """

    def __init__(self) -> None:
        self._owned = np.zeros(SLOTS, np.bool_)
        # Rows: requests, failed ones, bad ones, and seconds of the ticks that they came in.
        self._met = np.zeros((4, SLOTS))
        self._before = np.zeros((3, SLOTS), np.int64)  # the first three
        self._elsewhere: deque[tuple[float, Outcomes]] = deque()

    def own(self, owned: NDArray[np.bool_], window: KeyedWindow, records: SlotRecords, stalled: float) -> None:
        """Updates the slots that the candidate answers from now on.

        Args:
            owned: Whether the candidate answers each slot, shape (SLOTS,).
            window: Latest keyed requests of the baseline.
            records: Outcomes before the first step, for slots whose requests are no longer known.
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

    def take(self, keyed: KeyedCounts, seconds: float) -> None:
        """Counts the candidate's requests of a tick that took `seconds`.

        Counts of more than 200 requests are scaled down to 200, but not to less than `_LEAST_SECONDS`.
        """
        if not len(keyed.admitted):
            return
        ended, blamed = keyed.ended, keyed.blamed
        requests = keyed.admitted.count()
        hanging = requests - ended.count()  # not ended when the tick was closed, so late
        failed = ended.count(ended.failed()) + blamed.count() + hanging
        bad = ended.count(ended.marked(BAD)) + blamed.count(blamed.marked(BAD)) + hanging
        some = np.flatnonzero(requests)  # of 65,536
        self._met[:, some] += np.stack([requests[some], failed[some], bad[some], np.full(len(some), seconds)])
        over = some[(self._met[0, some] > LATEST) & (self._met[3, some] > _LEAST_SECONDS)]
        self._met[:, over] *= np.maximum(LATEST / self._met[0, over], _LEAST_SECONDS / self._met[3, over])
        # For slots without enough history, the baseline's answers to the same requests are the comparison.
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
        """Returns the slots with bad requests on the candidate, at most 64, those with the most first.

        Slots whose requests came in less than `_LEAST_SECONDS` are left out; ticks are a little shorter or longer than
        they should be.
        """
        bad = self._met[2]
        slots = np.flatnonzero(self._owned & (bad >= 0.5) & (self._met[3] >= 0.9 * _LEAST_SECONDS))
        slots = slots[np.argsort(-bad[slots], kind="stable")][:_MOST_RECORDS]
        elsewhere = sum((outcomes for _, outcomes in self._elsewhere), Outcomes())
        return [
            SlotRecord("", int(slot), _outcomes(self._met[:3, slot]), _outcomes(self._before[:, slot]), elsewhere)
            for slot in slots
        ]


def _outcomes(counts: NDArray[np.float64] | BySlot) -> Outcomes:
    return Outcomes(*(round(one) for one in counts.tolist()))
