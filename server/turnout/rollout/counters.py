"""Counts both arms of a rollout tick by tick, and converts the counts of the serving path to evidence."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from turnout.rollout.evidence import ERRORS, INVALID, STALLED, Stratum, Tick
from turnout.rollout.evidence.serial import RecentSequences
from turnout.rollout.evidence.units import Shares, keyed_units, sequences_of, unkeyed_counts
from turnout.rollout.guards.circuit_breaker import Outcomes, SlotRecord
from turnout.rollout.guards.moved_slots import MovedSlots
from turnout.rollout.guards.slot_history import NO_RECORDS, SlotRecords
from turnout.routing.slots import Owners
from turnout.serving.counting.arm_counts import ArmMeter, Arms, attach, detach
from turnout.serving.counting.keyed_outcomes import SLOTS, KeyedWindow, SlotHistory
from turnout.serving.counting.tick_counts import Rules, TickCounts
from turnout.serving.data_plane.replay import ReplayedBaseline

_ASKED_SECONDS = 10.0
"""Maximum time in seconds to wait for the baseline's answers to requests that the candidate failed."""

_STARVED_TICKS = 6
_STARVED_REQUESTS = 20
_STARVED_RATIO = 5

Place = tuple[Arms, str]
"""A place where an arm's requests are counted: a version's arms, and the name of the part."""


