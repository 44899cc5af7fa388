"""Triton's model repository extension over HTTP, and a list of the models."""

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from turnout.errors import InvalidRequest
from turnout.oip.extensions.repository import ModelRepository, check_control
from turnout.web.oip.endpoints import JsonBodies, parameters_of, route, sees

_LOAD = '{"parameters": {...}}'


class RepositoryEndpoints:
    """Endpoints that list, load and unload versions."""

    def __init__(self, repository: ModelRepository, bodies: JsonBodies, *, allow_control: bool) -> None:
        self._repository = repository
        self._bodies = bodies
        self._allow_control = allow_control

    def routes(self) -> Sequence[Route]:
        """Returns the routes."""
        return [
            route("/v2/models", "GET", answer=self.models),
            route("/v2/repository/index", "POST", answer=self.index),
            route("/v2/repository/models/{model}/load", "POST", answer=self.load),
            route("/v2/repository/models/{model}/unload", "POST", answer=self.unload),
        ]

    async def models(self, request: Request) -> Mapping[str, Any]:
        """Lists the models that the caller may see."""
        return {"models": list(filter(sees(request), self._repository.names()))}

    async def index(self, request: Request) -> list[Any]:
        """Lists all versions of the models that the caller may see, with their states."""
        ready = (await self._bodies.read(request, '{"ready": true}')).get("ready", False)
        if not isinstance(ready, bool):
            raise InvalidRequest.at("ready", "expected true or false")
        seen = sees(request)
        return [
            {
                "name": one.name,
                "version": one.version,
                "state": one.state,
                **({"reason": one.reason} if one.reason else {}),
            }
            for one in self._repository.index(ready=ready)
            if seen(one.name)
        ]

    async def load(self, request: Request) -> None:
        """Loads the version that `NAME` or `NAME@SELECTOR` resolves to."""
        check_control(allowed=self._allow_control)
        parameters = parameters_of(await self._bodies.read(request, _LOAD))
        await self._repository.load(request.path_params["model"], parameters)

    async def unload(self, request: Request) -> None:
        """Unloads the version that `NAME@SELECTOR` resolves to, or all loaded versions of `NAME`."""
        check_control(allowed=self._allow_control)
        parameters_of(await self._bodies.read(request, _LOAD))
        await self._repository.unload(request.path_params["model"])
