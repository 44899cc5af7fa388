"""Ends requests over HTTP/1.1 whose clients have left.

While h2corn serves such a request it does not read its connection (over HTTP/2 it does, and cancels the request). The
request would stay in its queue and be computed for nobody, and a run that never ends would keep its runner for ever.
The system knows which clients have closed their connections, and is asked about requests that take long.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Scope

from turnout.host import clients_that_left
from turnout.threads import Threads

_LOOK_SECONDS = 1.0
"""Between two looks, and that a request has taken before one looks for its client."""

_RESTS = 20
"""A look takes at most one part in so many of the time, however many connections there are."""


class Departures:
    """Watches the clients of requests. Used on the event loop."""

    def __init__(self) -> None:
        self._requests: dict[asyncio.Task[object], tuple[float, int, tuple[str, int]]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._threads = Threads("departures")

    @contextmanager
    def watching(self, scope: Scope) -> Iterator[None]:
        """Cancels the current task if the client of its request leaves meanwhile."""
        client, server, task = scope.get("client"), scope.get("server"), asyncio.current_task()
        if scope.get("http_version") != "1.1" or not client or not server or task is None:
            yield
            return
        self._requests[task] = asyncio.get_running_loop().time(), server[1], (client[0], client[1])
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        try:
            yield
        finally:
            del self._requests[task]

    def close(self) -> None:
        """Watches nobody any more."""
        if self._looking is not None:
            self._looking.cancel()
        self._threads.shutdown()

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        pause = _LOOK_SECONDS
        while self._requests:
            await asyncio.sleep(pause)
            began = loop.time()
            long = {port for since, port, _ in self._requests.values() if since <= began - _LOOK_SECONDS}
            for port in long:
                left = await self._threads.run(clients_that_left, port)
                for task, (since, at, client) in self._requests.items():
                    if at == port and client in left and since < began:  # or another client may have had its address
                        task.cancel()
            pause = max(_LOOK_SECONDS, (loop.time() - began) * _RESTS)
        self._looking = None
