"""Counts, exactly and in the serving path, what two versions' requests came to: the counts a rollout decides by.

A request belongs to the counts of the tick in which it was admitted, whenever it ends, so that a change of weights
between the two cancels. A request with a routing key is logged by slot as well, which costs two appends; reading the
logs is left to the end of the tick. Used on the event loop only.
"""

import math
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from turnout.errors import (
    InputsRefused,
    InvalidTensor,
    MemoryBudgetExceeded,
    ModelCrashed,
    ModelFailure,
    ModelTimedOut,
)
from turnout.serving.counting.keyed_outcomes import (
    BAD,
    ERROR,
    GIVEN_UP,
    INVALID,
    NO_SLOT,
    ROOM,
    UNTIMED,
    Entries,
    KeyedLog,
    judge,
)
from turnout.serving.sessions.tensor import Array
from turnout.telemetry.histogram import LATENCY_BOUNDS

SERVER_FAULTS = frozenset(
    {"INTERNAL", "UNKNOWN", "DATA_LOSS", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED"}
)
"""Codes that the caller has no part in."""


def failure_marks(code: str) -> int:
    """Returns what the code of a failed request says: `ERROR`, `GIVEN_UP`, both or neither (`keyed_outcomes.judge`)."""
    if code == "DEADLINE_EXCEEDED":
        return GIVEN_UP | ERROR
    if code == "CANCELLED":
        return GIVEN_UP
    return ERROR if code in SERVER_FAULTS else 0


_OF_A_RUN = (InputsRefused, ModelFailure, MemoryBudgetExceeded)
"""What the model did with a request, where another version may do better."""

_ENDED = (ModelCrashed, ModelTimedOut)
"""What ended a process or a run: it is not tried on the baseline."""

LATE_SECONDS = 2.0
"""A request that takes longer than this, and than every threshold, is an error whatever comes of it."""

LATE_UNTIMED_SECONDS = 10.0
"""The same where no threshold is known."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What the baseline made of a request.

    Attributes:
        answered: It answered.
        invalid: With NaN or infinity.
        seconds: How long it took.
    """

    answered: bool
    invalid: bool
    seconds: float


Settle = Callable[[Replayed | None], None]
"""Is told what the baseline made of a request; None if that could not be found out."""


class BaselineReplayer(Protocol):
    """The version that a canary is compared with; `turnout.serving.data_plane.replay` has the one that ships."""

    def accepts(self, request: "FailedRequest") -> bool:
        """Tells whether a request fits the baseline's signature."""
        ...

    def ask(self, request: "FailedRequest", settle: Settle) -> bool:
        """Has the baseline run a request later on, and tells `settle`; returns False if there is no room for it."""
        ...


@dataclass(frozen=True, slots=True)
class Rules:
    """What counts.

    Attributes:
        thresholds: Latencies, ascending, seconds.
        client_timeout: A caller who waits for less than this (the baseline's p50), seconds, has itself to blame.
        warm_requests: First requests of each batch size that latency leaves out.
        stalled: Latency, seconds, beyond which a request is bad for the circuit breaker.
    """

    thresholds: tuple[float, ...] = ()
    client_timeout: float = 0.0
    warm_requests: int = 20
    stalled: float = math.inf

    @property
    def late(self) -> float:
        """Seconds beyond which a request is an error, whatever comes of it."""
        return max(self.thresholds[-1], LATE_SECONDS) if self.thresholds else LATE_UNTIMED_SECONDS


@dataclass(slots=True, eq=False)
class TickCounts:
    """What one arm's requests of one tick came to.

    Attributes:
        rules: What counts.
        thresholds, late: Of the rules.
        notable: Seconds beyond which a request is looked at more closely: the least of what the rules name.
        admitted: Requests.
        settled: Those that ended.
        untimed: Those that latency leaves out: warm-up, and callers who did not wait as long as the baseline takes.
        errors: Those that the server is to blame for.
        invalid: Answers with NaN or infinity in an output.
        failed: Those that are any of this.
        bad: Those, and the ones that stalled.
        passed: By number of thresholds that were passed.
        latency: Answers by bucket of `LATENCY_BOUNDS`, for people to look at; no decision uses it.
        largest_batch: Requests in the largest batch.
        slots: Of the requests with a key, in the order of admission.
        keyed: Those of them that ended.
        blamed: Of those, whose failure was found to be the server's fault after they had ended.
        replayed: Those that the baseline was asked about and ran as well, marked as it did.
        asked: What the baseline runs as well, and has not ended yet.
        closed: What ends later counts no more.
    """

    rules: Rules
    thresholds: tuple[float, ...] = ()
    late: float = 0.0
    notable: float = 0.0
    admitted: int = 0
    settled: int = 0
    untimed: int = 0
    errors: int = 0
    invalid: int = 0
    failed: int = 0
    bad: int = 0
    passed: list[int] = field(default_factory=list)
    latency: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    largest_batch: int = 1
    slots: "array[int]" = field(default_factory=lambda: array("H"))
    keyed: KeyedLog = field(default_factory=KeyedLog)
    blamed: "array[int]" = field(default_factory=lambda: array("I"))
    replayed: "array[int]" = field(default_factory=lambda: array("I"))
    asked: "set[_Question]" = field(default_factory=set)
    closed: bool = False

    def __post_init__(self) -> None:
        self.thresholds, self.late = self.rules.thresholds, self.rules.late
        self.notable = min(self.late, self.rules.stalled)
        self.passed = [0] * (len(self.rules.thresholds) + 1)

    @property
    def unsettled(self) -> int:
        """Requests that have not ended."""
        return self.admitted - self.settled

    def slow(self, index: int) -> int:
        """Returns how many requests passed a threshold; those still under way at the close are among them."""
        return sum(self.passed[index + 1 :]) + self.unsettled

    @property
    def timed(self) -> int:
        """Requests that latency looks at."""
        return self.admitted - self.untimed

    def close(self) -> "KeyedCounts":
        """Counts nothing more. What has not ended by now is late, and what the baseline has not said goes by the code.

        Returns:
            The requests with a key.
        """
        for question in list(self.asked):
            question.settle(None)
        self.closed = True
        self.errors += self.unsettled
        self.failed += self.unsettled
        self.bad += self.unsettled
        admitted, blamed, replayed = (_untimed(marks) for marks in (self.slots, self.blamed, self.replayed))
        return KeyedCounts(self.rules, admitted, self.keyed.taken(), blamed, replayed)


def _untimed(marks: "array[int]") -> Entries:
    """Returns requests of which the time does not matter."""
    return Entries(np.asarray(marks, np.uint32), np.zeros(len(marks)))


@dataclass(frozen=True, slots=True, eq=False)
class KeyedCounts:
    """One arm's requests with a key, of one tick that is closed.

    Attributes:
        rules: What counted.
        admitted: All, with their slots alone.
        ended: Those that ended before the close.
        blamed: Those of them whose fault was found out later, with `ERROR`, and `BAD` where that was news.
        replayed: Those of them that the baseline ran as well, with `ERROR` and `BAD` where it failed them, and `BAD`
            alone where it stalled.
    """

    rules: Rules
    admitted: Entries
    ended: Entries
    blamed: Entries
    replayed: Entries


class ArmMeter:
    """Counts one arm.

    Attributes:
        rules: What counts; takes effect with the next tick.
        counts: Of the present tick.
        baseline: What a canary is compared with; None for the baseline itself.
    """

    def __init__(self, rules: Rules, baseline: BaselineReplayer | None = None) -> None:
        self.rules = rules
        self.counts = TickCounts(rules)
        self.baseline = baseline
        self._warm: defaultdict[int, int] = defaultdict(int)

    def roll(self) -> TickCounts:
        """Starts the next tick's counts and returns the ones before."""
        last, self.counts = self.counts, TickCounts(self.rules)
        return last

    def admit(self, slot: int = NO_SLOT) -> tuple["ArmMeter", TickCounts, int]:
        """Counts a request that was routed here.

        Args:
            slot: Of its key; `NO_SLOT` without one.

        Returns:
            The meter, the counts that the request belongs to, and its slot, or `NO_SLOT` where that has no room.
        """
        counts = self.counts
        counts.admitted += 1
        if slot >= 0:
            if len(counts.slots) < ROOM:
                counts.slots.append(slot)
            else:
                slot = NO_SLOT
        return self, counts, slot

    def answered(self, counts: TickCounts, slot: int, took: float, batch: int, invalid: bool = False) -> bool:
        """Counts a request that got its answer.

        Args:
            counts: That it was admitted to.
            slot: As `admit` returned it.
            took: Seconds from its arrival.
            batch: Requests in its batch.
            invalid: There is NaN or infinity in an output.

        Returns:
            It was bad, and how the baseline does with it is worth knowing (`compare`).
        """
        counts.settled += 1
        if counts.closed:
            return False
        if batch > counts.largest_batch:
            counts.largest_batch = batch
        counts.latency[bisect_left(LATENCY_BOUNDS, took)] += 1
        marks = 0
        if self._warm[batch] < self.rules.warm_requests:
            self._warm[batch] += 1
            counts.untimed += 1
            marks = UNTIMED
        else:
            counts.passed[bisect_left(counts.thresholds, took)] += 1
            if took > counts.notable:
                marks = BAD
                if took > counts.late:
                    counts.errors += 1
                    marks = ERROR | BAD
        if invalid:
            counts.invalid += 1
            marks |= INVALID | BAD
        if slot >= 0:
            counts.keyed.add(slot | marks, took)
        if not marks & BAD:
            return False
        counts.bad += 1
        if marks & (ERROR | INVALID):
            counts.failed += 1
        return slot >= 0 and self.baseline is not None

    def compare(self, counts: TickCounts, slot: int, request: "FailedRequest") -> None:
        """Has the baseline run a request that was answered badly, so that it is known what its slot would get there.

        The answer counts as it is, whatever the baseline makes of it.
        """
        self._ask(_Question(counts, slot), request)

    def failed(
        self, counts: TickCounts, slot: int, took: float, code: str, error: BaseException, request: "FailedRequest"
    ) -> None:
        """Counts a request that ended otherwise.

        Args:
            counts: That it was admitted to.
            slot: As `admit` returned it.
            took: Seconds from its arrival; that its caller waited, where the deadline passed.
            code: Status code name that the error becomes.
            error: Why.
            request: What was asked.
        """
        counts.settled += 1
        if counts.closed:
            return
        passed, marks = bisect_left(counts.thresholds, took), failure_marks(code)
        given_up, expired = bool(marks & GIVEN_UP), marks == GIVEN_UP | ERROR
        excused, untimed = judge(expired, given_up, took < self.rules.client_timeout, not passed)
        fault = bool(marks & ERROR) and not excused
        if isinstance(error, InvalidTensor):
            fault = self.baseline is not None and self.baseline.accepts(request)
        late, marks = took > counts.late, 0
        if untimed:
            counts.untimed += 1  # it says nothing about how long the answer would have taken
            marks = UNTIMED
        else:
            counts.passed[passed] += 1
            if took > counts.rules.stalled:
                marks = BAD
        asked = not late and self._asked(counts, slot, marks, error, request, fault)
        if late or (fault and not asked):
            counts.errors += 1
            counts.failed += 1
            marks |= ERROR | BAD
        if marks & BAD:
            counts.bad += 1
            if slot >= 0 and not asked and self.baseline is not None and not isinstance(error, _ENDED):
                self.compare(counts, slot, request)
        if slot >= 0:
            counts.keyed.add(slot | marks, took)

    def _asked(
        self,
        counts: TickCounts,
        slot: int,
        marks: int,
        error: BaseException,
        request: "FailedRequest",
        otherwise: bool,
    ) -> bool:
        """Leaves the blame for a failed run to the baseline, which runs the request too; False if that is not done.

        `otherwise` is the blame if it cannot tell.
        """
        if self.baseline is None or not isinstance(error, _OF_A_RUN) or isinstance(error, _ENDED):
            return False
        return self._ask(_Failure(counts, slot, marks, otherwise), request)

    def _ask(self, question: "_Question", request: "FailedRequest") -> bool:
        """Has the baseline run a request; False if there is no room for it."""
        assert self.baseline is not None
        question.counts.asked.add(question)
        if self.baseline.ask(request, question.settle):
            return True
        question.counts.asked.discard(question)
        return False


@dataclass(slots=True, eq=False)
class _Question:
    """A request that went badly, which the baseline runs as well.

    Attributes:
        counts: That the request belongs to.
        slot: Of the request; `NO_SLOT` without one.
    """

    counts: TickCounts
    slot: int

    def settle(self, replayed: Replayed | None) -> None:
        """Takes what came of it on the baseline; None: that is not known."""
        if self not in self.counts.asked:
            return
        self.counts.asked.discard(self)
        if self.slot >= 0 and replayed is not None:
            failed = not replayed.answered or replayed.invalid
            stalled = replayed.seconds > self.counts.rules.stalled
            self.counts.replayed.append(self.slot | (ERROR | BAD if failed else BAD if stalled else 0))
        self.blame(replayed)

    def blame(self, replayed: Replayed | None) -> None:
        """Decides whose fault it was, where that is open."""


@dataclass(slots=True, eq=False)
class _Failure(_Question):
    """A failure of which the baseline is asked whether it would have answered.

    Attributes:
        marks: That the request has already.
        otherwise: Whether the server is to blame if the baseline does not say.
    """

    marks: int
    otherwise: bool

    def blame(self, replayed: Replayed | None) -> None:
        counts = self.counts
        if not (self.otherwise if replayed is None else replayed.answered):
            return
        news = 0 if self.marks & BAD else BAD
        counts.errors += 1
        counts.failed += 1
        counts.bad += bool(news)
        if self.slot >= 0:
            counts.blamed.append(self.slot | ERROR | news)


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
    """

    inputs: Mapping[str, Array]
    outputs: Sequence[str]
