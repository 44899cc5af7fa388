"""The console's routes."""

from collections.abc import Sequence
from urllib.parse import quote

from starlette.requests import Request
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
    return [
        Route("/", _home),
        Route("/console/", _home),
        Route("/console", pages.overview),
        Route("/console/sign-in", actions.sign_in, methods=["GET", "POST"]),
        Route("/console/sign-out", actions.sign_out, methods=["POST"]),
        Route("/console/static/{name:path}", _static),
        Route(_MODEL, pages.model),
        Route(_MODEL + "/series.json", pages.series),
        Route(_MODEL + "/route", pages.route),
        Route(_MODEL + "/shadow", pages.shadow),
        Route(_MODEL + "/versions/{version}", pages.version),
        Route(_MODEL + "/rollouts/{attempt}", pages.rollout),
        Route(_MODEL + "/rollouts/{attempt}/plots.json", pages.plots),
        Route(_MODEL + "/rollouts/{attempt}/{command}", actions.command, methods=["POST"]),
        Route("/console/{rest:path}", pages.missing),
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
