"""Triton's extensions over HTTP: statistics, the model repository, settings and shared memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from turnout.auth.caller import actor_of
from turnout.config import Oip
from turnout.errors import InvalidRequest
from turnout.oip.extensions.repository import check_control
from turnout.oip.extensions.settings import check_changes
from turnout.oip.extensions.shared_memory import no_cuda, no_cuda_region
from turnout.oip.parameters import whole
from turnout.oip.services import OipServices
from turnout.serving.inputs.limits import InputLimits
from turnout.web.authorization import caller_of
from turnout.web.body import BodyReceiver
from turnout.web.json_body import SMALL_BYTES, json_object
from turnout.web.oip.answers import as_json, route

_LISTED = "trace_level"
"""The only trace setting that is a list in JSON."""


class ExtensionEndpoints:
    """Endpoints of the extensions."""

    def __init__(self, oip: OipServices, allowed: Oip, bodies: BodyReceiver, limits: InputLimits) -> None:
        """Initializes the endpoints; `allowed` says what clients may change."""
        self._oip = oip
        self._allowed = allowed
        # Small enough to be parsed on the event loop.
        self._bodies = replace(bodies, max_bytes=min(SMALL_BYTES, bodies.max_bytes))
        self._limits = limits

    def routes(self) -> Sequence[Route]:
        """Returns the routes."""
        statistics = ("/v2/models/stats", "/v2/models/{model}/stats", "/v2/models/{model}/versions/{selector}/stats")
        regions = (
            ("/v2/systemsharedmemory", self.regions, self.register, self.unregister),
            ("/v2/cudasharedmemory", self.cuda_regions, self.cuda_register, self.cuda_unregister),
        )
        return [
            *(route(path, "GET", answer=self.statistics) for path in statistics),
            route("/v2/models", "GET", answer=self.models),
            route("/v2/repository/index", "POST", answer=self.index),
            route("/v2/repository/models/{model}/load", "POST", answer=self.load),
            route("/v2/repository/models/{model}/unload", "POST", answer=self.unload),
            route("/v2/logging", "GET", "POST", answer=self.log),
            route("/v2/trace/setting", "GET", "POST", answer=self.trace),
            route("/v2/models/{model}/trace/setting", "GET", "POST", answer=self.trace),
            *(
                one
                for base, listed, register, unregister in regions
                for one in (
                    route(f"{base}/status", "GET", answer=listed),
                    route(f"{base}/region/{{name}}/status", "GET", answer=listed),
                    route(f"{base}/region/{{name}}/register", "POST", answer=register),
                    route(f"{base}/region/{{name}}/unregister", "POST", answer=unregister),
                    route(f"{base}/unregister", "POST", answer=unregister),
                )
            ),
        ]

    async def statistics(self, request: Request) -> Mapping[str, Any]:
        """Returns statistics of one version, all loaded versions of a model, or all models that the caller may see."""
        model, selector = (request.path_params.get(name, "") for name in ("model", "selector"))
        found = (await self._oip.statistics.of(model, selector)).model_stats
        seen = (lambda _: True) if model else _sees(request)
        return {"model_stats": [as_json(one) for one in found if seen(one.name)]}

    async def models(self, request: Request) -> Mapping[str, Any]:
        """Lists the models that the caller may see."""
        return {"models": list(filter(_sees(request), self._oip.repository.names()))}

    async def index(self, request: Request) -> list[Any]:
        """Lists all versions of the models that the caller may see, with their states."""
        ready = (await self._read(request, '{"ready": true}')).get("ready", False)
        if not isinstance(ready, bool):
            raise InvalidRequest.at("ready", "expected true or false")
        seen = _sees(request)
        return [
            {
                "name": one.name,
                "version": one.version,
                "state": one.state,
                **({"reason": one.reason} if one.reason else {}),
            }
            for one in self._oip.repository.index(ready=ready)
            if seen(one.name)
        ]

    async def load(self, request: Request) -> None:
        """Loads the version that `NAME` or `NAME@SELECTOR` resolves to."""
        check_control(allowed=self._allowed.allow_repository_control)
        await self._oip.repository.load(request.path_params["model"], await self._parameters(request))

    async def unload(self, request: Request) -> None:
        """Unloads the version that `NAME@SELECTOR` resolves to, or all loaded versions of `NAME`."""
        check_control(allowed=self._allowed.allow_repository_control)
        await self._parameters(request)
        await self._oip.repository.unload(request.path_params["model"])

    async def log(self, request: Request) -> Mapping[str, Any]:
        """Applies the log settings in the body, if any, and returns all log settings."""
        if settings := await self._changes(request):
            await self._oip.settings.change_log(settings, actor_of(caller_of(request.scope)))
        return self._oip.settings.log()

    async def trace(self, request: Request) -> Mapping[str, Any]:
        """Applies the trace settings in the body, if any, to one model or all models, and returns the settings."""
        model = request.path_params.get("model", "")
        if settings := await self._changes(request):
            values = {name: _values(name, value) for name, value in settings.items()}
            await self._oip.settings.change_trace(model, values, actor_of(caller_of(request.scope)))
        in_force = self._oip.settings.trace(model)
        return {name: values if name == _LISTED else values[0] for name, values in in_force.items()}

    async def _read(self, request: Request, example: str) -> Mapping[str, Any]:
        """Returns the JSON object in a body, such as `example`; an empty object if there is no body."""
        data = (await self._bodies.receive(request)).plain()
        return json_object(data, self._limits, example) if data else {}

    async def _parameters(self, request: Request) -> Mapping[str, Any]:
        parameters = (await self._read(request, '{"parameters": {...}}')).get("parameters", {})
        if not isinstance(parameters, dict):
            raise InvalidRequest.at("parameters", "expected an object")
        return parameters

    async def _changes(self, request: Request) -> Mapping[str, Any]:
        if request.method != "POST":
            return {}
        settings = await self._read(request, '{"log_verbose_level": 1}')
        if settings:
            check_changes(allowed=self._allowed.allow_settings_changes)
        return settings

    async def regions(self, request: Request) -> list[Any]:
        """Lists all of the caller's regions, or one."""
        regions = self._oip.memory.status(caller_of(request.scope), request.path_params.get("name", ""))
        return [{"name": one.name, "key": one.key, "offset": one.offset, "byte_size": one.size} for one in regions]

    async def register(self, request: Request) -> None:
        """Registers a region."""
        body = await self._read(request, '{"key": "/name", "offset": 0, "byte_size": 64}')
        key = body.get("key")
        if not isinstance(key, str):
            raise InvalidRequest.at("key", "expected text")
        offset, size = whole(body.get("offset", 0), "offset"), whole(body.get("byte_size"), "byte_size")
        host = request.client.host if request.client is not None else ""
        name = request.path_params["name"]
        await self._oip.memory.register(caller_of(request.scope), host, name, key, offset, size)

    async def unregister(self, request: Request) -> None:
        """Unregisters one of the caller's regions, or all of them."""
        await self._oip.memory.unregister(caller_of(request.scope), request.path_params.get("name", ""))

    async def cuda_regions(self, request: Request) -> list[Any]:
        """Returns an empty list, since CUDA memory is not supported."""
        if name := request.path_params.get("name", ""):
            raise no_cuda_region(name)
        return []

    async def cuda_register(self, _: Request) -> None:
        """Raises an error, since CUDA memory is not supported."""
        raise no_cuda()

    async def cuda_unregister(self, _: Request) -> None:
        """Does nothing, since CUDA memory is never registered."""


def _sees(request: Request) -> Callable[[str], bool]:
    """Returns a function that returns whether the caller may see a given model in lists."""
    caller = caller_of(request.scope)
    return (lambda _: True) if caller is None else caller.sees


def _values(name: str, value: Any) -> Sequence[str]:
    values: list[Any] = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(one, str) for one in values):
        raise InvalidRequest.at(f"settings.{name[:64]}", "expected text, a list of text, or null")
    return values
