"""The data plane where requests are traced: it notes who asked, and when each was routed."""

import time

from turnout.errors import TurnoutError
from turnout.serving.inference import Inference, InferenceRequest, Route
from turnout.telemetry.tracing.trace import current


class TracedInference(Inference):
    """Answers requests, and notes on the trace of each how it went."""

    def refuse(self, request: InferenceRequest, error: TurnoutError) -> None:
        """Counts and logs a request that reached no version, such as one that could not be decoded."""
        trace = request.trace = current.get()
        if trace is not None and not trace.routing:
            trace.note_request(request)
        super().refuse(request, error)

    def _route(self, request: InferenceRequest) -> Route:
        trace = request.trace = current.get()
        if trace is None or not trace.sampled:
            return super()._route(request)
        if not trace.routing:
            trace.note_request(request)
        trace.routing = trace.routed = time.monotonic()
        try:
            return super()._route(request)
        finally:
            trace.routed = time.monotonic()
