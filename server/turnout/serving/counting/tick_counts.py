"""Counts of one arm's requests in one tick, and how blame for a failed request is settled with the baseline."""

import math
from array import array
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from turnout.serving.counting.keyed_outcomes import BAD, ERROR, GIVEN_UP, Entries, KeyedLog
from turnout.serving.counting.run_lengths import RunLengths

SERVER_FAULTS = frozenset(
    {"INTERNAL", "UNKNOWN", "DATA_LOSS", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED"}
)
"""Status codes of failures for which the caller is not responsible."""

LATE_SECONDS = 2.0
"""A request that takes longer than this and than every threshold is an error, whatever its outcome."""

LATE_UNTIMED_SECONDS = 10.0
"""The same limit if no thresholds are known."""


def failure_marks(code: str) -> int:
    """Returns the marks for a failed request's code: `ERROR`, `GIVEN_UP`, both or none (see `keyed_outcomes.judge`)."""
    if code == "DEADLINE_EXCEEDED":
        return GIVEN_UP | ERROR
    if code == "CANCELLED":
        return GIVEN_UP
    return ERROR if code in SERVER_FAULTS else 0


@dataclass(frozen=True, slots=True)
class Replayed:
    """The result of a request on the baseline. An answer with NaN or infinity is invalid."""

    answered: bool
    invalid: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules for counting requests.

    Attributes:
        thresholds: Latency thresholds in seconds, ascending.
        client_timeout: The baseline's p50 in seconds. A caller who waits for less is responsible for its own timeout.
        warm_requests: Number of first requests of each batch size that are left out of latency counts.
        stalled: Latency in seconds beyond which a request is bad for the circuit breaker.
    """

    thresholds: tuple[float, ...] = ()
    client_timeout: float = 0.0
    warm_requests: int = 20
    stalled: float = math.inf

    @property
    def late(self) -> float:
        """Seconds beyond which a request is an error, whatever its outcome."""
        return max(self.thresholds[-1], LATE_SECONDS) if self.thresholds else LATE_UNTIMED_SECONDS


@dataclass(slots=True, eq=False)
class LastEnded:
    """The request of an arm that ended last, in whichever tick it was admitted."""

    passed: int = 0  # number of thresholds that it exceeded


@dataclass(slots=True, eq=False)
class TickCounts:
    """Counts of one arm's requests in one tick.

    Attributes:
        notable: Seconds beyond which a request is examined further: the lesser of `late` and `rules.stalled`.
        untimed: Requests left out of latency counts: warm-up, and callers who waited for less than the baseline takes.
        errors: Requests for whose failure the server is to blame.
        invalid: Answers with NaN or infinity in an output.
        failed: Requests that are errors or invalid.
        bad: Requests that failed or stalled.
        passed: Number of requests by the number of thresholds that they exceeded.
        slow_runs: Run lengths of requests that exceeded a threshold, by threshold.
        error_runs, invalid_runs: Run lengths of errors and of invalid answers.
        latency: Answers by bucket of `LATENCY_BOUNDS`, for display only; no decision uses it.
        slots: Slots of admitted requests with a key, in order of admission.
        keyed: Log of those requests that ended.
        blamed: Requests with a key whose failure was found to be the server's fault after they had ended.
        replayed: Requests with a key that the baseline also ran, with marks for its result.
        asked: Requests that the baseline has yet to run.
        closed: Whether requests that end from now on are no longer counted.
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
    slow_runs: list[RunLengths] = field(default_factory=list)
    error_runs: RunLengths = field(default_factory=RunLengths)
    invalid_runs: RunLengths = field(default_factory=RunLengths)
    last: LastEnded = field(default_factory=LastEnded)
    latency: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    largest_batch: int = 1
    slots: "array[int]" = field(default_factory=lambda: array("H"))
    keyed: KeyedLog = field(default_factory=KeyedLog)
    blamed: "array[int]" = field(default_factory=lambda: array("I"))
    replayed: "array[int]" = field(default_factory=lambda: array("I"))
    asked: "set[BaselineQuestion]" = field(default_factory=set)
    closed: bool = False

    def __post_init__(self) -> None:
        self.thresholds, self.late = self.rules.thresholds, self.rules.late
        self.notable = min(self.late, self.rules.stalled)
        self.passed = [0] * (len(self.rules.thresholds) + 1)
        self.slow_runs = [RunLengths() for _ in self.rules.thresholds]

    @property
    def unsettled(self) -> int:
        """Number of requests that have not ended."""
        return self.admitted - self.settled

    def slow(self, index: int) -> int:
        """Returns how many requests exceeded a threshold, including those that have not ended."""
        return sum(self.passed[index + 1 :]) + self.unsettled

    def take(self, passed: int) -> None:
        """Counts a request that exceeded the first `passed` thresholds."""
        self.passed[passed] += 1
        for runs in self.slow_runs[:passed]:
            runs.add()
        for runs in self.slow_runs[passed : self.last.passed]:
            runs.end()
        self.last.passed = passed

    def follow(self, before: "TickCounts") -> None:
        """Continues the runs of the previous tick; those of slow requests only if the rules are the same."""
        if self.rules == before.rules:
            self.slow_runs = [runs.carried_on() for runs in before.slow_runs]
            self.last = before.last
        self.error_runs, self.invalid_runs = before.error_runs.carried_on(), before.invalid_runs.carried_on()

    @property
    def timed(self) -> int:
        """Number of requests included in latency counts."""
        return self.admitted - self.untimed

    def close(self) -> "KeyedCounts":
        """Stops counting, and returns the requests with a key.

        Requests that have not ended count as late; pending baseline runs count as without a result.
        """
        for question in list(self.asked):
            question.settle(None)
        self.closed = True
        if unsettled := self.unsettled:  # they are consecutive
            for runs in (self.error_runs, *self.slow_runs):
                runs.add(unsettled)
            self.last.passed = len(self.thresholds)
        self.errors += self.unsettled
        self.failed += self.unsettled
        self.bad += self.unsettled
        admitted, blamed, replayed = (
            Entries(np.asarray(marks, np.uint32), np.zeros(len(marks)))
            for marks in (self.slots, self.blamed, self.replayed)
        )
        return KeyedCounts(self.rules, admitted, self.keyed.taken(), blamed, replayed)


@dataclass(frozen=True, slots=True, eq=False)
class KeyedCounts:
    """One arm's requests with a key in a closed tick.

    Attributes:
        admitted: All admitted requests, with slots only.
        ended: Requests that ended before the tick closed.
        blamed: Ended requests that were blamed on the server later, marked `ERROR`, and `BAD` if they had not been bad.
        replayed: Ended requests that the baseline also ran, marked `ERROR` and `BAD` if they failed there, `BAD` if
            they stalled there.
    """

    rules: Rules
    admitted: Entries
    ended: Entries
    blamed: Entries
    replayed: Entries


@dataclass(slots=True, eq=False)
class BaselineQuestion:
    """A badly answered request that the baseline runs as well. Its slot is `NO_SLOT` if it has none."""

    counts: TickCounts
    slot: int

    def settle(self, replayed: Replayed | None) -> None:
        """Records the baseline's result; None if there is none."""
        if self not in self.counts.asked:
            return
        self.counts.asked.discard(self)
        if self.slot >= 0 and replayed is not None:
            failed = not replayed.answered or replayed.invalid
            stalled = replayed.seconds > self.counts.rules.stalled
            self.counts.replayed.append(self.slot | (ERROR | BAD if failed else BAD if stalled else 0))
        self.blame(replayed)

    def blame(self, replayed: Replayed | None) -> None:
        """Decides who is to blame for the failure, if that is open."""


@dataclass(slots=True, eq=False)
class FailureQuestion(BaselineQuestion):
    """A failed request for which the baseline decides whether the server is to blame.

    `otherwise` says whether the server is to blame if the baseline gives no result.
    """

    marks: int
    otherwise: bool

    def blame(self, replayed: Replayed | None) -> None:
        """Blames the server if the baseline answered, or if it gave no result and `otherwise` is set."""
        counts = self.counts
        if not (self.otherwise if replayed is None else replayed.answered):
            return
        news = 0 if self.marks & BAD else BAD
        counts.errors += 1
        counts.failed += 1
        counts.bad += bool(news)
        if self.slot >= 0:
            counts.blamed.append(self.slot | ERROR | news)
