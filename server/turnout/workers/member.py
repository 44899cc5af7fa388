"""The worker's side of the link: reports to the supervisor, and requests to the supervisor and other workers."""

import json
import signal
import socket
import struct
from asyncio import Event, get_running_loop
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

from turnout.errors import TurnoutError, UnavailableError
from turnout.telemetry.exposition import in_blocks
from turnout.workers.link import Link
from turnout.workers.start import Start

SCRAPE_SECONDS = 8.0
"""Timeout in seconds for the metrics of all workers. Prometheus waits 10 s by default."""

SNAPSHOT_SECONDS = 3.0
"""Timeout in seconds for the metrics of one worker. After that, its previous metrics are used."""

_HELLO_SECONDS = 30.0
_TELL_SECONDS = 10.0

_PART = struct.Struct(">I?I")


class Member:
    """One of several workers. Used on the event loop only. Except in `leave`, a missing reply raises UnavailableError.

    Attributes:
        others_ready: Whether every other worker that accepts connections is ready.
        listen_now: Event that makes the worker accept connections without waiting any longer.
        on_change: Function to call when `others_ready` may have changed.
        hung_up: Event that is set by SIGHUP, which may arrive before the server runs.
    """

    def __init__(self) -> None:
        self.start: Start
        self.others_ready = False
        self.listen_now = Event()
        self.hung_up = Event()
        self.on_change: Callable[[], None] = lambda: None
        self._link: Link
        self._answers: dict[str, Callable[[bytes], Awaitable[bytes]]] = {}

    @classmethod
    async def join(cls, descriptor: int) -> "Member":
        """Connects to the supervisor by this end of the socket pair, and returns the worker with its start data.

        Raises:
            UnavailableError: The supervisor does not reply.
        """
        member = cls()
        get_running_loop().add_signal_handler(signal.SIGHUP, member.hung_up.set)
        member._link = await Link.over(socket.socket(fileno=descriptor), member._answer)
        member.start = Start.decode(await member._link.ask("hello", bound=_HELLO_SECONDS))
        return member

    def on_parents_end(self, call: Callable[[], None]) -> None:
        """Calls `call` when the supervisor has ended or the link is closed."""
        self._link.closed.add_done_callback(lambda _: call())

    def answers(self, topic: str, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Sets the handler for requests on a topic from the supervisor or another worker."""
        self._answers[topic] = answer

    async def asked(self) -> Sequence[tuple[str, str, bool]]:
        """Returns what operators have requested since the server started: model, version, and True to load or False to
        unload. Requests from other workers are received from then on.
        """
        return [
            (model, version, load)
            for model, version, load in json.loads(await self._link.ask("asked", bound=_TELL_SECONDS))
        ]

    async def listening(self) -> None:
        """Reports that this worker accepts connections from now on."""
        await self._link.ask("listening", bound=_TELL_SECONDS)

    async def ready(self) -> None:
        """Reports that this worker has finished loading versions."""
        await self._link.ask("ready", bound=_TELL_SECONDS)

    async def leave(self, snapshot: bytes) -> None:
        """Sends the final metrics of this worker to the supervisor, if it still runs."""
        try:
            await self._link.ask("leave", snapshot, bound=_TELL_SECONDS)
        except TurnoutError:
            return

    async def scrape(self, content_type: str) -> AsyncIterator[bytes]:
        """Returns the merged metrics of all workers in the format that `content_type` names."""
        return in_blocks(await self._link.ask("scrape", content_type.encode(), bound=SCRAPE_SECONDS))

    async def gather(self, topic: str, body: bytes = b"", *, bound: float) -> Mapping[int, bytes | UnavailableError]:
        """Sends a request to all other running workers, and returns their replies or errors by worker index.

        Each has at most `bound` seconds.
        """
        request = struct.pack(">d16s", bound, topic.encode()) + body
        return dict(unpack_answers(await self._link.ask("gather", request, bound=bound + _TELL_SECONDS)))

    def close(self) -> None:
        """Closes the link. The supervisor detects the end of the process by itself."""
        self._link.close()

    async def _answer(self, topic: str, body: bytes) -> bytes:
        if topic == "others":
            self.others_ready = body == b"1"
            self.on_change()
        elif topic == "listen":
            self.listen_now.set()
        elif topic == "ping":
            pass
        elif (answer := self._answers.get(topic)) is not None:
            return await answer(body)
        else:
            raise UnavailableError(f"this worker does not answer {topic!r} yet")
        return b""


def read_gather(body: bytes) -> tuple[float, str, bytes]:
    """Decodes the timeout, the topic and the body of a request from `Member.gather`."""
    bound, topic = struct.unpack_from(">d16s", body)
    return bound, topic.rstrip(b"\0").decode(), body[24:]


def pack_answers(answers: Mapping[int, bytes | TurnoutError]) -> bytes:
    """Encodes replies and errors for `unpack_answers`."""
    parts: list[bytes] = []
    for index, answer in answers.items():
        data = answer if isinstance(answer, bytes) else answer.message.encode()
        parts += [_PART.pack(index, isinstance(answer, bytes), len(data)), data]
    return b"".join(parts)


def unpack_answers(packed: bytes) -> Iterator[tuple[int, bytes | UnavailableError]]:
    """Yields the index of each worker, and its reply or error."""
    at = 0
    while at < len(packed):
        index, answered, length = _PART.unpack_from(packed, at)
        at += _PART.size
        data = packed[at : at + length]
        yield index, data if answered else UnavailableError(data.decode(errors="replace"))
        at += length
