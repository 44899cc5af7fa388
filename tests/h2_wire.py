"""A raw HTTP/2 client: it sends what a test tells it to, right or wrong, and keeps all that comes back.

Frames are made by hyperframe and headers by hpack, with nothing in between that would refuse to send what is wrong.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import hpack
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_BYTES = 16_384
BOUND = 20.0
"""Seconds after which whatever is waited for counts as never coming."""


def grpc_headers(path: str, more: Iterable[tuple[bytes, bytes]] = ()) -> list[tuple[bytes, bytes]]:
    """Returns the headers of a gRPC call to `path`, and `more`."""
    return [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        *more,
    ]


def message(payload: bytes, compressed: int = 0) -> bytes:
    """Returns a message as gRPC frames it: a flag, the length, the bytes."""
    return struct.pack(">BI", compressed, len(payload)) + payload


@dataclass
class Answer:
    """What came back on a stream.

    Attributes:
        blocks: Its header blocks, in order: headers and trailers, or one of both where the call failed at once.
        body: Its data.
        reset: The error code of RST_STREAM; None where there was none.
        ended: Set once it sends nothing more.
    """

    blocks: list[Headers] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    reset: int | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    window: int = 0

    @property
    def trailers(self) -> dict[bytes, bytes]:
        """The last header block: where gRPC's status is."""
        return dict(self.blocks[-1]) if self.blocks else {}

    @property
    def status(self) -> int | None:
        """gRPC's status; None where none came."""
        found = self.trailers.get(b"grpc-status")
        return None if found is None else int(found)

    def messages(self) -> list[bytes]:
        """Takes the body apart."""
        found, data = [], bytes(self.body)
        while data:
            _, size = struct.unpack(">BI", data[:5])
            found.append(data[5 : 5 + size])
            data = data[5 + size :]
        return found


