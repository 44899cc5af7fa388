"""Lets HTTP requests in as long as the server takes any."""

from starlette.types import ASGIApp, Receive, Scope, Send

from turnout.admission import Admission
from turnout.errors import TurnoutError
from turnout.web.errors import error_response
from turnout.web.oip.answers import error_answer

_ALWAYS = frozenset({"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
"""What who looks after the server asks, most of all when it is full or stops."""


class AdmissionGate:
    """An ASGI application in front of another: counts requests, and refuses those that are too many or too late."""

    def __init__(self, application: ASGIApp, admission: Admission) -> None:
        """Prepares.

        Args:
            application: Gets what is not refused.
            admission: Counts.
        """
        self._application = application
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["path"] in _ALWAYS:
            return await self._application(scope, receive, send)
        admission = self._admission
        try:
            admission.check()
        except TurnoutError as error:
            answer = error_answer if scope["path"].startswith("/v2/") else error_response
            return await answer(error)(scope, receive, send)
        admission.under_way += 1
        try:
            await self._application(scope, receive, send)
        finally:
            admission.under_way -= 1
