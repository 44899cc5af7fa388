"""Admission control for HTTP requests, and the last handler of their errors."""

import contextlib
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from turnout.admission.requests import Admission
from turnout.errors import TurnoutError
from turnout.web.errors import refusal_of

_ALWAYS = frozenset({"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
"""Paths that are always accepted: operators need them most while the server is full or shutting down."""

_CLOSE = (b"connection", b"close")


class AdmissionGate:
    """ASGI middleware that counts requests, and rejects them while the server is full or draining.

    Starlette responds to an unexpected error and raises it again; this middleware logs it. A client that disconnects is
    not an error: whatever is still sent to it is dropped.
    """

    def __init__(
        self,
        application: ASGIApp,
        admission: Admission,
        log: FilteringBoundLogger,
        staying: Callable[[], bool] = lambda: True,
    ) -> None:
        """Wraps an application.

        `staying` returns whether connections may be reused. While the server drains, responses ask HTTP/1.1 clients to
        close their connections. If the server closed them, it could lose requests that are just being sent.
        """
        self._application = application
        self._admission = admission
        self._log = log
        self._staying = staying

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""

        async def send_if_there(message: Message) -> None:
            if message["type"] == "http.response.start" and scope["http_version"] == "1.1" and not self._staying():
                message["headers"] = [*message.get("headers", ()), _CLOSE]
            with contextlib.suppress(OSError):  # the client has disconnected
                await send(message)

        admission, counted = self._admission, scope["path"] not in _ALWAYS
        if counted:
            try:
                admission.check()
            except TurnoutError as error:
                return await refusal_of(scope["path"], error)(scope, receive, send_if_there)
        admission.begun += counted
        admission.under_way += counted
        try:
            await self._application(scope, receive, send_if_there)
        except Exception as error:  # noqa: BLE001 - the HTTP server would write it to stderr, not to the log
            self._log.error("unexpected error", service="http", path=scope["path"][:256], exc_info=error)
        finally:
            admission.under_way -= counted
