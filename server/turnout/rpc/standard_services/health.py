"""`grpc.health.v1`: Check and Watch, for the server, its services and single models.

The names "" and the full name of each service report the server's readiness. `model:NAME` and `model:NAME@SELECTOR` are
SERVING while a request for that version would be answered, including a version that would be loaded on demand.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from grpc_health.v1 import health_pb2

from turnout.errors import InvalidSelector, NotFoundError, TurnoutError, VersionOnDemand
from turnout.serving.data_plane.inference import Router
from turnout.serving.versions.catalog import Catalog

_MODEL = "model:"
_LOOK_SECONDS = 1.0
_Status = health_pb2.HealthCheckResponse


class HealthServicer:
    """Reports which services and models are ready."""

    def __init__(self, catalog: Catalog, router: Router, ready: Callable[[], bool], services: frozenset[str]) -> None:
        """Initializes the servicer for services with these full names. `ready` concerns the server as a whole."""
        self._catalog = catalog
        self._router = router
        self._ready = ready
        self._services = services

    async def Check(self, request: Any) -> Any:
        """Returns the current status; NOT_FOUND for an unknown name."""
        return _Status(status=self._status(request.service))

    async def Watch(self, request: Any, write: Callable[[Any], Awaitable[None]]) -> None:
        """Sends the current status and then each change; SERVICE_UNKNOWN while the name is unknown."""
        last = -1
        while True:
            last = await self._next_status(request.service, last)
            await write(_Status(status=last))

    async def _next_status(self, service: str, last: int) -> int:
        """Returns the status of a service once it differs from `last`.

        The catalog notifies about most changes immediately. Readiness and policies change without a notification, so
        the status is also polled.
        """
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._catalog.wait_for(lambda _: self._watched(service) != last)
            if (status := self._watched(service)) != last:
                return status

    def _watched(self, service: str) -> int:
        try:
            return self._status(service)
        except TurnoutError:
            return int(_Status.SERVICE_UNKNOWN)

    def _status(self, service: str) -> int:
        if service == "" or service in self._services:
            return int(_Status.SERVING if self._ready() else _Status.NOT_SERVING)
        if not service.startswith(_MODEL):
            raise NotFoundError(f"no service is named {service[:64]!r}; models are asked for as model:NAME[@SELECTOR]")
        name, _, selector = service[len(_MODEL) :].partition("@")
        self._catalog.snapshot.model(name)
        try:
            self._router.route(name, selector, "", baseline_only=True)  # does not count in the split
        except (NotFoundError, InvalidSelector):
            if selector:
                raise
            return int(_Status.NOT_SERVING)  # the model exists, but has no released version
        except VersionOnDemand:
            pass  # a request would load the version and be answered
        except TurnoutError:
            return int(_Status.NOT_SERVING)
        return int(_Status.SERVING if self._ready() else _Status.NOT_SERVING)
