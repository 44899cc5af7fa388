"""An HTTP endpoint on loopback for a server under test: answers as the test says, and records requests."""

import asyncio
import contextlib
import json
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def answer(status: int, body: object = b"", **headers: str) -> bytes:
    """Returns an HTTP response. A body that is not bytes is sent as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(content)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


HANGS = None
"""Leaves a request without an answer for as long as the endpoint runs."""

Say = bytes | Callable[[Asked], bytes] | None


@dataclass
class Endpoint:
    """The endpoint.

    Attributes:
        says: Answer to each request after those of `first`; `HANGS` for no answer. It may be changed at any time.
        first: Answers to the first requests, in order.
        asked: Requests so far.
        sent: Number of bytes of answers that were sent.
        url: URL of the endpoint.
    """

    says: Say = b""
    first: deque[Say] = field(default_factory=deque)
    asked: list[Asked] = field(default_factory=list)
    sent: int = 0
    url: str = ""
    _over: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        """Answers the requests that hang with the current value of `says`."""
        self._over.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the only request of a connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        request = Asked(method, target, headers, body)
        self.asked.append(request)
        says = self.first.popleft() if self.first else self.says
        if says is HANGS:
            await self._over.wait()
            says = self.says
        if says is not HANGS:
            content = says(request) if callable(says) else says
            for start in range(0, len(content), 1 << 16):
                writer.write(content[start : start + (1 << 16)])
                await writer.drain()
                self.sent += len(content[start : start + (1 << 16)])


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""Serves one connection, which is closed when it returns or the client leaves."""


@asynccontextmanager
async def connections(serve: Serve, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serves connections while the context is entered, and yields the URL. At the end, none of them is left open."""
    tasks: set[asyncio.Task[None]] = set()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await serve(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            tasks.discard(task)

    server = await asyncio.start_server(connection, "127.0.0.1", port, ssl=tls)
    try:
        yield f"http{'' if tls is None else 's'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(list(tasks), timeout=10)
        await server.wait_closed()


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers a request with a body that comes byte by byte and does not end."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


@asynccontextmanager
async def listening(endpoint: Endpoint, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[Endpoint]:
    """Runs an endpoint while the context is entered."""
    async with connections(endpoint.serve, port, tls) as endpoint.url:
        yield endpoint
