"""A raw HTTP/2 client: sends whatever a test tells it to, valid or not, and keeps everything that it receives.

Frames are encoded by hyperframe and headers by hpack. There is no layer above them that would refuse to send invalid
data, or drop data after a GOAWAY.
"""

import asyncio
import contextlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeAlias

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

Headers: TypeAlias = Sequence[tuple[str | bytes, str | bytes]]

CALL = (("content-type", "application/grpc"), ("te", "trailers"))
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_BYTES = 16_384
FIRST_WINDOW = 65_535
BOUND = 60.0
"""Seconds after which waiting is given up."""


def message(payload: bytes, compressed: int = 0) -> bytes:
    """Returns a gRPC message frame: a flag, the length, the bytes."""
    return struct.pack(">BI", compressed, len(payload)) + payload


def messages(body: bytes) -> Iterator[bytes]:
    """Yields the messages in a body, none of which may be compressed."""
    at = 0
    while at < len(body):
        compressed, length = struct.unpack_from(">BI", body, at)
        assert not compressed
        yield body[at + 5 : at + 5 + length]
        at += 5 + length


@dataclass
class Answer:
    """What was received on one stream.

    Attributes:
        fields: Header blocks as received: headers and trailers, or only one block if a call failed at once.
        body: All data received.
        reset: Error code with which the server reset the stream; None if it did not.
        ended: Whether the stream has ended.
        window: Number of bytes that may be sent on the stream.
    """

    fields: list[list[tuple[bytes, bytes]]] = field(default_factory=list)
    body: bytes = b""
    reset: int | None = None
    ended: bool = False
    window: int = FIRST_WINDOW

    @property
    def blocks(self) -> list[dict[str, str]]:
        """Headers and trailers as text, by name."""
        return [
            {key.decode(): value.decode(errors="backslashreplace") for key, value in block} for block in self.fields
        ]

    @property
    def status(self) -> int:
        """HTTP status."""
        return int(self.blocks[0][":status"])

    @property
    def grpc_status(self) -> int:
        """gRPC status of the call."""
        return int(self.blocks[-1]["grpc-status"])

    @property
    def grpc_message(self) -> str:
        """gRPC message of the call, as transported."""
        return self.blocks[-1].get("grpc-message", "")


@dataclass(frozen=True, slots=True)
class GoAway:
    """The server's last GOAWAY frame."""

    error_code: int
    last_stream: int


