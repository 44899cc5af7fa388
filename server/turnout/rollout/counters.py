"""Two arms' counts, tick by tick: what the serving path counted becomes what the evidence takes."""

from collections.abc import Mapping
from dataclasses import dataclass

from turnout.rollout.evidence import ERRORS, Count, Tick
from turnout.serving.arms import ArmMeter, Arms, Baseline, Cell, Rules, attach, detach

_UNTIMED_SECONDS = 10.0
"""How long a tick's last requests are waited for where no threshold says it: an error may take its time to come."""

Place = tuple[Arms, str]
"""Where an arm's requests come by: whose, and in which part."""


@dataclass(frozen=True, slots=True)
class Counted:
    """A tick that is closed.

    Attributes:
        tick: What the evidence takes.
        canary_latency, baseline_latency: Answers by bucket of `LATENCY_BOUNDS`, for people to look at.
    """

    tick: Tick
    canary_latency: Mapping[int, int]
    baseline_latency: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class _Pair:
    names: tuple[str, ...]
    canary: Cell
    baseline: Cell
    seconds: float
    ended: float


class Counters:
    """Counts for one rollout. Used on the event loop only."""

    def __init__(self, rules: Rules) -> None:
        self._names: tuple[str, ...] = ()
        self._canary, self._baseline = ArmMeter(rules), ArmMeter(rules)
        self._places: tuple[Place, Place] | None = None
        self._open: list[_Pair] = []

    def attach(self, canary: Place, baseline: Place, asked: Baseline | None = None) -> None:
        """Counts what comes by these two places from now on; where it was counted before, it is so no more.

        Args:
            canary: Where the canary's requests come by.
            baseline: Where the baseline's do.
            asked: Whom to ask about a request that the canary failed: what the baseline fails too is not its fault.
        """
        self._canary.baseline = asked
        if self._places is not None and all(
            old[0] is new[0] and old[1] == new[1] for old, new in zip(self._places, (canary, baseline), strict=True)
        ):
            return
        self.detach()
        attach(*canary, self._canary)
        attach(*baseline, self._baseline)
        self._places = (canary, baseline)

    def detach(self) -> None:
        """Counts nothing more."""
        for place, meter in zip(self._places or (), (self._canary, self._baseline), strict=False):
            detach(*place, meter)
        self._places = None

    def roll(self, seconds: float, now: float, rules: Rules, thresholds: Mapping[str, float]) -> None:
        """Ends a tick and begins the next.

        Args:
            seconds: Active seconds of the one that ends.
            now: The monotonic clock's.
            rules: Of the next.
            thresholds: By metric, seconds; those of `rules`.
        """
        self._canary.rules = self._baseline.rules = rules
        self._open.append(_Pair(self._names, self._canary.roll(), self._baseline.roll(), seconds, now))
        self._names = tuple(sorted(thresholds, key=lambda name: thresholds[name]))

    def closed(self, now: float) -> list[Counted]:
        """Returns the ticks whose requests have ended or are past the largest threshold, the oldest first."""
        done: list[Counted] = []
        while self._open and _over(self._open[0], now):
            pair = self._open.pop(0)
            pair.canary.closed = pair.baseline.closed = True
            largest = max(pair.canary.largest_batch, pair.baseline.largest_batch)
            canary, baseline = _counts(pair.canary, pair.names), _counts(pair.baseline, pair.names)
            tick = Tick.unkeyed(pair.seconds, canary, baseline, largest)
            done.append(Counted(tick, dict(pair.canary.latency), dict(pair.baseline.latency)))
        return done


def _over(pair: _Pair, now: float) -> bool:
    cells = pair.canary, pair.baseline
    waited = now - pair.ended
    if any(cell.admitted != cell.settled for cell in cells):
        return waited > max((*pair.canary.thresholds, *pair.baseline.thresholds), default=_UNTIMED_SECONDS)
    return not any(cell.asked for cell in cells) or waited > _UNTIMED_SECONDS


def _counts(cell: Cell, names: tuple[str, ...]) -> dict[str, Count]:
    slow = {name: Count(cell.timed, cell.slow(index)) for index, name in enumerate(names)}
    return {ERRORS: Count(cell.admitted, cell.errors), **slow}
