"""Inference requests over HTTP, whatever their protocol."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from turnout.auth.caller import Caller
from turnout.errors import TurnoutError
from turnout.routing.request_metadata import NO_PREFERENCES, PreferenceReader, Preferences
from turnout.serving.data_plane.data_plane import DataPlane
from turnout.serving.data_plane.inference import InferenceExchange
from turnout.serving.inputs.limits import InputLimits
from turnout.telemetry.tracing.context import SpanContext, read
from turnout.telemetry.tracing.trace import Operation
from turnout.web.authorization import caller_of
from turnout.web.body import BodyReceiver, RequestBody
from turnout.web.errors import status_of

_OK = (200, False)

_MAX_PATH = 256

_MAX_REQUEST_ID = 128

_NOBODY_READS_IT = 499


class HttpExchange:
    """One request over HTTP. Its body is received, and its headers are read, before it is handed to the data plane.

    Attributes:
        operation: Its name in traces.
        arrived: `time.monotonic()` when it arrived.
        request_id: Names it in logs.
        costly: Whether its answer takes long to encode even if the outputs are small.
        preferences: What its headers ask for.
        limits: On its size and contents.
    """

    service = "http"
    deadline = None

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
        """The path, for traces."""
        return (("url.path", self._request.url.path[:_MAX_PATH]),)

    @property
    def caller(self) -> Caller | None:
        """Who calls."""
        return caller_of(self._request.scope)

    @property
    def heavy(self) -> bool:
        """Whether to read the body in a thread."""
        return self.body.heavy

    def parent(self) -> SpanContext | None:
        """Returns the caller's span."""
        return read(self._request.headers.items())

    async def receive(self, preferences: PreferenceReader, bodies: BodyReceiver) -> None:
        """Reads the headers and receives the body.

        Raises:
            InvalidRequest, PermissionDeniedError: As `PreferenceReader.read` and `BodyReceiver.receive`.
            ClientDisconnect: The client left before the body was complete.
        """
        client = self._request.client
        host = client.host if client is not None else ""
        self.preferences = preferences.read(self._request.headers.items(), lambda: host)
        self.body = await bodies.receive(self._request)

    def outcome(self, error: BaseException | None) -> tuple[int, bool]:
        """Returns the status, and whether it is the server's fault."""
        if error is None:
            return _OK
        status = int(status_of(error)) if isinstance(error, TurnoutError) else 500
        return status, status >= 500


class HttpRequest(InferenceExchange[Response], Protocol):
    """A request over HTTP in one of the protocols; `HttpExchange` is their common part."""

    async def receive(self, preferences: PreferenceReader, bodies: BodyReceiver) -> None:
        """Receives the request. Raises as `HttpExchange.receive`."""
        ...


@dataclass(frozen=True, slots=True)
class HttpInference:
    """Runs requests."""

    plane: DataPlane
    preferences: PreferenceReader
    bodies: BodyReceiver
    new_request_id: Callable[[], str]

    def route(self, path: str, exchange: Callable[[Request, Operation, str], HttpRequest]) -> Route:
        """Returns a route; its path has `{model}`, and may have `{selector}`."""
        operation = Operation.http("POST", path)

        async def infer(request: Request) -> Response:
            request_id = request.headers.get("x-request-id", "")[:_MAX_REQUEST_ID] or self.new_request_id()
            return await self._answer(exchange(request, operation, request_id))

        return Route(path, infer, methods=["POST"])

    async def _answer(self, exchange: HttpRequest) -> Response:
        try:
            await exchange.receive(self.preferences, self.bodies)
        except ClientDisconnect:
            return Response(status_code=_NOBODY_READS_IT)
        except TurnoutError as error:
            return self.plane.refuse(exchange, error)
        return await self.plane.answer(exchange)
