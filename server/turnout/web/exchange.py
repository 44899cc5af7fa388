"""Inference requests over HTTP: the parts that all protocols have in common."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from turnout.admission.unread import LARGE_BYTES, CountedBytes, UnsentBudget, connection_of
from turnout.auth.caller import Caller
from turnout.errors import TurnoutError
from turnout.routing.request_metadata import NO_PREFERENCES, PreferenceReader, Preferences
from turnout.serving.data_plane.data_plane import DataPlane
from turnout.serving.data_plane.inference import InferenceExchange, InferenceRequest
from turnout.serving.inputs.limits import InputLimits
from turnout.telemetry.tracing.context import SpanContext, read
from turnout.telemetry.tracing.trace import Operation
from turnout.web.authorization import caller_of
from turnout.web.body import BodyReceiver, RequestBody
from turnout.web.errors import refusal_of, status_of

_OK = (200, False)

_MAX_PATH = 256

_MAX_REQUEST_ID = 128

_NOBODY_READS_IT = 499


class HttpExchange:
    """An HTTP request. Its headers and body are read before the data plane processes it.

    Attributes:
        operation: The method and route, for traces.
        arrived: `time.monotonic()` when the request arrived.
        model: Name of the model, from the path.
        selector: Version selector, from the path; "" if there is none.
        costly: Whether the response takes long to encode even if the outputs are small.
    """

    service = "http"
    deadline = None

    _unsent: UnsentBudget

    def __init__(self, request: Request, operation: Operation, request_id: str, limits: InputLimits) -> None:
        self.operation = operation
        self.arrived = time.monotonic()
        self.model: str = request.path_params["model"]
        self.selector: str = request.path_params.get("selector", "")
        self.request_id = request_id
        self.costly = False
        self.body = RequestBody((), 0, "identity", 0)
        self.preferences: Preferences = NO_PREFERENCES
        self.limits = limits
        self._request = request

    @property
    def details(self) -> tuple[tuple[str, str], ...]:
        """Trace attributes with the path."""
        return (("url.path", self._request.url.path[:_MAX_PATH]),)

    @property
    def caller(self) -> Caller | None:
        """The caller; None if authentication is off."""
        return caller_of(self._request.scope)

    @property
    def heavy(self) -> bool:
        """Whether to decode the body in a thread."""
        return self.body.heavy

    def parent(self) -> SpanContext | None:
        """Returns the caller's span; None if there is none."""
        return read(self._request.headers.items())

    async def receive(self, preferences: PreferenceReader, bodies: BodyReceiver, unsent: UnsentBudget) -> None:
        """Reads the headers and receives the body. A large response will be counted in `unsent`.

        Raises:
            InvalidRequest, PermissionDeniedError: As for `PreferenceReader.read` and `BodyReceiver.receive`.
            ClientDisconnect: The client disconnected before the body was complete.
        """
        self._unsent = unsent
        client = self._request.client
        host = client.host if client is not None else ""
        # As bytes: Starlette decodes values as Latin-1, but keys are UTF-8 in every protocol.
        pairs = ((name.decode("latin-1"), value) for name, value in self._request.headers.raw)
        self.preferences = preferences.read(pairs, lambda: host)
        self.body = await bodies.receive(self._request)

    def counted(self, response: Response) -> Response:
        """Counts a response in the budget of unsent answers if it is large. Raises Exhausted if that has no room."""
        if (size := len(response.body)) > LARGE_BYTES:
            unsent = self._unsent.reserve(connection_of(self._request.scope), size)
            response.body = CountedBytes.of(bytes(response.body), unsent)
        return response

    def refusal(self, request: InferenceRequest, error: TurnoutError) -> Response:
        """Returns the response for an error."""
        return refusal_of(self._request.url.path, error, request.request_id)

    def outcome(self, error: BaseException | None) -> tuple[int, bool]:
        """Returns the HTTP status for an error (None for success), and whether the server is at fault."""
        if error is None:
            return _OK
        status = int(status_of(error)) if isinstance(error, TurnoutError) else 500
        return status, status >= 500


class HttpRequest(InferenceExchange[Response], Protocol):
    """The exchange of a request in one of the HTTP protocols. `HttpExchange` is the common base class."""

    async def receive(self, preferences: PreferenceReader, bodies: BodyReceiver, unsent: UnsentBudget) -> None:
        """Receives the request. Raises the errors of `HttpExchange.receive`."""
        ...


@dataclass(frozen=True, slots=True)
class HttpInference:
    """Runs inference requests. Those without an id get a new one."""

    plane: DataPlane
    preferences: PreferenceReader
    bodies: BodyReceiver
    unsent: UnsentBudget
    new_request_id: Callable[[], str]

    def route(self, path: str, exchange: Callable[[Request, Operation, str], HttpRequest]) -> Route:
        """Returns a route for inference requests.

        The path has `{model}` and, optionally, `{selector}`. `exchange` takes a request, its operation and its id.
        """
        operation = Operation.http("POST", path)

        async def infer(request: Request) -> Response:
            request_id = request.headers.get("x-request-id", "")[:_MAX_REQUEST_ID] or self.new_request_id()
            return await self._answer(exchange(request, operation, request_id))

        return Route(path, infer, methods=["POST"])

    async def _answer(self, exchange: HttpRequest) -> Response:
        try:
            await exchange.receive(self.preferences, self.bodies, self.unsent)
        except ClientDisconnect:
            return Response(status_code=_NOBODY_READS_IT)
        except TurnoutError as error:
            return self.plane.refuse(exchange, error)
        return await self.plane.answer(exchange)
