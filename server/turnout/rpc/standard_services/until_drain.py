"""Ends streams that last as long as their clients like, so that they do not delay the end of a server that stops."""

import asyncio

from turnout.errors import Draining
from turnout.rpc.errors import to_status
from turnout.rpc.transport.port import Method, Methods, StatusError, Stream, Streaming

_RETRY_SECONDS = 1.0


def until_drain(methods: Methods, draining: asyncio.Event) -> Methods:
    """Wraps streaming methods so that they end with UNAVAILABLE once `draining` is set. Unary methods are unchanged."""
    return {path: _until_drain(method, draining) for path, method in methods.items()}


def _until_drain(method: Method, draining: asyncio.Event) -> Method:
    if not isinstance(method, Streaming):
        return method

    async def serve(stream: Stream) -> None:
        serving = asyncio.ensure_future(method.serve(stream))
        ending = asyncio.ensure_future(draining.wait())
        try:
            await asyncio.wait([serving, ending], return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                raise StatusError(to_status(Draining("the server is stopping", retry_after=_RETRY_SECONDS)))
            await serving
        finally:
            serving.cancel()
            ending.cancel()
            await asyncio.gather(serving, ending, return_exceptions=True)

    return Streaming(serve)
