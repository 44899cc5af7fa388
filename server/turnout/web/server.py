"""The ASGI application of the HTTP listener, with the endpoints for metrics and probes."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from turnout.auth.roles import SERVER
from turnout.errors import ModelFailure, TurnoutError
from turnout.serving.versions.availability import Availability
from turnout.telemetry.exposition import negotiate
from turnout.telemetry.metrics.faults import FaultRecorder
from turnout.web.authorization import caller_of
from turnout.web.errors import refusal, refusal_of

_HTTP = "http"
"""The label with which this listener's faults are counted."""

_WITHHELD = "callers with the role read on * are shown the reason"

_SHOWN_PATH = 128
"""Maximum length of a path in an error."""


@dataclass(frozen=True, slots=True)
class WebServices:
    """The services of the HTTP listener.

    Attributes:
        scrape: Returns the text of the metrics in blocks, given a content type.
        availability: Knows which dependencies are unreachable, and what is not served.
        faults: Counts unexpected errors.
        endpoints: Routes of `/predict`, the Open Inference Protocol and `/v1`.
        console: Routes of the console; empty if it is off.
        protect: Adds authentication and authorization to routes.
    """

    scrape: Callable[[str], Awaitable[AsyncIterator[bytes]]]
    ready: Callable[[], bool]
    availability: Availability
    faults: FaultRecorder
    endpoints: Sequence[BaseRoute]
    console: Sequence[BaseRoute] = ()
    protect: Callable[[Sequence[BaseRoute]], Sequence[BaseRoute]] = lambda routes: routes
    authorizes: bool = False

    def application(self) -> Starlette:
        """Returns the ASGI application."""
        self.faults.watch(_HTTP)
        routes = [
            Route("/metrics", self.metrics),
            Route("/livez", self.livez),
            Route("/readyz", self.readyz),
            *self.endpoints,
            *self.console,
        ]
        handlers = {TurnoutError: _refused, HTTPException: _no_route, Exception: self._unexpected}
        return Starlette(exception_handlers=handlers, routes=self.protect(routes))

    async def _unexpected(self, request: Request, error: Exception) -> Response:
        """Responds to an unexpected error. Starlette then raises it again, and `AdmissionGate` logs it."""
        self.faults.unexpected[_HTTP] += 1
        failure = ModelFailure("the request failed inside the server; see the server's log")
        return refusal_of(request.url.path, failure)

    async def metrics(self, request: Request) -> Response:
        """Returns the metrics in Prometheus's text format, or in OpenMetrics if the scraper asks for it."""
        content_type = negotiate(",".join(request.headers.getlist("accept")))
        blocks = await self.scrape(content_type)
        return StreamingResponse(blocks, media_type=content_type, headers={"Vary": "Accept"})

    async def livez(self, _: Request) -> Response:
        """Returns 200 as long as the event loop runs."""
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        """Returns 200 if the server accepts requests, 503 while it starts or drains, or serves nothing that it should.

        The body says what is not served. It also lists dependencies that the server cannot reach; these do not affect
        the status, since the server continues to serve from memory. The body is JSON if the client asks for it. With
        `[auth]`, only callers that may read everything are shown what names a model or a dependency's address.
        """
        ready, found = self.ready(), self.availability
        unavailable, unserved, notes = found.reasons, found.unserved, [*found.notes, *found.loads]
        caller = caller_of(request.scope)
        if self.authorizes and (caller is None or not caller.sees(SERVER)):
            notes = [*found.notes, *([_WITHHELD] if unserved or found.loads else ())]
            unavailable = {part: f"the {part} is unavailable; {_WITHHELD}" for part in unavailable}
            unserved = ()
        status = 200 if ready else 503
        if "application/json" in request.headers.get("accept", ""):
            parts = [{"part": str(part), "reason": reason} for part, reason in unavailable.items()]
            body = {"ready": ready, "unavailable": parts, "unserved": list(unserved), "notes": notes}
            return JSONResponse(body, status)
        lines = ["ready" if ready else "not ready", *unavailable.values(), *unserved, *notes]
        return PlainTextResponse("".join(f"{line}\n" for line in lines), status)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, TurnoutError)
    return refusal_of(request.url.path, error)


async def _no_route(request: Request, error: Exception) -> Response:
    """Responds to a path or method that no route takes, in the form of all other errors."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    message = f"no route for {request.method} {path[:_SHOWN_PATH]}"
    allowed = (error.headers or {}).get("Allow")
    if allowed is None:
        return refusal(path, error.status_code, message)
    allowed = ", ".join(sorted(allowed.split(", ")))  # Starlette's order changes from process to process
    return refusal(path, error.status_code, f"{message}; this path takes {allowed}", headers={"Allow": allowed})
