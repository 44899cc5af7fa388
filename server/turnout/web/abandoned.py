"""Ends HTTP/1.1 requests whose clients have left.

h2corn reads nothing of an HTTP/1.1 connection while a request of it is answered, so it does not notice that the client
closes it: the request would go on, and its run, as long as that takes. So requests that take long are looked after by
the system's own list of connections. Over HTTP/2, h2corn cancels them itself.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from turnout.host.sockets import Peer, peers
from turnout.threads import Threads

_LOOK_SECONDS = 1.0
"""Between two looks; requests that end sooner are never looked after."""

_RESTS = 20
"""A look takes at most one part in so many of the time, however many connections there are."""


@dataclass(slots=True, eq=False)
class _Request:
    """A request under way.

    Attributes:
        peer: Its client.
        port: The server's, that it came to.
        task: That answers it.
        since: When it came, by the event loop's clock.
        seen: Its connection was found open.
        left: Its client left, and the task was cancelled.
    """

    peer: Peer
    port: int
    task: "asyncio.Task[object]"
    since: float
    seen: bool = False
    left: bool = False


class AbandonedRequests:
    """An ASGI application in front of another: cancels requests that nobody waits for any more."""

    def __init__(self, application: ASGIApp) -> None:
        """Prepares.

        Args:
            application: Answers requests.
        """
        self._application = application
        self._threads = Threads("HTTP clients")
        self._requests: set[_Request] = set()
        self._looking: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        client, server, task = scope.get("client"), scope.get("server"), asyncio.current_task()
        if scope["type"] != "http" or scope["http_version"][0] != "1" or not client or not server or task is None:
            await self._application(scope, receive, send)
            return
        since = asyncio.get_running_loop().time()
        request = _Request(Peer.of(client[0], client[1]), server[1], task, since)
        answered = False

        async def noted(event: Message) -> None:
            nonlocal answered
            answered = True
            await send(event)

        with self._watched(request):
            try:
                await self._application(scope, receive, noted)
            except asyncio.CancelledError:
                if not request.left or answered:
                    raise
                task.uncancel()
                with contextlib.suppress(OSError):  # nobody reads it, and h2corn wants an answer
                    await send({"type": "http.response.start", "status": 499, "headers": []})
                    await send({"type": "http.response.body"})

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
        """Looks after nobody any more."""
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
        """Cancels a request whose connection is closed by its client, or was there and is gone."""
        if is_open:
            request.seen = True
        elif (is_open is not None or request.seen) and not request.left:
            request.left = True
            request.task.cancel()
