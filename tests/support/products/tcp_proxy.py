"""A TCP proxy in front of a server, with which tests interrupt the network to it."""

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self


class TcpProxy:
    """Forwards bytes between clients of `port` and a server on 127.0.0.1, in a thread.

    Attributes:
        delay: Seconds by which each answer of the server is held back.
    """

    def __init__(self, target: int, host: str = "127.0.0.1", port: int = 0) -> None:
        """Starts listening.

        Args:
            target: Port of the server.
            host: Address of the loopback interface to listen on.
            port: Port to listen on; 0 for a free one.
        """
        self._target, self._host = target, host
        self._listener: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self.port = port
        self.delay = 0.0
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self.restore()

    def cut(self, *, silent: bool = False) -> None:
        """Interrupts the network.

        Args:
            silent: Whether to behave like a network that loses all packets. Otherwise connections are refused.
        """
        self._call(self._cut(silent=silent))

    def restore(self) -> None:
        """Restores the network, and forwards data that was held back."""
        self._call(self._restore())

    def strand(self) -> None:
        """Holds back the data of all present connections for good, and acknowledges it. Later connections work."""
        self._call(self._strand())

    def close(self) -> None:
        """Stops the proxy."""
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

    async def _strand(self) -> None:
        self._open.clear()
        self._open = asyncio.Event()
        self._open.set()

    async def _restore(self) -> None:
        self._open.set()
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, self._host, self.port)
            self.port = self._listener.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task, opened = asyncio.current_task(), self._open
        assert task is not None
        self._links.add(task)
        ends = [writer]
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            ends.append(back)
            pumps = [
                asyncio.ensure_future(self._pump(reader, back, opened, answers=False)),
                asyncio.ensure_future(self._pump(there, writer, opened, answers=True)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # cut; the client notices by its socket
        finally:
            self._links.discard(task)
            for end in ends:
                end.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, opened: asyncio.Event, *, answers: bool
    ) -> None:
        while data := await reader.read(1 << 16):
            if answers and self.delay:
                await asyncio.sleep(self.delay)
            await opened.wait()
            writer.write(data)
            await writer.drain()
