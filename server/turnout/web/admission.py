"""Admits HTTP requests, and keeps errors from the server underneath."""

import contextlib
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from turnout.admission import Admission
from turnout.errors import TurnoutError
from turnout.web.errors import error_response
from turnout.web.oip.answers import error_answer

_ALWAYS = frozenset({"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
"""Operators need these, most of all while the server is full or stops."""

_CLOSE = (b"connection", b"close")


class AdmissionGate:
    """An ASGI application in front of another: counts requests, and refuses those that are too many or too late.

    Errors end here, in this server's log; Starlette answers them and raises them again. A client that left is not an
    error: what is sent to it is dropped.
    """

    def __init__(
        self,
        application: ASGIApp,
        admission: Admission,
        log: FilteringBoundLogger,
        staying: Callable[[], bool] = lambda: True,
    ) -> None:
        """Prepares.

        Args:
            application: Receives requests that are not refused.
            admission: Counts the requests.
            log: Receives errors.
            staying: Tells whether connections may be reused. Once the server drains, HTTP/1.1 clients are told to close
                theirs: if the server closed one, a request that is just being sent would be lost.
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
            with contextlib.suppress(OSError):  # the client has left
                await send(message)

        admission, counted = self._admission, scope["path"] not in _ALWAYS
        if counted:
            try:
                admission.check()
            except TurnoutError as error:
                answer = error_answer if scope["path"].startswith("/v2/") else error_response
                return await answer(error)(scope, receive, send_if_there)
        admission.begun += counted
        admission.under_way += counted
        try:
            await self._application(scope, receive, send_if_there)
        except Exception as error:  # noqa: BLE001 - the server below would write it to stderr past the log
            self._log.error("unexpected error", service="http", path=scope["path"][:256], exc_info=error)
        finally:
            admission.under_way -= counted
