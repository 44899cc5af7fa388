"""The protocol's URLs."""

from collections.abc import Sequence
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from turnout.errors import NotFound, Unsupported
from turnout.serving.limits import InputLimits
from turnout.web.exchange import HttpInference
from turnout.web.oip.answers import error_answer
from turnout.web.oip.description import DescriptionEndpoints
from turnout.web.oip.inference import RestExchange, RouteHeaders

_NO_SHARED_MEMORY = "shared memory is not supported: tensors travel in the request"
_NO_CONTROL = "this listener loads and unloads nothing: ask the control listener"

REFUSED = {
    "systemsharedmemory": _NO_SHARED_MEMORY,
    "cudasharedmemory": _NO_SHARED_MEMORY,
    "trace": "trace settings cannot be changed by clients",
    "logging": "log settings cannot be changed by clients",
    "repository": _NO_CONTROL,
    "stats": "this server has no statistics in this protocol's form: see its metrics",
}
"""By a part of the path: Triton's URLs that are not served, and why."""

_MODEL = "/v2/models/{model}"
_VERSION = "/v2/models/{model}/versions/{selector}"


def oip_routes(
    http: HttpInference, description: DescriptionEndpoints, route_headers: RouteHeaders, limits: InputLimits
) -> Sequence[Route]:
    """Returns the protocol's routes.

    Args:
        http: Runs requests.
        description: Answers the rest.
        route_headers: Returns the headers that say which version answers, and why.
        limits: On what a request may hold.
    """
    of_versions = [
        Route(f"{base}{path}", endpoint)
        for base in (_MODEL, _VERSION)
        for path, endpoint in (
            ("", description.metadata),
            ("/ready", description.model_ready),
            ("/config", description.config),
        )
    ]
    exchange = partial(RestExchange, route_headers, limits)
    return [
        Route("/v2", description.server),
        Route("/v2/health/live", description.live),
        Route("/v2/health/ready", description.ready),
        *of_versions,
        *(http.route(f"{base}/infer", exchange) for base in (_MODEL, _VERSION)),
        Route("/v2/{rest:path}", _refused, methods=["GET", "POST"]),
    ]


async def _refused(request: Request) -> Response:
    """Says why a URL is not served."""
    for part in request.path_params["rest"].split("/"):
        if part in REFUSED:
            return error_answer(Unsupported(REFUSED[part]))
    return error_answer(NotFound(f"there is no {request.method} here; see /v2/models/NAME[/versions/SELECTOR]/infer"))
