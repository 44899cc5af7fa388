"""Counts, exactly and in the serving path, what two versions' requests came to: the counts a rollout decides by.

A request belongs to the counts of the tick in which it was admitted, whenever it ends, so that a change of weights
between the two cancels. A request with a routing key is logged by slot as well, which costs two appends; reading the
logs is left to the end of the tick. Used on the event loop only.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

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
    judge,
)
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

_OF_A_RUN = (InputsRefused, ModelFailure, MemoryBudgetExceeded)
"""What the model did with a request, if another version may do better."""

_ENDED = (ModelCrashed, ModelTimedOut)
"""What ended a process or a run: it is not tried on the baseline."""

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
        self.counts.follow(last)
        return last

    def admit(self, slot: int = NO_SLOT) -> tuple["ArmMeter", TickCounts, int]:
        """Counts a request that was routed here.

        Args:
            slot: Of its key; `NO_SLOT` without one.

        Returns:
            The meter, the counts that the request belongs to, and its slot, or `NO_SLOT` if that has no room.
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
        elif counts.error_runs.present:
            counts.error_runs.end()
        if counts.invalid_runs.present and not invalid:
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
        """Has the baseline run a request that was answered badly, so that it is known what its slot would get there.

        The answer counts as it is, whatever the baseline makes of it.
        """
        self._ask(BaselineQuestion(counts, slot), request)

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
            counts.take(passed)
            if took > counts.rules.stalled:
                marks = BAD
        asked = not late and self._asked(counts, slot, marks, error, request, fault)
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
        return self._ask(FailureQuestion(counts, slot, marks, otherwise), request)

    def _ask(self, question: "BaselineQuestion", request: "FailedRequest") -> bool:
        """Has the baseline run a request; False if there is no room for it."""
        assert self.baseline is not None
        question.counts.asked.add(question)
        if self.baseline.ask(request, question.settle):
            return True
        question.counts.asked.discard(question)
        return False


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