class Connection:
    """An HTTP/2 connection.

    Attributes:
        settings: What the server said in its SETTINGS, by identifier.
        goaway: The error code of its GOAWAY; None before one.
        closed: Set once the server closed the connection.
        pongs: PINGs that it answered.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, window: int, give_back: bool
    ) -> None:
        self.settings: dict[int, int] = {}
        self.goaway: int | None = None
        self.closed = asyncio.Event()
        self.greeted = asyncio.Event()
        self.pongs = 0
        self._reader, self._writer = reader, writer
        self._encoder, self._decoder = hpack.Encoder(), hpack.Decoder()
        self._answers: dict[int, Answer] = {}
        self._next = 1
        self._give_back = give_back
        self._block: HeadersFrame | None = None
        self._connection_window = 65_535
        self._room = asyncio.Event()
        preface = SettingsFrame(0)
        preface.settings = {SettingsFrame.INITIAL_WINDOW_SIZE: window, SettingsFrame.ENABLE_PUSH: 0}
        writer.write(PREFACE + preface.serialize())
        self._reading = asyncio.ensure_future(self._read())

    async def close(self) -> None:
        """Closes the connection at once."""
        self._reading.cancel()
        self._writer.transport.abort()
        await asyncio.gather(self._reading, return_exceptions=True)

    def stop_reading(self) -> None:
        """Leaves whatever the server sends from now on where it is."""
        self._reading.cancel()

    def send(self, data: bytes) -> None:
        """Sends bytes as they are."""
        self._writer.write(data)

    def frame(self, frame: Frame) -> None:
        """Sends a frame as it is."""
        self._writer.write(frame.serialize())

    async def drain(self) -> None:
        """Waits until the server has taken what was sent, or has closed the connection."""
        try:
            await self._writer.drain()
        except ConnectionError:
            self.closed.set()

    def open(self, headers: Headers, *, end: bool = False) -> int:
        """Opens a stream with `headers`; returns its number."""
        number, self._next = self._next, self._next + 2
        self._answers[number] = Answer(window=self.settings.get(SettingsFrame.INITIAL_WINDOW_SIZE, 65_535))
        frame = HeadersFrame(number, self.encode(headers))
        frame.flags.add("END_HEADERS")
        if end:
            frame.flags.add("END_STREAM")
        self.frame(frame)
        return number

    def encode(self, headers: Headers) -> bytes:
        """Compresses headers as the next block of this connection."""
        return self._encoder.encode(list(headers), huffman=False)

    async def data(self, number: int, data: bytes, *, end: bool = False, sizes: Sequence[int] = ()) -> None:
        """Sends data on a stream, as the server's windows allow, in frames of `sizes` as far as these go."""
        pieces, at = iter(sizes), 0
        answer = self._answers[number]
        while at < len(data) or end:
            size = min(next(pieces, FRAME_BYTES), FRAME_BYTES, len(data) - at)
            while size and min(answer.window, self._connection_window) <= 0:
                if answer.ended.is_set() or self.closed.is_set():
                    return
                self._room.clear()
                await asyncio.wait_for(self._room.wait(), BOUND)
            size = min(size, answer.window, self._connection_window) if size else 0
            frame = DataFrame(number, data[at : at + size])
            at += size
            if at == len(data) and end:
                frame.flags.add("END_STREAM")
            answer.window -= size
            self._connection_window -= size
            self.frame(frame)
            await self.drain()
            if at == len(data):
                return

    def answer(self, number: int) -> Answer:
        """Returns what has come back on a stream so far."""
        return self._answers[number]

    async def finished(self, number: int) -> Answer:
        """Waits until a stream has ended, or the connection has."""
        answer = self._answers[number]
        await asyncio.wait_for(answer.ended.wait(), BOUND)
        return answer

    async def call(
        self,
        path: str,
        body: bytes,
        more: Iterable[tuple[bytes, bytes]] = (),
        *,
        sizes: Sequence[int] = (),
    ) -> Answer:
        """Calls a method with a body, framed by the caller, and waits for the end."""
        number = self.open(grpc_headers(path, more))
        await self.data(number, body, end=True, sizes=sizes)
        return await self.finished(number)

    async def ping(self) -> None:
        """Waits until the server has answered a PING: it has read all that was sent before."""
        before = self.pongs
        self.frame(PingFrame(0, b"\0" * 8))
        async with asyncio.timeout(BOUND):
            while self.pongs == before and not self.closed.is_set():
                await asyncio.sleep(0.001)

    async def _read(self) -> None:
        try:
            while True:
                head = await self._reader.readexactly(9)
                frame, length = Frame.parse_frame_header(memoryview(head))
                frame.parse_body(memoryview(await self._reader.readexactly(length)))
                self._take(frame)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.closed.set()
            self._room.set()
            for answer in self._answers.values():
                answer.ended.set()
                answer.changed.set()

    def _take(self, frame: Frame) -> None:
        if isinstance(frame, ContinuationFrame):
            assert self._block is not None
            head = self._block
            head.data += frame.data
            if "END_HEADERS" not in frame.flags:
                return
            frame = head
        elif isinstance(frame, HeadersFrame) and "END_HEADERS" not in frame.flags:
            self._block = frame
            return
        answer = self._answers.get(frame.stream_id)
        if isinstance(frame, SettingsFrame):
            self._take_settings(frame)
        elif isinstance(frame, WindowUpdateFrame):
            if frame.stream_id == 0:
                self._connection_window += frame.window_increment
            elif answer is not None:
                answer.window += frame.window_increment
            self._room.set()
        elif isinstance(frame, PingFrame):
            if "ACK" in frame.flags:
                self.pongs += 1
            else:
                self.frame(PingFrame(0, frame.opaque_data, flags=["ACK"]))
        elif isinstance(frame, GoAwayFrame):
            self.goaway = frame.error_code
        elif answer is not None:
            self._take_answer(frame, answer)
        elif isinstance(frame, HeadersFrame):
            self._decoder.decode(frame.data, raw=True)  # or the table that both sides keep is another

    def _take_settings(self, frame: SettingsFrame) -> None:
        if "ACK" in frame.flags:
            return
        window = self.settings.get(SettingsFrame.INITIAL_WINDOW_SIZE, 65_535)
        self.settings.update(frame.settings)
        grown = self.settings.get(SettingsFrame.INITIAL_WINDOW_SIZE, 65_535) - window
        for answer in self._answers.values():
            answer.window += grown
        self._room.set()
        self.greeted.set()
        self.frame(SettingsFrame(0, flags=["ACK"]))

    def _take_answer(self, frame: Frame, answer: Answer) -> None:
        if isinstance(frame, HeadersFrame):
            answer.blocks.append([(bytes(k), bytes(v)) for k, v in self._decoder.decode(frame.data, raw=True)])
        elif isinstance(frame, DataFrame):
            answer.body += frame.data
            if self._give_back and frame.flow_controlled_length:
                self.frame(WindowUpdateFrame(0, window_increment=frame.flow_controlled_length))
                self.frame(WindowUpdateFrame(frame.stream_id, window_increment=frame.flow_controlled_length))
        elif isinstance(frame, RstStreamFrame):
            answer.reset = frame.error_code
            answer.ended.set()
            self._room.set()
        if "END_STREAM" in frame.flags:
            answer.ended.set()
            self._room.set()
        answer.changed.set()


@asynccontextmanager
async def connect(
    address: Any, *, window: int = 1 << 20, give_back: bool = True, deaf: bool = False
) -> AsyncIterator[Connection]:
    """Opens a connection to `host:port`, and waits for the server's SETTINGS.

    Args:
        address: `host:port`.
        window: What each stream of the server may send before the client gives room back, in bytes.
        give_back: Whether the client gives back the room that data took.
        deaf: Whether it reads nothing from then on.
    """
    host, _, port = str(address).rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    connection = Connection(reader, writer, window=window, give_back=give_back)
    try:
        await asyncio.wait_for(connection.greeted.wait(), BOUND)
        if deaf:
            connection.stop_reading()
        yield connection
    finally:
        await connection.close()
