"""Requests that are handed to the data plane as they are, as those of no protocol."""

import time
from collections.abc import Mapping
from typing import NoReturn

from turnout.errors import TurnoutError
from turnout.serving.data_plane.inference import InferenceRequest, InferenceResult
from turnout.serving.sessions.tensor import Array
from turnout.telemetry.tracing.trace import Operation

_OPERATION = Operation("in process", (), "status")


class InProcess:
    """One request and its answer; implements `turnout.serving.data_plane.inference.InferenceExchange`."""

    service = "in process"
    operation = _OPERATION
    details = ()
    caller = None
    deadline = None
    heavy = False
    costly = False

    def __init__(self, model: str, selector: str, inputs: Mapping[str, Array]) -> None:
        """Prepares a request for a model's version, with its inputs by name."""
        self._request = InferenceRequest(model, selector, inputs, request_id="in process", arrived=time.monotonic())

    def parent(self) -> None:
        """Returns no span."""

    def read(self) -> None:
        """Does nothing."""

    def envelope(self) -> InferenceRequest:
        """Returns the request."""
        return self._request

    def decode(self) -> InferenceRequest:
        """Returns the request."""
        return self._request

    def encode(self, request: InferenceRequest, result: InferenceResult) -> InferenceResult:
        """Returns the answer as it is."""
        return result

    def refusal(self, request: InferenceRequest, error: TurnoutError) -> NoReturn:
        """Raises the error."""
        raise error

    def outcome(self, error: BaseException | None) -> tuple[str, bool]:
        """Returns what no trace shows."""
        return "", False
