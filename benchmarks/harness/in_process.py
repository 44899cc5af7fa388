"""Requests that are passed directly to the data plane, without a protocol."""

import time
from collections.abc import Mapping
from typing import NoReturn

from turnout.errors import TurnoutError
from turnout.serving.data_plane.inference import InferenceRequest, InferenceResult
from turnout.serving.sessions.tensor import Array
from turnout.telemetry.tracing.trace import Operation

_OPERATION = Operation("in process", (), "status")


class InProcess:
    """The exchange of one request; implements `turnout.serving.data_plane.inference.InferenceExchange`."""

    service = "in process"
    operation = _OPERATION
    details = ()
    caller = None
    deadline = None
    heavy = False
    costly = False

    def __init__(self, model: str, selector: str, inputs: Mapping[str, Array]) -> None:
        """Creates a request for a version of a model, with inputs by name."""
        self._request = InferenceRequest(model, selector, inputs, request_id="in process", arrived=time.monotonic())

    def parent(self) -> None:
        """Returns None, for no span."""

    def read(self) -> None:
        """Does nothing."""

    def envelope(self) -> InferenceRequest:
        """Returns the request."""
        return self._request

    def decode(self) -> InferenceRequest:
        """Returns the request."""
        return self._request

    def encode(self, request: InferenceRequest, result: InferenceResult) -> InferenceResult:
        """Returns the result unchanged."""
        return result

    def refusal(self, request: InferenceRequest, error: TurnoutError) -> NoReturn:
        """Raises the error."""
        raise error

    def outcome(self, error: BaseException | None) -> tuple[str, bool]:
        """Returns an empty status, since nothing is traced."""
        return "", False
