"""Counts, exactly and in the serving path, what two versions' requests came to: the counts a rollout decides by.

A request belongs to the cell of the tick in which it was admitted, whenever it ends, so that a change of weights
between the two cancels. Used on the event loop only; a request costs one look at a clock that was read anyway.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from turnout.errors import (
    InputsRefused,
    InvalidTensor,
    MemoryBudgetExceeded,
    ModelCrashed,
    ModelFailure,
    ModelTimedOut,
)
from turnout.serving.tensor import Array
from turnout.telemetry.histogram import LATENCY_BOUNDS

SERVER_FAULTS = frozenset(
    {"INTERNAL", "UNKNOWN", "DATA_LOSS", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED"}
)
"""Codes that the caller has no part in."""

_ERROR, _SLOW = "error", "slow"
"""Kinds of bad events. A slow one counts once, whatever it passes, or a key could give several to one metric."""

_OF_A_RUN = (InputsRefused, ModelFailure, MemoryBudgetExceeded)
"""What the model did with a request, where another version may do better."""

_MAX_KEYS = 100_000

Settle = Callable[[bool | None], None]
"""Is told whether the baseline answers a request; None if that could not be found out."""


class Baseline(Protocol):
    """The version that a canary is held against; `turnout.serving.replay` has the one that ships."""

    def accepts(self, request: "FailedRequest") -> bool:
        """Tells whether a request fits the baseline's signature."""
        ...

    def ask(self, request: "FailedRequest", settle: Settle) -> bool:
        """Has the baseline run a request later on, and tells `settle`; returns False if there is no room for it."""
        ...


@dataclass(slots=True, eq=False)
class Cell:
    """What one arm's requests of one tick came to.

    Attributes:
        thresholds: Latencies, ascending, seconds.
        admitted: Requests.
        settled: Those that ended.
        untimed: Those that latency leaves out: warm-up, and callers who did not wait as long as the baseline takes.
        errors: Those that the server is to blame for.
        asked: Failures of which the baseline has not said yet whether it would have answered.
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
    asked: int = 0
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
        baseline: What a canary is held against; None for the baseline itself.
    """

    def __init__(self, rules: Rules, baseline: Baseline | None = None) -> None:
        self.rules = rules
        self.cell = Cell(rules.thresholds)
        self.baseline = baseline
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
        self, cell: Cell, key: str, now: float, took: float, code: str, error: BaseException, request: "FailedRequest"
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
        fault = code in SERVER_FAULTS or (code == "DEADLINE_EXCEEDED" and not hasty)
        if isinstance(error, InvalidTensor):
            fault = self.baseline is not None and self.baseline.accepts(request)
        if not self._asked(cell, key, now, error, request, fault) and fault:
            self._blame(cell, key, now)
        if hasty or (given_up and not bisect_left(cell.thresholds, took)):
            cell.untimed += 1  # it says nothing about how long the answer would have taken
        else:
            self._passed(cell, key, now, took)

    def _passed(self, cell: Cell, key: str, now: float, took: float) -> None:
        passed = bisect_left(cell.thresholds, took)
        cell.passed[passed if passed and self._may(key, now, _SLOW) else 0] += 1

    def _asked(
        self, cell: Cell, key: str, now: float, error: BaseException, request: "FailedRequest", otherwise: bool
    ) -> bool:
        """Leaves the blame for a failed run to the baseline, which runs the request too; False if that is not done.

        What ended a process or a run is not tried on the baseline. `otherwise` is the blame if it cannot tell.
        """
        if self.baseline is None or not isinstance(error, _OF_A_RUN) or isinstance(error, ModelCrashed | ModelTimedOut):
            return False

        def settle(answers: bool | None) -> None:
            cell.asked -= 1
            if otherwise if answers is None else answers:
                self._blame(cell, key, now)

        if not self.baseline.ask(request, settle):
            return False
        cell.asked += 1
        return True

    def _blame(self, cell: Cell, key: str, now: float) -> None:
        if not cell.closed and self._may(key, now, _ERROR):
            cell.errors += 1

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
class FailedRequest:
    """What blame is decided by.

    Attributes:
        inputs: By name.
        outputs: Names of the outputs wanted.
        patience: Seconds from arrival to deadline; None for no deadline.
    """

    inputs: Mapping[str, Array]
    outputs: Sequence[str]
    patience: float | None
