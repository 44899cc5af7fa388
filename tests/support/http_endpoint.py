"""An HTTP endpoint on loopback for a server under test: answers as the test says, and records requests."""

import asyncio
import contextlib
import json
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable
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
    _served: set[asyncio.Task[None]] = field(default_factory=set)
    _released: bool = False

    def release(self) -> None:
        """Answers the requests that hang with the current value of `says`."""
        self._released = True
        self._over.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the only request of a connection."""
        task = asyncio.current_task()
        assert task is not None
        self._served.add(task)
        task.add_done_callback(self._served.discard)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError), contextlib.closing(writer):
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
                says = self.says if self._released else b""
            if says is not HANGS:
                content = says(request) if callable(says) else says
                for start in range(0, len(content), 1 << 16):
                    writer.write(content[start : start + (1 << 16)])
                    await writer.drain()
                    self.sent += len(content[start : start + (1 << 16)])
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@asynccontextmanager
async def listening(endpoint: Endpoint, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[Endpoint]:
    """Runs an endpoint while the context is entered."""
    server = await asyncio.start_server(endpoint.serve, "127.0.0.1", port, ssl=tls)
    endpoint.url = f"http{'' if tls is None else 's'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield endpoint
    finally:
        endpoint._over.set()
        server.close()
        if endpoint._served:
            await asyncio.wait(endpoint._served, timeout=10)
        await server.wait_closed()


@asynccontextmanager
async def dripping() -> AsyncIterator[str]:
    """Runs an endpoint whose answers come one byte at a time and never end; yields its URL."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError), contextlib.closing(writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
