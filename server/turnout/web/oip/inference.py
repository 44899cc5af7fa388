"""Inference requests over HTTP: read, handed to the data plane, answered."""

from collections.abc import Callable, Iterable, Mapping

from starlette.requests import Request
from starlette.responses import Response

from turnout.errors import TurnoutError
from turnout.oip.exchange import LOGGED_ID, answered, request_of
from turnout.serving.inference import InferenceRequest, InferenceResult, Route
from turnout.serving.limits import InputLimits
from turnout.telemetry.tracing.trace import Operation
from turnout.web.exchange import HttpExchange
from turnout.web.oip.answers import error_answer, inference_answer
from turnout.web.oip.requests import (
    HEADER_LENGTH,
    BinaryWish,
    Body,
    open_body,
    read_inputs,
    read_outputs,
    read_parameters,
    read_wish,
)

RouteHeaders = Callable[[Route], Iterable[tuple[str, str]]]


class RestExchange(HttpExchange):
    """One request and its answer."""

    def __init__(
        self, route_headers: RouteHeaders, limits: InputLimits, request: Request, operation: Operation, request_id: str
    ) -> None:
        """Prepares; nothing is read yet. `route_headers` returns the headers that say who answers, and why."""
        super().__init__(request, operation, request_id, limits)
        self._header_length = request.headers.get(HEADER_LENGTH)
        self._route_headers = route_headers
        self._opened: Body | None = None
        self._classes: Mapping[str, int] = {}
        self._wish = BinaryWish({}, False)

    def read(self) -> None:
        """Reads the body's JSON. Raises as `open_body`."""
        if self._opened is None:
            self._opened = open_body(self.body.plain(), self._header_length, self.limits)
            self.request_id = self._opened.request_id[:LOGGED_ID] or self.request_id

    def envelope(self) -> InferenceRequest:
        """Returns what is known of a request that could not be decoded."""
        return InferenceRequest(self.model, self.selector, {}, request_id=self.request_id, arrived=self.arrived)

    def decode(self) -> InferenceRequest:
        """Returns the request. Raises as `open_body`, `read_inputs`, `read_outputs` and `request_of`."""
        self.read()
        body = self._opened
        assert body is not None
        outputs, parameters = read_outputs(body), read_parameters(body)
        self._wish = read_wish(outputs, parameters)
        request, self._classes = request_of(
            model=self.model,
            selector=self.selector,
            request_id=body.request_id,
            logged_id=self.request_id,
            inputs=read_inputs(body),
            outputs=outputs,
            parameters=parameters,
            arrived=self.arrived,
            deadline=None,
            preferences=self.preferences,
            limits=self.limits,
        )
        self.costly = bool(self._classes)
        return request

    def encode(self, request: InferenceRequest, result: InferenceResult) -> Response:
        """Returns the answer. Raises as `answered` and `inference_answer`."""
        assert self._opened is not None
        headers = dict(self._route_headers(result.route))
        outputs = answered(result, self._classes, self.limits)
        return inference_answer(request, self._opened.request_id, result.route, outputs, self._wish, headers)

    def refusal(self, request: InferenceRequest, error: TurnoutError) -> Response:
        """Returns an error."""
        return error_answer(error, request.request_id)
