"""The routes of the protocol."""

from collections.abc import Sequence
from functools import partial

from starlette.routing import Route

from turnout.config import Oip
from turnout.oip.services import OipServices
from turnout.serving.inputs.limits import InputLimits
from turnout.web.exchange import HttpInference
from turnout.web.oip.description import VERSIONS, DescriptionEndpoints
from turnout.web.oip.extensions import ExtensionEndpoints
from turnout.web.oip.inference import RestExchange, RouteHeaders


def oip_routes(
    http: HttpInference, oip: OipServices, allowed: Oip, route_headers: RouteHeaders, limits: InputLimits
) -> Sequence[Route]:
    """Returns the protocol's routes."""
    exchange = partial(RestExchange, route_headers, limits, oip.memory)
    return [
        *ExtensionEndpoints(oip, allowed, http.bodies, limits).routes(),
        *DescriptionEndpoints(oip.description).routes(),  # behind the others: `stats` is not a model's name
        *(http.route(f"{base}/infer", exchange) for base in VERSIONS),
    ]
