"""Counts one request for rollouts: in the arms that it belongs to, and by slot in its version's history."""

from collections.abc import Sequence

from turnout.serving.batching.answer import BatchedAnswer
from turnout.serving.counting.arm_counts import ArmMeter, FailedRequest
from turnout.serving.counting.finite import all_finite
from turnout.serving.counting.keyed_outcomes import INVALID, NO_SLOT, KeyedLog
from turnout.serving.counting.tick_counts import TickCounts, failure_marks
from turnout.serving.data_plane.inference import InferenceRequest, Route

_NOBODY: Sequence[tuple[ArmMeter, TickCounts, int]] = ()


class CountedRequest:
    """A request that was admitted and must be counted when it ends."""

    __slots__ = ("_history", "_meters", "_slot")

    def __init__(self, route: Route, key: str) -> None:
        """Counts the request as admitted."""
        if key and route.slot is not None:
            self._slot = route.slot(key)
            self._history: KeyedLog | None = route.history
        else:
            self._slot = NO_SLOT
            self._history = None
        self._meters = _NOBODY
        if (arms := route.handle.arms) and (meters := arms.get(route.lane or route.role)):
            # More than one only if rollouts run side by side. A comprehension alone would double the cost.
            slot = self._slot
            self._meters = (meters[0].admit(slot),) if len(meters) == 1 else [m.admit(slot) for m in meters]

    def answered(self, request: InferenceRequest, took: float, answer: BatchedAnswer) -> None:
        """Counts an answer that took `took` seconds from the request's arrival."""
        slot = self._slot
        if self._meters:
            invalid, batch = not all_finite(answer.outputs), answer.batch_requests
            for meter, counts, known in self._meters:
                if meter.answered(counts, known, took, batch, invalid):
                    meter.compare(counts, known, FailedRequest(request.inputs, request.outputs))
            if invalid:
                slot |= INVALID
        if self._history is not None:
            self._history.add(slot, took)

    def failed(self, request: InferenceRequest, took: float, code: str, error: BaseException) -> None:
        """Counts a failure with the status code `code`, `took` seconds after the request's arrival."""
        if code == "DEADLINE_EXCEEDED" and request.deadline is not None:
            took = request.deadline - request.arrived  # no matter when that was noticed
        if self._meters:
            failure = FailedRequest(request.inputs, request.outputs)
            for meter, counts, known in self._meters:
                meter.failed(counts, known, took, code, error, failure)
        if self._history is not None:
            self._history.add(self._slot | failure_marks(code), took)
