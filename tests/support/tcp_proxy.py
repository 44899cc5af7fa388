"""A TCP proxy that tests put before a server in order to cut the network to it: a fault, and no more than that."""

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self


class TcpProxy:
    """Passes bytes on between whoever connects to `port` and a server on 127.0.0.1; in a thread of its own."""

    def __init__(self, target: int, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listens.

        Args:
            target: The server's port.
            host: Where it listens: an address of the loopback interface.
            port: The same; 0 for a free one.
        """
        self._target, self._host = target, host
        self._listener: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self.port = port
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self.restore()

    def cut(self, *, silent: bool = False) -> None:
        """Lets nothing pass.

        Args:
            silent: As a network that loses every packet; else as a host that says it has no such service.
        """
        self._call(self._cut(silent=silent))

    def restore(self) -> None:
        """Lets everything pass, what waited too."""
        self._call(self._restore())

    def close(self) -> None:
        """Ends it."""
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(100)

    async def _cut(self, *, silent: bool) -> None:
        self._open.clear()
        if silent or self._listener is None:
            return
        self._listener.close()
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)
        self._listener = None

    async def _restore(self) -> None:
        self._open.set()
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, self._host, self.port)
            self.port = self._listener.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        ends = [writer]
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            ends.append(back)
            pumps = [asyncio.ensure_future(self._pump(*pair)) for pair in ((reader, back), (there, writer))]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # cut; whoever connected finds out by its socket
        finally:
            self._links.discard(task)
            for end in ends:
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            await self._open.wait()
            writer.write(data)
            await writer.drain()