class Http2Client:
    """One connection.

    Attributes:
        answers: Answers by stream number.
        settings: The server's settings, by identifier.
        goaway: The server's last GOAWAY; None if there was none.
        closed: Whether the server closed the connection.
    """

    def __init__(self, host: str, port: int, *, window: int = 1 << 20, release_memory: bool = True) -> None:
        """Creates the client without connecting.

        Args:
            host: Host to connect to.
            port: Port to connect to.
            window: Initial flow-control window for each of the server's streams, in bytes.
            release_memory: Whether received data is credited back to the server's windows.
        """
        self._where = host, port
        self._window = window
        self._release_memory = release_memory
        self.answers: dict[int, Answer] = {}
        self.settings: dict[int, int] = {}
        self.goaway: GoAway | None = None
        self.closed = False
        self.pongs = 0
        self._encoder, self._decoder = hpack.Encoder(), hpack.Decoder()
        self._block: HeadersFrame | None = None
        self._next = 1
        self._connection_window = FIRST_WINDOW
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(*self._where)
        hello = SettingsFrame(0)
        hello.settings = {SettingsFrame.INITIAL_WINDOW_SIZE: self._window, SettingsFrame.ENABLE_PUSH: 0}
        self.writer.write(PREFACE + hello.serialize())
        self._reading = asyncio.ensure_future(self._read())
        try:
            async with asyncio.timeout(BOUND):
                while not self.settings and await self.receive():
                    pass
        except BaseException:
            await self._abort()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._abort()

    async def _abort(self) -> None:
        self.stop_reading()
        self.writer.transport.abort()
        await asyncio.gather(self._reading, return_exceptions=True)

    def stop_reading(self) -> None:
        """Stops reading, so that the server's data stays in the network buffers."""
        self._reading.cancel()

    def write(self, data: bytes) -> None:
        """Sends raw bytes."""
        self.writer.write(data)

    def frame(self, frame: Frame) -> None:
        """Sends a frame unchanged."""
        self.writer.write(frame.serialize())

    async def flush(self) -> None:
        """Waits until everything was written to the network, or the server has closed the connection."""
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    def encode(self, headers: Headers) -> bytes:
        """Compresses headers as the next block of this connection."""
        return self._encoder.encode([(_bytes(key), _bytes(value)) for key, value in headers], huffman=False)

    def open(self, path: str, headers: Headers = CALL, *, method: str = "POST", end: bool = False) -> int:
        """Starts a request, and returns its stream number. `headers` may contain pseudo-headers."""
        pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "localhost")]
        own = {_bytes(key) for key, _ in headers}
        return self.open_block(self.encode([*(p for p in pseudo if p[0].encode() not in own), *headers]), end=end)

    def open_block(self, block: bytes, *, end: bool = False) -> int:
        """Starts a request with a compressed header block, and returns its stream number."""
        number, self._next = self._next, self._next + 2
        self.answers[number] = Answer(window=self.settings.get(SettingsFrame.INITIAL_WINDOW_SIZE, FIRST_WINDOW))
        frame = HeadersFrame(number, block, flags=["END_HEADERS"])
        if end:
            frame.flags.add("END_STREAM")
        self.frame(frame)
        return number

    async def begin(self, path: str, headers: Headers = CALL, *, method: str = "POST", end: bool = False) -> int:
        """Starts a request, waits until it was sent, and returns its stream number."""
        number = self.open(path, headers, method=method, end=end)
        await self.flush()
        return number

    async def send(self, stream: int, data: bytes, *, end: bool = False, sizes: Sequence[int] = ()) -> None:
        """Sends a part of a request's body, as the server's windows allow. The first frames have the given `sizes`."""
        pieces, at, answer = iter(sizes), 0, self.answers[stream]
        while at < len(data) or end:
            size = min(next(pieces, FRAME_BYTES), FRAME_BYTES, len(data) - at)
            async with asyncio.timeout(BOUND):
                while size and min(answer.window, self._connection_window) <= 0:
                    if answer.ended or not await self.receive():
                        return
            size = min(size, answer.window, self._connection_window) if size else 0
            frame = DataFrame(stream, data[at : at + size])
            at += size
            if at == len(data) and end:
                frame.flags.add("END_STREAM")
            answer.window -= size
            self._connection_window -= size
            self.frame(frame)
            await self.flush()
            if at == len(data):
                return

    async def receive(self) -> bool:
        """Waits for the next frame. Returns False if the connection was closed."""
        if not self.closed:
            self._news.clear()
            await self._news.wait()
        return not self.closed

    async def answer(self, stream: int, seconds: float = BOUND) -> Answer:
        """Returns the answer to a request, once the stream has ended."""
        answer = self.answers[stream]
        async with asyncio.timeout(seconds):
            while not answer.ended and await self.receive():
                pass
        return answer

    async def call(self, path: str, body: bytes, headers: Headers = CALL, *, sizes: Sequence[int] = ()) -> Answer:
        """Sends a complete request, and returns its answer."""
        stream = await self.begin(path, headers)
        await self.send(stream, body, end=True, sizes=sizes)
        return await self.answer(stream)

    async def ping(self) -> None:
        """Waits until the server has answered a PING, and so has read everything sent before it."""
        before = self.pongs
        self.frame(PingFrame(0, bytes(8)))
        async with asyncio.timeout(BOUND):
            while self.pongs == before and await self.receive():
                pass

    async def end(self) -> None:
        """Waits until the server has closed the connection."""
        async with asyncio.timeout(BOUND):
            while await self.receive():
                pass

    async def _read(self) -> None:
        try:
            while True:
                head = await self.reader.readexactly(9)
                frame, length = Frame.parse_frame_header(memoryview(head))
                frame.parse_body(memoryview(await self.reader.readexactly(length)))
                self._take(frame)
                self._news.set()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.closed = True
            for answer in self.answers.values():
                answer.ended = True
            self._news.set()

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
        answer = self.answers.get(frame.stream_id)
        if isinstance(frame, SettingsFrame):
            self._take_settings(frame)
        elif isinstance(frame, WindowUpdateFrame):
            if frame.stream_id == 0:
                self._connection_window += frame.window_increment
            elif answer is not None:
                answer.window += frame.window_increment
        elif isinstance(frame, PingFrame):
            if "ACK" in frame.flags:
                self.pongs += 1
            else:
                self.frame(PingFrame(0, frame.opaque_data, flags=["ACK"]))
        elif isinstance(frame, GoAwayFrame):
            self.goaway = GoAway(frame.error_code, frame.last_stream_id)
        elif answer is not None:
            self._take_answer(frame, answer)
        elif isinstance(frame, HeadersFrame):
            self._decoder.decode(frame.data, raw=True)  # keeps the compression state in sync

    def _take_settings(self, frame: SettingsFrame) -> None:
        if "ACK" in frame.flags:
            return
        before = self.settings.get(SettingsFrame.INITIAL_WINDOW_SIZE, FIRST_WINDOW)
        self.settings |= frame.settings
        for answer in self.answers.values():
            answer.window += self.settings.get(SettingsFrame.INITIAL_WINDOW_SIZE, FIRST_WINDOW) - before
        self.frame(SettingsFrame(0, flags=["ACK"]))

    def _take_answer(self, frame: Frame, answer: Answer) -> None:
        if isinstance(frame, HeadersFrame):
            answer.fields.append([(bytes(k), bytes(v)) for k, v in self._decoder.decode(frame.data, raw=True)])
        elif isinstance(frame, DataFrame):
            answer.body += frame.data
            if self._release_memory and frame.flow_controlled_length:
                for stream in (0, frame.stream_id):
                    self.frame(WindowUpdateFrame(stream, window_increment=frame.flow_controlled_length))
        elif isinstance(frame, RstStreamFrame):
            answer.reset = frame.error_code
        if isinstance(frame, RstStreamFrame) or "END_STREAM" in frame.flags:
            answer.ended = True


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
