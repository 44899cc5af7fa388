"""What one arm's requests of one tick came to, and how the blame for a failed one is settled."""

import math
from array import array
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from turnout.serving.counting.keyed_outcomes import (
    BAD,
    ERROR,
    GIVEN_UP,
    Entries,
    KeyedLog,
)
from turnout.serving.counting.run_lengths import RunLengths

SERVER_FAULTS = frozenset(
    {"INTERNAL", "UNKNOWN", "DATA_LOSS", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED"}
)
"""Codes that the caller has no part in."""

LATE_SECONDS = 2.0
"""A request that takes longer than this, and than every threshold, is an error whatever comes of it."""

LATE_UNTIMED_SECONDS = 10.0
"""The same if no threshold is known."""


def failure_marks(code: str) -> int:
    """Returns what the code of a failed request says: `ERROR`, `GIVEN_UP`, both or neither (`keyed_outcomes.judge`)."""
    if code == "DEADLINE_EXCEEDED":
        return GIVEN_UP | ERROR
    if code == "CANCELLED":
        return GIVEN_UP
    return ERROR if code in SERVER_FAULTS else 0


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
        slow_runs: By threshold, runs of requests that passed it.
        error_runs, invalid_runs: Runs of errors, and of invalid answers.
        latest: Thresholds that the request which ended last passed.
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
    slow_runs: list[RunLengths] = field(default_factory=list)
    error_runs: RunLengths = field(default_factory=RunLengths)
    invalid_runs: RunLengths = field(default_factory=RunLengths)
    latest: int = 0
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
        """Requests that have not ended."""
        return self.admitted - self.settled

    def slow(self, index: int) -> int:
        """Returns how many requests passed a threshold; those still under way at the close are among them."""
        return sum(self.passed[index + 1 :]) + self.unsettled

    def take(self, passed: int) -> None:
        """Counts a request that passed so many thresholds."""
        self.passed[passed] += 1
        for runs in self.slow_runs[:passed]:
            runs.add()
        for runs in self.slow_runs[passed : self.latest]:
            runs.end()
        self.latest = passed

    def follow(self, before: "TickCounts") -> None:
        """Goes on with the runs of the tick before, if what counts is still the same."""
        if self.rules == before.rules:
            self.slow_runs = [runs.carried_on() for runs in before.slow_runs]
            self.latest = before.latest
        self.error_runs, self.invalid_runs = before.error_runs.carried_on(), before.invalid_runs.carried_on()

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
        if unsettled := self.unsettled:  # they wait together
            for runs in (self.error_runs, *self.slow_runs):
                runs.add(unsettled)
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
        blamed: Those of them whose fault was found out later, with `ERROR`, and `BAD` if that was news.
        replayed: Those of them that the baseline ran as well, with `ERROR` and `BAD` where it failed them, and `BAD`
            alone where it stalled.
    """

    rules: Rules
    admitted: Entries
    ended: Entries
    blamed: Entries
    replayed: Entries


@dataclass(slots=True, eq=False)
class BaselineQuestion:
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
class FailureQuestion(BaselineQuestion):
    """A failure of which the baseline is asked whether it would have answered.

    Attributes:
        marks: That the request has already.
        otherwise: Whether the server is to blame if the baseline does not say.
    """

    marks: int
    otherwise: bool

    def blame(self, replayed: Replayed | None) -> None:
        """Blames the server where the baseline answered, or does not say and the failure looks like the server's."""
        counts = self.counts
        if not (self.otherwise if replayed is None else replayed.answered):
            return
        news = 0 if self.marks & BAD else BAD
        counts.errors += 1
        counts.failed += 1
        counts.bad += bool(news)
        if self.slot >= 0:
            counts.blamed.append(self.slot | ERROR | news)
