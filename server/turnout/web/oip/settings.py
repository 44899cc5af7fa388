"""Triton's logging and trace extensions over HTTP."""

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from turnout.auth.caller import actor_of
from turnout.errors import InvalidRequest
from turnout.oip.extensions.settings import ServerSettings, check_changes
from turnout.web.authorization import caller_of
from turnout.web.oip.endpoints import JsonBodies, route

_LISTED = "trace_level"
"""The only trace setting that is a list in JSON."""


class SettingsEndpoints:
    """Endpoints that show and change the settings of logging and tracing."""

    def __init__(self, settings: ServerSettings, bodies: JsonBodies, *, allow_changes: bool) -> None:
        self._settings = settings
        self._bodies = bodies
        self._allow_changes = allow_changes

    def routes(self) -> Sequence[Route]:
        """Returns the routes."""
        traces = ("/v2/trace/setting", "/v2/models/{model}/trace/setting")
        return [
            route("/v2/logging", "GET", "POST", answer=self.log),
            *(route(path, "GET", "POST", answer=self.trace) for path in traces),
        ]

    async def log(self, request: Request) -> Mapping[str, Any]:
        """Applies the log settings in the body, if any, and returns all log settings."""
        if settings := await self._changes(request):
            await self._settings.change_log(settings, actor_of(caller_of(request.scope)))
        return self._settings.log()

    async def trace(self, request: Request) -> Mapping[str, Any]:
        """Applies the trace settings in the body, if any, to one model or all models, and returns the settings."""
        model = request.path_params.get("model", "")
        if settings := await self._changes(request):
            values = {name: _values(name, value) for name, value in settings.items()}
            await self._settings.change_trace(model, values, actor_of(caller_of(request.scope)))
        in_force = self._settings.trace(model)
        return {name: values if name == _LISTED else values[0] for name, values in in_force.items()}

    async def _changes(self, request: Request) -> Mapping[str, Any]:
        if request.method != "POST":
            return {}
        settings = await self._bodies.read(request, '{"log_verbose_level": 1}')
        if settings:
            check_changes(allowed=self._allow_changes)
        return settings


def _values(name: str, value: Any) -> Sequence[str]:
    values: list[Any] = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(one, str) for one in values):
        raise InvalidRequest.at(f"settings.{name[:64]}", "expected text, a list of text, or null")
    return values