@dataclass(frozen=True, slots=True)
class ClosedTick:
    """A closed tick.

    Attributes:
        canary_latency, baseline_latency: Number of answers by bucket of `LATENCY_BOUNDS`, for display.
    """

    tick: Tick
    canary_latency: Mapping[int, int]
    baseline_latency: Mapping[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class SlotsInForce:
    """The assignment of slots to arms.

    Attributes:
        owners: Slot owners of the policy in force; None without a policy.
        canary, baseline: Names of the owners of the arms' slots.
        candidate: Names of all owners whose slots the candidate answers.
    """

    owners: Owners | None
    canary: str
    baseline: str
    candidate: tuple[str, ...]

    def owned(self, *names: str) -> NDArray[np.bool_]:
        """Returns whether one of these owners has each slot, shape (SLOTS,)."""
        found = np.zeros(SLOTS, np.bool_)
        for name in names if self.owners is not None else ():
            found |= self.owners.owned(name)  # type: ignore[union-attr]  # checked above
        return found


@dataclass(frozen=True, slots=True)
class _Open:
    """A tick that has ended, but has requests that have not."""

    names: tuple[str, ...]
    canary: TickCounts
    baseline: TickCounts
    rest: TickCounts
    shares: tuple[Shares, Shares]
    seconds: float
    ended: float


class Counters:
    """Counts the requests of one rollout on one server. Used only on the event loop."""

    def __init__(self, rules: Rules, *, history: str = "") -> None:
        """Creates counters, which count nothing before `attach`.

        `history` are the outcomes of slots before the first step, as the property returns them; "" before that step.
        """
        self._names: tuple[str, ...] = ()
        self._canary, self._baseline, self._rest = ArmMeter(rules), ArmMeter(rules), ArmMeter(rules)
        self._rest_meets_candidate = False
        self._places: tuple[tuple[Place, ArmMeter], ...] = ()
        self._open: list[_Open] = []
        self._window: KeyedWindow | None = None
        self._restored = SlotRecords.unpacked(history) if history else NO_RECORDS
        self._records = self._restored
        self._shares: tuple[Shares, Shares] = ({}, {})
        self._shares_of: tuple[object, ...] = ()
        self._share = 0.0
        self._moved = MovedSlots()
        self._keyed: deque[tuple[int, int]] = deque(maxlen=_STARVED_TICKS)
        self._sequences = RecentSequences[tuple[tuple[str, ...], Rules]]()

    def attach(
        self,
        canary: Place,
        baseline: Place,
        asked: ReplayedBaseline | None = None,
        rest: Place | None = None,
        *,
        rest_meets_candidate: bool = False,
    ) -> None:
        """Starts to count at these places, and stops at earlier ones.

        Args:
            canary: Place of the canary's requests.
            baseline: Place of the baseline's requests.
            asked: Replays requests that the canary failed on the baseline. If the baseline fails too, the canary is not
                to blame.
            rest: Place of requests of one of the two versions that are in neither arm.
            rest_meets_candidate: Whether that version is the candidate.
        """
        self._canary.baseline = asked
        self._rest.baseline = asked if rest_meets_candidate else None
        self._rest_meets_candidate = rest_meets_candidate
        meters: tuple[tuple[Place, ArmMeter], ...] = (canary, self._canary), (baseline, self._baseline)
        if rest is not None:
            meters = (*meters, (rest, self._rest))
        if [(id(arms), part) for (arms, part), _ in self._places] == [(id(arms), part) for (arms, part), _ in meters]:
            return
        self.detach()
        for (arms, part), meter in meters:
            attach(arms, part, meter)
        self._places = meters

    def detach(self) -> None:
        """Stops counting."""
        for (arms, part), meter in self._places:
            detach(arms, part, meter)
        self._places = ()

    def watch(self, slots: SlotsInForce, history: SlotHistory, thresholds: Mapping[str, float], *, began: bool) -> None:
        """Updates the assignment of slots for the tick that ends now. Called once per tick, before `roll`.

        Args:
            slots: The assignment of slots.
            history: Keyed requests of the previous version.
            thresholds: Thresholds by metric in seconds.
            began: Whether the first step has begun, so that requests no longer belong to the common history of both
                arms.
        """
        salt = slots.owners.salt if slots.owners is not None else history.salt
        rules = self._canary.rules
        least = min(thresholds.values(), default=math.inf)
        present = history.window() if history.salt == salt else KeyedWindow()
        if not began:
            self._window = present
        key = (slots.owners, slots.canary, slots.baseline, self._window, tuple(sorted(thresholds.items())))
        if began and key != self._shares_of:
            self._shares_of = key
            if self._window is not None:
                self._records = SlotRecords.of(self._window.judged(least, rules.client_timeout), thresholds, rules.late)
            metrics = (ERRORS, INVALID, *thresholds)
            arms = slots.owned(slots.canary), slots.owned(slots.baseline)
            canary, baseline = ({m: self._records.shares(m, owned) for m in metrics} for owned in arms)
            self._shares = canary, baseline
            known = present.judged(least, rules.client_timeout)
            self._moved.own(slots.owned(*slots.candidate), known, self._records, thresholds.get(STALLED, math.inf))
            self._share = min(float(arms[1].sum()) / max(float(arms[0].sum()), 1.0), 1.0)
            self._keyed.clear()

    @property
    def history(self) -> str:
        """Outcomes of slots before the first step, to be stored with the rollout; "" before that step."""
        return "" if self._records is NO_RECORDS or not self._records.requests.any() else self._records.packed()

    @property
    def slot_records(self) -> list[SlotRecord]:
        """The slots whose requests fail on the candidate."""
        return self._moved.records()

    @property
    def starved(self) -> bool:
        """Whether the candidate gets keyed traffic and the arm that it is compared with hardly any."""
        if len(self._keyed) < _STARVED_TICKS:
            return False
        canary, baseline = (sum(counts) for counts in zip(*self._keyed, strict=True))
        return bool(canary >= _STARVED_REQUESTS and baseline * _STARVED_RATIO < canary * self._share)

    def redrawn(self) -> None:
        """Resets the measurement of starvation after the twin got other slots, so that its new keys are given time."""
        self._keyed.clear()

    def roll(self, seconds: float, now: float, rules: Rules, thresholds: Mapping[str, float]) -> None:
        """Ends a tick of `seconds` active seconds, and begins the next with other rules and thresholds by metric."""
        self._canary.rules = self._baseline.rules = self._rest.rules = rules
        counts = self._canary.roll(), self._baseline.roll(), self._rest.roll()
        self._open.append(_Open(self._names, *counts, self._shares, seconds, now))
        self._names = tuple(sorted(thresholds, key=lambda name: thresholds[name]))

    def closed(self, now: float) -> list[ClosedTick]:
        """Returns the ticks whose requests have ended or exceeded the largest threshold, oldest first."""
        done: list[ClosedTick] = []
        while self._open and _over(self._open[0], now):
            done.append(self._close(self._open.pop(0)))
        return done

    def _close(self, tick: _Open) -> ClosedTick:
        canary, baseline, rest = tick.canary.close(), tick.baseline.close(), tick.rest.close()
        self._keyed.append((len(canary.admitted), len(baseline.admitted)))
        self._moved.take(canary, tick.seconds)
        elsewhere = [tick.baseline]
        if self._rest_meets_candidate:
            self._moved.take(rest, tick.seconds)
        else:
            elsewhere.append(tick.rest)
        others = (Outcomes(counts.admitted, counts.failed, counts.bad) for counts in elsewhere)
        self._moved.take_elsewhere(sum(others, Outcomes()), tick.ended)
        canary_units, baseline_units = (
            keyed_units(one, tick.names, shares) for one, shares in zip((canary, baseline), tick.shares, strict=True)
        )
        stratum = Stratum(
            "",
            unkeyed_counts(tick.canary, canary_units, tick.names),
            unkeyed_counts(tick.baseline, baseline_units, tick.names),
            canary_units,
            baseline_units,
            self._sequences.take(
                tick.ended,
                (tick.names, tick.canary.rules),
                *(sequences_of(arm, tick.names) for arm in (tick.canary, tick.baseline)),
            ),
        )
        largest = max(tick.canary.largest_batch, tick.baseline.largest_batch)
        closed = Tick(tick.seconds, (stratum,), largest)
        return ClosedTick(closed, dict(tick.canary.latency), dict(tick.baseline.latency))


def _over(tick: _Open, now: float) -> bool:
    counts = tick.canary, tick.baseline, tick.rest
    waited = now - tick.ended
    if any(one.unsettled for one in counts):
        return waited > max(one.late for one in counts)
    return not any(one.asked for one in counts) or waited > _ASKED_SECONDS
