"""Cancels HTTP/1.1 requests whose clients have closed the connection.

h2corn does not read an HTTP/1.1 connection while it serves a request, so it does not notice that the client closes it,
and the request and its run would continue. Therefore long requests are checked against the operating system's list of
connections. Over HTTP/2, h2corn cancels requests itself.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from turnout.host.sockets import TcpPeer, peers
from turnout.threads import Threads
from turnout.web.cancelled import serve_or_refuse

_LOOK_SECONDS = 1.0
"""Time in seconds between two checks. Shorter requests are never checked."""

_RESTS = 20
"""A check takes at most this fraction (1 / _RESTS) of the time, regardless of the number of connections."""


@dataclass(slots=True, eq=False)
class _Request:
    """A request in progress."""

    peer: TcpPeer
    port: int  # of the server
    task: "asyncio.Task[object]"
    since: float  # when it arrived, in seconds on the event loop's clock
    seen: bool = False  # its connection was found open
    left: bool = False  # its client closed the connection, and the task was cancelled


class AbandonedRequests:
    """ASGI middleware that cancels requests whose clients have disconnected."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application
        self._threads = Threads("HTTP clients")
        self._requests: set[_Request] = set()
        self._looking: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a request."""
        client, server, task = scope.get("client"), scope.get("server"), asyncio.current_task()
        if scope["type"] != "http" or scope["http_version"][0] != "1" or not client or not server or task is None:
            await self._application(scope, receive, send)
            return
        since = asyncio.get_running_loop().time()
        request = _Request(TcpPeer.of(client[0], client[1]), server[1], task, since)
        with self._watched(request):
            await serve_or_refuse(
                self._application, scope, receive, send, lambda: _end_unread(send) if request.left else None
            )

    @contextlib.contextmanager
    def _watched(self, request: _Request) -> Iterator[None]:
        self._requests.add(request)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(), name="HTTP clients that left")
        try:
            yield
        finally:
            self._requests.discard(request)

    def close(self) -> None:
        """Stops checking, and ends the thread."""
        if self._looking is not None:
            self._looking.cancel()
        self._threads.shutdown()

    async def _look(self) -> None:
        loop, pause = asyncio.get_running_loop(), _LOOK_SECONDS
        try:
            while self._requests:
                await asyncio.sleep(pause)
                begun = loop.time()
                old = [request for request in self._requests if begun - request.since >= _LOOK_SECONDS]
                for port in {request.port for request in old}:
                    found = await self._threads.run(peers, port)
                    for request in old:
                        if request.port == port and request in self._requests:
                            self._judge(request, found.get(request.peer))
                pause = max(_LOOK_SECONDS, (loop.time() - begun) * _RESTS)
        finally:
            self._looking = None

    def _judge(self, request: _Request, is_open: bool | None) -> None:
        """Cancels a request whose connection the client has closed, or that was found open before and is gone now."""
        if is_open:
            request.seen = True
        elif (is_open is not None or request.seen) and not request.left:
            request.left = True
            request.task.cancel()


async def _end_unread(send: Send) -> None:
    """Sends the response that h2corn requires, although nothing reads it."""
    with contextlib.suppress(OSError):
        await send({"type": "http.response.start", "status": 499, "headers": []})
        await send({"type": "http.response.body"})
