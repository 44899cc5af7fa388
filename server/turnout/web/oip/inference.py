"""The exchange of an inference request over HTTP: decodes the request and encodes the response."""

from collections.abc import Callable, Iterable

from starlette.requests import Request
from starlette.responses import Response

from turnout.oip.exchange import LOGGED_ID, NOTHING_SPECIAL, answered, request_of
from turnout.oip.extensions.shared_memory import SharedMemory
from turnout.serving.data_plane.inference import InferenceRequest, InferenceResult, Route
from turnout.serving.inputs.limits import InputLimits
from turnout.telemetry.tracing.trace import Operation
from turnout.web.exchange import HttpExchange
from turnout.web.oip.answers import inference_answer
from turnout.web.oip.requests import (
    HEADER_LENGTH,
    BinaryOutputs,
    InferenceBody,
    open_body,
    read_binary_outputs,
    read_inputs,
    read_outputs,
    read_parameters,
)

RouteHeaders = Callable[[Route], Iterable[tuple[str, str]]]


class RestExchange(HttpExchange):
    """The exchange of one inference request."""

    def __init__(
        self,
        route_headers: RouteHeaders,
        limits: InputLimits,
        memory: SharedMemory,
        request: Request,
        operation: Operation,
        request_id: str,
    ) -> None:
        """Creates the exchange without reading the body. The client may send another id than `request_id`."""
        super().__init__(request, operation, request_id, limits)
        lengths = request.headers.getlist(HEADER_LENGTH)
        self._header_length = ", ".join(lengths) if lengths else None  # several are no number, and refused
        self._route_headers = route_headers
        self._memory = memory
        self._opened: InferenceBody | None = None
        self._wanted = NOTHING_SPECIAL
        self._binary = BinaryOutputs({}, False)

    @property
    def heavy(self) -> bool:
        """Whether to decode in a thread: if the body is large, or tensors must be copied from shared memory."""
        return self.body.heavy or self._memory.mentioned_in(b"".join(self.body.parts))

    def read(self) -> None:
        """Parses the body's JSON. Raises the errors of `open_body`."""
        if self._opened is None:
            self._opened = open_body(self.body.plain(), self._header_length, self.limits)
            self.request_id = self._opened.request_id[:LOGGED_ID] or self.request_id

    def envelope(self) -> InferenceRequest:
        """Returns the known parts of a request that could not be decoded."""
        return InferenceRequest(self.model, self.selector, {}, request_id=self.request_id, arrived=self.arrived)

    def decode(self) -> InferenceRequest:
        """Returns the request. Raises the errors of `open_body`, `read_inputs`, `read_outputs` and `request_of`."""
        self.read()
        body = self._opened
        assert body is not None
        outputs, parameters = read_outputs(body), read_parameters(body)
        memory = self._memory.of(self.caller)
        self._binary = read_binary_outputs(outputs, parameters)
        request, self._wanted = request_of(
            model=self.model,
            selector=self.selector,
            request_id=body.request_id,
            logged_id=self.request_id,
            inputs=read_inputs(body, memory),
            outputs=outputs,
            parameters=parameters,
            arrived=self.arrived,
            deadline=None,
            preferences=self.preferences,
            limits=self.limits,
            memory=memory,
        )
        self.costly = any(self._wanted)
        return request

    def encode(self, request: InferenceRequest, result: InferenceResult) -> Response:
        """Returns the response. Raises the errors of `answered`, `inference_answer` and `counted`."""
        assert self._opened is not None
        headers = dict(self._route_headers(result.route))
        classes, windows = self._wanted
        outputs, request_id = answered(result, classes, self.limits), self._opened.request_id
        return self.counted(
            inference_answer(request, request_id, result.route, outputs, windows, self._binary, headers)
        )
