"""Counts, exactly and in the serving path, what two versions' requests came to: the counts a rollout decides by.

A request belongs to the cell of the tick in which it was admitted, whenever it ends, so that a change of weights
between the two cancels. Used on the event loop only; a request costs one look at a clock that was read anyway.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from turnout.errors import InvalidTensor, TurnoutError
from turnout.serving.tensor import Array
from turnout.telemetry.histogram import LATENCY_BOUNDS

SERVER_FAULTS = frozenset(
    {"INTERNAL", "UNKNOWN", "DATA_LOSS", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED"}
)
"""Codes that the caller has no part in."""

_ERROR, _SLOW = "error", "slow"
"""Kinds of bad events. A slow one counts once, whatever it passes, or a key could give several to one metric."""

_MAX_KEYS = 100_000

Fits = Callable[[Mapping[str, Array], Sequence[str]], object]
"""Raises InvalidTensor where the baseline would have refused such a request too."""


@dataclass(slots=True, eq=False)
class Cell:
    """What one arm's requests of one tick came to.

    Attributes:
        thresholds: Latencies, ascending, seconds.
        admitted: Requests.
        settled: Those that ended.
        untimed: Those that latency leaves out: warm-up, and callers who did not wait as long as the baseline takes.
        errors: Those that the server is to blame for.
        passed: By number of thresholds that were passed.
        latency: Answers by bucket of `LATENCY_BOUNDS`, for people to look at; no decision uses it.
        largest_batch: Requests in the largest batch.
        closed: What ends later counts no more.
    """

    thresholds: tuple[float, ...]
    admitted: int = 0
    settled: int = 0
    untimed: int = 0
    errors: int = 0
    passed: list[int] = field(default_factory=list)
    latency: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    largest_batch: int = 1
    closed: bool = False

    def __post_init__(self) -> None:
        self.passed = [0] * (len(self.thresholds) + 1)

    def slow(self, index: int) -> int:
        """Returns how many requests passed a threshold; those still under way at the close are among them."""
        return sum(self.passed[index + 1 :]) + (self.admitted - self.settled)

    @property
    def timed(self) -> int:
        """Requests that latency looks at."""
        return self.admitted - self.untimed


@dataclass(frozen=True, slots=True)
class Rules:
    """What counts.

    Attributes:
        thresholds: Latencies, ascending, seconds.
        patience: A caller whose deadline is shorter than this (the baseline's p50), seconds, has itself to blame.
        warm_requests: First requests of each batch size that latency leaves out.
        key_cap: Errors, and slow answers, that one routing key may give in a window. A heuristic without a guarantee.
        key_window: Its length, seconds.
    """

    thresholds: tuple[float, ...] = ()
    patience: float = 0.0
    warm_requests: int = 20
    key_cap: int = 3
    key_window: float = 60.0


class ArmMeter:
    """Counts one arm.

    Attributes:
        rules: What counts; takes effect with the next cell.
        cell: Of the present tick.
        fits: The baseline's check of a request; None for the baseline itself.
    """

    def __init__(self, rules: Rules, fits: Fits | None = None) -> None:
        self.rules = rules
        self.cell = Cell(rules.thresholds)
        self.fits = fits
        self._warm: defaultdict[int, int] = defaultdict(int)
        self._by_key: dict[tuple[str, str], int] = {}
        self._window_ends = 0.0

    def roll(self) -> Cell:
        """Starts the next tick's cell and returns the one before."""
        last, self.cell = self.cell, Cell(self.rules.thresholds)
        return last

    def admit(self) -> Cell:
        """Counts a request that was routed here; returns the cell that it belongs to."""
        self.cell.admitted += 1
        return self.cell

    def answered(self, cell: Cell, key: str, now: float, took: float, batch: int) -> None:
        """Counts a request that got its answer.

        Args:
            cell: That it was admitted to.
            key: Its routing key, "" for none.
            now: `time.monotonic()`.
            took: Seconds from its arrival.
            batch: Requests in its batch.
        """
        cell.settled += 1
        if cell.closed:
            return
        cell.largest_batch = max(cell.largest_batch, batch)
        cell.latency[bisect_left(LATENCY_BOUNDS, took)] += 1
        if self._warm[batch] < self.rules.warm_requests:
            self._warm[batch] += 1
            cell.untimed += 1
            return
        self._passed(cell, key, now, took)

    def failed(
        self, cell: Cell, key: str, now: float, took: float, code: str, error: BaseException, request: "Failing"
    ) -> None:
        """Counts a request that ended otherwise.

        Args:
            cell: That it was admitted to.
            key: Its routing key, "" for none.
            now: `time.monotonic()`.
            took: Seconds from its arrival.
            code: Status code name that the error becomes.
            error: Why.
            request: What was asked.
        """
        cell.settled += 1
        if cell.closed:
            return
        hasty = request.patience is not None and request.patience < self.rules.patience
        given_up = code in ("CANCELLED", "DEADLINE_EXCEEDED")
        if self._blamed(code, error, request, hasty) and self._may(key, now, _ERROR):
            cell.errors += 1
        if hasty or (given_up and not bisect_left(cell.thresholds, took)):
            cell.untimed += 1  # it says nothing about how long the answer would have taken
        else:
            self._passed(cell, key, now, took)

    def _passed(self, cell: Cell, key: str, now: float, took: float) -> None:
        passed = bisect_left(cell.thresholds, took)
        cell.passed[passed if passed and self._may(key, now, _SLOW) else 0] += 1

    def _blamed(self, code: str, error: BaseException, request: "Failing", hasty: bool) -> bool:
        if code == "DEADLINE_EXCEEDED":
            return not hasty
        if code in SERVER_FAULTS:
            return True
        if isinstance(error, InvalidTensor) and self.fits is not None:
            try:
                self.fits(request.inputs, request.outputs)
            except TurnoutError:
                return False
            return True  # the baseline would have taken it
        return False

    def _may(self, key: str, now: float, kind: str) -> bool:
        """Tells whether a key may give one more bad event, which counts as given; without a key, always."""
        if not key:
            return True
        if now >= self._window_ends or len(self._by_key) > _MAX_KEYS:
            self._by_key.clear()
            self._window_ends = now + self.rules.key_window
        spent = self._by_key.get((key, kind), 0)
        self._by_key[key, kind] = spent + 1
        return spent < self.rules.key_cap


Arms = dict[str, tuple[ArmMeter, ...]]
"""Who counts a version's requests, by the part in which they reach it: a role, or a lane of the baseline's own."""


def attach(arms: Arms, part: str, meter: ArmMeter) -> None:
    """Has `meter` count the requests of `part` from now on."""
    if meter not in arms.get(part, ()):
        arms[part] = (*arms.get(part, ()), meter)


def detach(arms: Arms, part: str, meter: ArmMeter) -> None:
    """Has `meter` count nothing more; requests under way are still its own."""
    left = tuple(m for m in arms.pop(part, ()) if m is not meter)
    if left:
        arms[part] = left


@dataclass(frozen=True, slots=True)
class Failing:
    """What blame is decided by.

    Attributes:
        inputs: By name.
        outputs: Names of the outputs wanted.
        patience: Seconds from arrival to deadline; None for no deadline.
    """

    inputs: Mapping[str, Array]
    outputs: Sequence[str]
    patience: float | None
