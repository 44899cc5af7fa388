"""Triton's shared memory extensions over HTTP."""

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from turnout.errors import InvalidRequest
from turnout.oip.extensions.shared_memory import SharedMemory, no_cuda, no_cuda_region
from turnout.oip.parameters import whole
from turnout.web.authorization import caller_of
from turnout.web.oip.endpoints import JsonBodies, route

_SYSTEM, _CUDA = "/v2/systemsharedmemory", "/v2/cudasharedmemory"
_EXAMPLE = '{"key": "/name", "offset": 0, "byte_size": 64}'


class SharedMemoryEndpoints:
    """Endpoints that register, list and unregister regions of shared memory."""

    def __init__(self, memory: SharedMemory, bodies: JsonBodies) -> None:
        self._memory = memory
        self._bodies = bodies

    def routes(self) -> Sequence[Route]:
        """Returns the routes."""
        kinds = (
            (_SYSTEM, self.status, self.register, self.unregister),
            (_CUDA, self.cuda_status, self.cuda_register, self.cuda_unregister),
        )
        return [
            one
            for base, status, register, unregister in kinds
            for one in (
                route(f"{base}/status", "GET", answer=status),
                route(f"{base}/region/{{name}}/status", "GET", answer=status),
                route(f"{base}/region/{{name}}/register", "POST", answer=register),
                route(f"{base}/region/{{name}}/unregister", "POST", answer=unregister),
                route(f"{base}/unregister", "POST", answer=unregister),
            )
        ]

    async def status(self, request: Request) -> list[Any]:
        """Lists all of the caller's regions, or one."""
        regions = self._memory.status(caller_of(request.scope), request.path_params.get("name", ""))
        return [{"name": one.name, "key": one.key, "offset": one.offset, "byte_size": one.size} for one in regions]

    async def register(self, request: Request) -> None:
        """Registers a region."""
        body = await self._bodies.read(request, _EXAMPLE)
        key = body.get("key")
        if not isinstance(key, str):
            raise InvalidRequest.at("key", "expected text")
        offset, size = whole(body.get("offset", 0), "offset"), whole(body.get("byte_size"), "byte_size")
        host = request.client.host if request.client is not None else ""
        name = request.path_params["name"]
        await self._memory.register(caller_of(request.scope), host, name, key, offset, size)

    async def unregister(self, request: Request) -> None:
        """Unregisters one of the caller's regions, or all of them."""
        await self._memory.unregister(caller_of(request.scope), request.path_params.get("name", ""))

    async def cuda_status(self, request: Request) -> list[Any]:
        """Returns an empty list, since CUDA memory is not supported."""
        if name := request.path_params.get("name", ""):
            raise no_cuda_region(name)
        return []

    async def cuda_register(self, _: Request) -> None:
        """Raises an error, since CUDA memory is not supported."""
        raise no_cuda()

    async def cuda_unregister(self, _: Request) -> None:
        """Does nothing, since CUDA memory is never registered."""
