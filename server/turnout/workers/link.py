"""The connection between a worker and its supervisor: requests and replies in both directions over a socket pair.

A frame consists of the number of the request (4 bytes), the kind of frame (1 byte), the length of the payload (4
bytes), and the payload. The payload of a request is a topic of 16 bytes and the body. The payload of a reply is its
body, and that of a failure is the error message.
"""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress

from turnout.errors import TurnoutError, UnavailableError

_HEAD = struct.Struct(">IBI")
_REQUEST, _REPLY, _FAILURE = 1, 2, 3
_TOPIC_BYTES = 16

MAX_FRAME_BYTES = 256 * 1024 * 1024
"""Maximum size of a frame in bytes. A snapshot of 1,000 versions takes about 5 MB."""

Handler = Callable[[str, bytes], Awaitable[bytes]]


class Link:
    """One end of the connection between a worker and its supervisor. Used on the event loop only."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handle: Handler) -> None:
        """Initializes the link and starts reading.

        `handle` gets a request's topic and body, and returns the reply. If it raises an error, `ask` fails at the other
        end.
        """
        self._reader = reader
        self._writer = writer
        self._handle = handle
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._number = 0
        self._handling: set[asyncio.Task[None]] = set()
        self._reading = asyncio.create_task(self._read())
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def over(cls, end: socket.socket, handle: Handler) -> "Link":
        """Returns a link over one socket of a socket pair. Closing the link closes the socket."""
        end.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=end)
        return cls(reader, writer, handle)

    async def ask(self, topic: str, body: bytes = b"", *, bound: float) -> bytes:
        """Sends a request with a topic of at most 16 ASCII letters, and returns the reply.

        Raises:
            UnavailableError: The other process has ended, or does not reply within `bound` seconds.
            Refused: The other process replied with an error.
        """
        if self.closed.done():
            raise UnavailableError("the other process is gone")
        self._number = self._number % 0xFFFFFFFF + 1
        number = self._number
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._send(number, _REQUEST, topic.encode().ljust(_TOPIC_BYTES) + body)
        try:
            async with asyncio.timeout(bound):
                return await future
        except TimeoutError:
            raise UnavailableError(f"no answer within {bound:g} s") from None
        finally:
            self._waiting.pop(number, None)

    def close(self) -> None:
        """Closes the link."""
        self._reading.cancel()
        for task in self._handling:
            task.cancel()
        self._writer.close()
        self._end()

    def _send(self, number: int, kind: int, payload: bytes) -> None:
        with suppress(OSError, RuntimeError):  # pending requests fail when the connection ends
            self._writer.write(_HEAD.pack(number, kind, len(payload)) + payload)

    async def _read(self) -> None:
        try:
            while True:
                number, kind, length = _HEAD.unpack(await self._reader.readexactly(_HEAD.size))
                if length > MAX_FRAME_BYTES:
                    return
                payload = await self._reader.readexactly(length)
                if kind == _REQUEST:
                    task = asyncio.create_task(self._answer(number, payload))
                    self._handling.add(task)
                    task.add_done_callback(self._handling.discard)
                elif (future := self._waiting.get(number)) is not None and not future.done():
                    if kind == _REPLY:
                        future.set_result(payload)
                    else:
                        future.set_exception(Refused(payload.decode(errors="replace")))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._end()

    async def _answer(self, number: int, payload: bytes) -> None:
        topic, body = payload[:_TOPIC_BYTES].decode(errors="replace").strip(), payload[_TOPIC_BYTES:]
        try:
            reply = await self._handle(topic, body)
        except TurnoutError as error:
            self._send(number, _FAILURE, error.message.encode())
        except Exception as error:  # noqa: BLE001 - reported to the other process
            self._send(number, _FAILURE, repr(error)[:1024].encode())
        else:
            self._send(number, _REPLY, reply)

    def _end(self) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(UnavailableError("the other process is gone"))


class Refused(TurnoutError):
    """Raised when the other process replied with an error."""
