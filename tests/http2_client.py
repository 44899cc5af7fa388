"""HTTP/2 spoken by hand: requests that no client library would send."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

CALL = (("content-type", "application/grpc"), ("te", "trailers"))


@dataclass
class Answer:
    """What came of one stream.

    Attributes:
        blocks: Headers and trailers, as they came.
        body: All of it.
        reset: Code by which the server reset the stream; None if it did not.
        ended: Whether it is over.
    """

    blocks: list[dict[str, str]] = field(default_factory=list)
    body: bytes = b""
    reset: int | None = None
    ended: bool = False

    @property
    def status(self) -> int:
        """Of HTTP."""
        return int(self.blocks[0][":status"])

    @property
    def grpc_status(self) -> int:
        """Of the call."""
        return int(self.blocks[-1]["grpc-status"])

    @property
    def grpc_message(self) -> str:
        """Of the call, as it travelled."""
        return self.blocks[-1].get("grpc-message", "")


class Http2Client:
    """One connection."""

    def __init__(self, host: str, port: int) -> None:
        self._where = host, port
        config = h2.config.H2Configuration(
            client_side=True, header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.connection = h2.connection.H2Connection(config)
        machine = self.connection.state_machine  # what has begun goes on after a GOAWAY, which `h2` does not know
        still_open = h2.connection.ConnectionState.CLIENT_OPEN
        after_goaway = {(still_open, h2.connection.ConnectionInputs.RECV_GOAWAY): (None, still_open)}
        machine._transitions = {**machine._transitions, **after_goaway}
        self.answers: dict[int, Answer] = {}
        self.goaway: h2.events.ConnectionTerminated | None = None
        self.closed = False

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(*self._where)
        self.connection.initiate_connection()
        await self.flush()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def flush(self) -> None:
        """Sends what is to be sent."""
        self.writer.write(self.connection.data_to_send())
        await self.writer.drain()

    async def begin(
        self, path: str, headers: Sequence[tuple[str, str]] = CALL, *, method: str = "POST", end: bool = False
    ) -> int:
        """Begins a request, and returns its stream's number."""
        stream = self.connection.get_next_available_stream_id()
        pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "localhost")]
        self.connection.send_headers(stream, [*pseudo, *headers], end_stream=end)
        self.answers[stream] = Answer()
        await self.flush()
        return stream

    async def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Sends a piece of a request's body, as far as the server's windows let it."""
        while data or end:
            room = min(
                self.connection.local_flow_control_window(stream), self.connection.max_outbound_frame_size, len(data)
            )
            if data and not room:
                await self.receive()
                continue
            piece, data = data[:room], data[room:]
            self.connection.send_data(stream, piece, end_stream=end and not data)
            await self.flush()
            if not data:
                return

    async def receive(self) -> bool:
        """Takes what comes next; returns whether anything did."""
        data = await self.reader.read(1 << 16)
        if not data:
            self.closed = True
            for answer in self.answers.values():
                answer.ended = True
            return False
        for event in self.connection.receive_data(data):
            self._take(event)
        await self.flush()
        return True

    async def answer(self, stream: int, seconds: float = 20.0) -> Answer:
        """Returns the answer to a request, once it is over."""
        answer = self.answers[stream]
        async with asyncio.timeout(seconds):
            while not answer.ended and await self.receive():
                pass
        return answer

    async def call(self, path: str, body: bytes, headers: Sequence[tuple[str, str]] = CALL) -> Answer:
        """Sends a whole request, and returns its answer."""
        stream = await self.begin(path, headers)
        await self.send(stream, body, end=True)
        return await self.answer(stream)

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            self.answers[event.stream_id].blocks.append({str(k): str(v) for k, v in event.headers})
        elif isinstance(event, h2.events.DataReceived):
            self.answers[event.stream_id].body += event.data
            self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.answers[event.stream_id].ended = True
        elif isinstance(event, h2.events.StreamReset):
            self.answers[event.stream_id].reset = int(event.error_code)
            self.answers[event.stream_id].ended = True
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = event
