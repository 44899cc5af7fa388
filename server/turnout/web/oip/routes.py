"""The protocol's URLs."""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from turnout.errors import NotFound, Unsupported
from turnout.web.oip.answers import error_answer
from turnout.web.oip.description import DescriptionEndpoints
from turnout.web.oip.inference import InferenceEndpoint

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


def oip_routes(inference: InferenceEndpoint, description: DescriptionEndpoints) -> Sequence[Route]:
    """Returns the protocol's routes.

    Args:
        inference: Runs requests.
        description: Answers the rest.
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
    infers = (f"{base}/infer" for base in (_MODEL, _VERSION))
    return [
        Route("/v2", description.server),
        Route("/v2/health/live", description.live),
        Route("/v2/health/ready", description.ready),
        *of_versions,
        *(Route(path, inference.handler(path), methods=["POST"]) for path in infers),
        Route("/v2/{rest:path}", _refused, methods=["GET", "POST"]),
    ]


async def _refused(request: Request) -> Response:
    """Says why a URL is not served."""
    for part in request.path_params["rest"].split("/"):
        if part in REFUSED:
            return error_answer(Unsupported(REFUSED[part]))
    return error_answer(NotFound(f"there is no {request.method} here; see /v2/models/NAME[/versions/SELECTOR]/infer"))
