"""Counts the outcomes of requests to each arm of a rollout, exactly and on the serving path.

A request is counted in the tick in which it was admitted, whenever it ends, so that changes of traffic weights between
the two arms cancel out. A request with a routing key is also logged by slot, which costs two appends; the logs are read
at the end of the tick. Used on the event loop only.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from turnout.errors import InputsRefused, InvalidTensor, MemoryBudgetExceeded, ModelCrashed, ModelFailure, ModelTimedOut
from turnout.serving.counting.keyed_outcomes import BAD, ERROR, GIVEN_UP, INVALID, NO_SLOT, ROOM, UNTIMED, judge
from turnout.serving.counting.tick_counts import (
    BaselineQuestion,
    FailureQuestion,
    Replayed,
    Rules,
    TickCounts,
    failure_marks,
)
from turnout.serving.sessions.tensor import Array
from turnout.telemetry.histogram import LATENCY_BOUNDS

if TYPE_CHECKING:  # it runs requests on a version, whose handle has meters
    from turnout.serving.data_plane.replay import ReplayedBaseline

_OF_A_RUN = (InputsRefused, ModelFailure, MemoryBudgetExceeded)
"""Errors of a run on which another version might succeed."""

_ENDED = (ModelCrashed, ModelTimedOut)
"""Errors that ended a process or a run; such requests are not tried on the baseline."""

Settle = Callable[[Replayed | None], None]
"""Receives the result of a request on the baseline; None if it is not known."""


class ArmMeter:
    """Counts the requests of one arm. A change of its `rules` takes effect with the next tick.

    A canary is compared with its `baseline`, which is None for the baseline itself.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.counts = TickCounts(rules)
        self.baseline: ReplayedBaseline | None = None
        self._warm: defaultdict[int, int] = defaultdict(int)

    def roll(self) -> TickCounts:
        """Starts a new tick and returns the counts of the last one."""
        last, self.counts = self.counts, TickCounts(self.rules)
        self.counts.follow(last)
        return last

    def admit(self, slot: int = NO_SLOT) -> tuple["ArmMeter", TickCounts, int]:
        """Counts a request that was routed to this arm.

        Returns the meter, the counts that the request belongs to, and its slot (`NO_SLOT` if the log is full).
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
        """Counts a request that was answered; returns whether the answer was bad and is to be compared (see `compare`).

        `counts` and `slot` are from `admit`; it took `took` seconds from its arrival, in a batch of `batch` requests.
        `invalid` means that an output contains NaN or infinity.
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
            counts.take(bisect_left(counts.thresholds, took))
            if took > counts.notable:
                marks = BAD
                if took > counts.late:
                    counts.errors += 1
                    marks = ERROR | BAD
        if invalid:
            counts.invalid += 1
            counts.invalid_runs.add()
            marks |= INVALID | BAD
        if marks & ERROR:
            counts.error_runs.add()
        elif counts.error_runs.present.length:
            counts.error_runs.end()
        if counts.invalid_runs.present.length and not invalid:
            counts.invalid_runs.end()
        if slot >= 0:
            counts.keyed.add(slot | marks, took)
        if not marks & BAD:
            return False
        counts.bad += 1
        if marks & (ERROR | INVALID):
            counts.failed += 1
        return slot >= 0 and self.baseline is not None

    def compare(self, counts: TickCounts, slot: int, request: "FailedRequest") -> None:
        """Runs a badly answered request on the baseline, to learn what its slot would have got there.

        The request's own outcome is counted regardless of the result.
        """
        self._ask(BaselineQuestion(counts, slot), request)

    def failed(
        self, counts: TickCounts, slot: int, took: float, code: str, error: BaseException, request: "FailedRequest"
    ) -> None:
        """Counts a request that was not answered.

        `counts` and `slot` are from `admit`. It took `took` seconds from its arrival; if the deadline passed, as long
        as the caller waited. `code` is the status code of the error.
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
            counts.untimed += 1  # it shows nothing about how long the answer would have taken
            marks = UNTIMED
        else:
            counts.take(passed)
            if took > counts.rules.stalled:
                marks = BAD
        asked = (  # another version might succeed, and the baseline decides who is to blame
            not late
            and self.baseline is not None
            and isinstance(error, _OF_A_RUN)
            and not isinstance(error, _ENDED)
            and self._ask(FailureQuestion(counts, slot, marks, fault), request)
        )
        if late or fault or asked:
            counts.error_runs.add()
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

    def _ask(self, question: "BaselineQuestion", request: "FailedRequest") -> bool:
        """Schedules a request on the baseline; returns False if the queue is full."""
        assert self.baseline is not None
        question.counts.asked.add(question)
        if self.baseline.ask(request, question.settle):
            return True
        question.counts.asked.discard(question)
        return False


Arms = dict[str, tuple[ArmMeter, ...]]
"""Meters that count a version's requests, by the way in which they reach it: a role, or a lane for the baseline."""


def attach(arms: Arms, part: str, meter: ArmMeter) -> None:
    """Starts counting the requests of `part` with `meter`."""
    if meter not in arms.get(part, ()):
        arms[part] = (*arms.get(part, ()), meter)


def detach(arms: Arms, part: str, meter: ArmMeter) -> None:
    """Stops counting the requests of `part` with `meter`; requests in progress are still counted."""
    left = tuple(m for m in arms.pop(part, ()) if m is not meter)
    if left:
        arms[part] = left


@dataclass(frozen=True, slots=True)
class FailedRequest:
    """A request that failed or was answered badly, as the baseline needs it."""

    inputs: Mapping[str, Array]
    outputs: Sequence[str]
