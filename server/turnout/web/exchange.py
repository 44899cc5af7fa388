"""What every inference request over HTTP has in common, whatever its protocol."""

import time

from starlette.requests import Request

from turnout.errors import TurnoutError
from turnout.routing.preferences import NO_PREFERENCES, PreferenceReader, Preferences
from turnout.serving.limits import InputLimits
from turnout.telemetry.tracing.context import SpanContext, read
from turnout.telemetry.tracing.trace import Operation
from turnout.web.body import Body, BodyReceiver
from turnout.web.errors import status_of

_OK = (200, False)

_MAX_PATH = 256


class HttpExchange:
    """One request over HTTP. Its body is received, and its headers are read, before it is handed to the data plane.

    Attributes:
        operation: As traces name it.
        arrived: `time.monotonic()` when it came.
        model: The model's name, as the path has it.
        selector: The version selector, as the path has it.
        request_id: Names it in logs.
        costly: Whether its answer takes long to encode however small the outputs are.
        body: As it came.
        preferences: What its headers ask for.
        limits: On what it may hold.
    """

    service = "http"
    deadline = None

    def __init__(self, request: Request, operation: Operation, request_id: str, limits: InputLimits) -> None:
        """Prepares; nothing is read yet."""
        self.operation = operation
        self.arrived = time.monotonic()
        self.model: str = request.path_params["model"]
        self.selector: str = request.path_params.get("selector", "")
        self.request_id = request_id
        self.costly = False
        self.body = Body((), 0, "identity", 0)
        self.preferences: Preferences = NO_PREFERENCES
        self.limits = limits
        self._request = request

    @property
    def details(self) -> tuple[tuple[str, str], ...]:
        """The path, for traces."""
        return (("url.path", self._request.url.path[:_MAX_PATH]),)

    @property
    def heavy(self) -> bool:
        """Whether the body is to be read in a thread."""
        return self.body.heavy

    def parent(self) -> SpanContext | None:
        """Returns the caller's span."""
        return read(self._request.headers.items())

    async def receive(self, preferences: PreferenceReader, bodies: BodyReceiver) -> None:
        """Reads the headers and receives the body.

        Args:
            preferences: Reads what the headers ask for.
            bodies: Receives the body.

        Raises:
            InvalidRequest, PermissionDenied: As `PreferenceReader.read` and `BodyReceiver.receive`.
            ClientDisconnect: The body never came whole.
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
