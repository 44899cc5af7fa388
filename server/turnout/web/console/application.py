"""The console's routes."""

from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import quote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from structlog.typing import FilteringBoundLogger

from turnout.errors import TurnoutError, UnauthenticatedError
from turnout.rollout.engine.engine import RolloutEngine
from turnout.telemetry.metrics.auth import AuthRecorder
from turnout.web.console.actions import Actions
from turnout.web.console.pages import Pages, json_error
from turnout.web.console.rendering import HEADERS, page, static
from turnout.web.errors import headers_of, status_of
from turnout.workers.peers import Peers

_MODEL = "/console/models/{model}"


def console_routes(
    pages: Pages, rollouts: RolloutEngine, recorder: AuthRecorder, log: FilteringBoundLogger, peers: Peers | None
) -> Sequence[Route]:
    """Returns the console's routes."""
    actions = Actions(rollouts, pages, pages.sessions, log, recorder.refused, peers)

    def route(path: str, handler: Callable[[Request], Awaitable[Response]], *methods: str) -> Route:
        async def explained(request: Request) -> Response:
            try:
                return await handler(request)
            except ClientDisconnect:
                return Response(status_code=499)
            except TurnoutError as error:
                return json_error(error) if path.endswith(".json") else pages.problem(request, error)

        return Route(path, explained, methods=methods or ["GET"])

    return [
        route("/", _home),
        route("/console/", _home),
        route("/console", pages.overview),
        route("/console/sign-in", actions.sign_in, "GET", "POST"),
        route("/console/sign-out", actions.sign_out, "POST"),
        route("/console/static/{name:path}", _static),
        route(_MODEL, pages.model),
        route(_MODEL + "/series.json", pages.series),
        route(_MODEL + "/route", pages.route),
        route(_MODEL + "/shadow", pages.shadow),
        route(_MODEL + "/versions/{version}", pages.version),
        route(_MODEL + "/rollouts/{attempt}", pages.rollout),
        route(_MODEL + "/rollouts/{attempt}/plots.json", pages.plots),
        route(_MODEL + "/rollouts/{attempt}/{command}", actions.command, "POST"),
        route("/console/{rest:path}", pages.missing),
    ]


def console_refusal(request: Request, error: TurnoutError) -> Response:
    """Responds to a request for a page that the caller may not see. Unauthenticated callers are sent to the sign-in."""
    unknown = isinstance(error, UnauthenticatedError) and "authorization" not in request.headers
    if request.url.path.endswith(".json"):
        response = json_error(error)
    elif unknown and request.method == "GET":
        return RedirectResponse(f"/console/sign-in?next={quote(request.url.path)}", 303, HEADERS)
    else:
        about = {"actor": None, "possible": True, "message": error.message, "back": "", "again": False}
        response = page("problem.html", request, status_of(error), **about)
    response.headers.update(headers_of(error))
    return response


async def _home(_: Request) -> Response:
    return RedirectResponse("/console", 307, HEADERS)


async def _static(request: Request) -> Response:
    return static(request.path_params["name"])
