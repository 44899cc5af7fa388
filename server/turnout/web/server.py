"""The HTTP listener: metrics, probes, JSON predictions for people with curl, the Open Inference Protocol."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from turnout.errors import ModelFailure, UnavailableError
from turnout.serving.versions.availability import Availability
from turnout.telemetry.exposition import negotiate
from turnout.telemetry.metrics.faults import FaultRecorder
from turnout.web.errors import error_response

_HTTP = "http"
"""The label under which errors of this listener are counted."""


@dataclass(frozen=True, slots=True)
class WebServices:
    """What the HTTP listener serves.

    Attributes:
        scrape: Returns the metrics in a format, given its content type, in blocks.
        ready: Tells whether the server takes requests.
        availability: Tells which dependencies cannot be reached now.
        faults: Counts unexpected errors.
        endpoints: Routes of `/predict`, of the Open Inference Protocol and of `/v1`.
        console: The console's routes; none if it is off.
        protect: Adds authentication to routes.
    """

    scrape: Callable[[str], Awaitable[AsyncIterator[bytes]]]
    ready: Callable[[], bool]
    availability: Availability
    faults: FaultRecorder
    endpoints: Sequence[BaseRoute]
    console: Sequence[BaseRoute] = ()
    protect: Callable[[Sequence[BaseRoute]], Sequence[BaseRoute]] = lambda routes: routes

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
        return Starlette(exception_handlers={Exception: self._unexpected}, routes=self.protect(routes))

    async def _unexpected(self, request: Request, error: Exception) -> Response:
        """Answers an unexpected error; Starlette then raises it again, and `AdmissionGate` logs it."""
        self.faults.unexpected[_HTTP] += 1
        return error_response(ModelFailure("the request failed inside the server, whose log tells why"))

    async def metrics(self, request: Request) -> Response:
        """The metrics, as Prometheus reads them: in OpenMetrics if that is asked for."""
        content_type = negotiate(",".join(request.headers.getlist("accept")))
        try:
            blocks = await self.scrape(content_type)
        except UnavailableError as error:  # the parent of several workers does not answer
            return error_response(error)
        return StreamingResponse(blocks, media_type=content_type, headers={"Vary": "Accept"})

    async def livez(self, _: Request) -> Response:
        """200 while the process runs its event loop at all."""
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        """200 while the server takes requests; 503 while it starts or drains.

        Also 503 while nothing that should be served is; the body says what. The body also lists what the server cannot
        reach, which is no reason to send requests elsewhere, since it serves on from memory. In JSON if that is asked
        for.
        """
        ready, unavailable = self.ready(), self.availability.reasons
        status = 200 if ready else 503
        if "application/json" in request.headers.get("accept", ""):
            parts = [{"part": str(part), "reason": reason} for part, reason in unavailable.items()]
            body = {
                "ready": ready,
                "unavailable": parts,
                "unserved": list(self.availability.unserved),
                "notes": list(self.availability.notes),
            }
            return JSONResponse(body, status)
        why = [*unavailable.values(), *self.availability.unserved, *self.availability.notes]
        lines = ["ready" if ready else "not ready", *why]
        return PlainTextResponse("".join(f"{line}\n" for line in lines), status)
