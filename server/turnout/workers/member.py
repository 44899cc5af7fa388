"""A worker's side of the link: what it reports to its parent, and asks of it and of the other workers."""

import pickle
import signal
import socket
import struct
from asyncio import Event, get_running_loop
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from turnout.config import Settings, SettingsSource
from turnout.errors import TurnoutError, UnavailableError
from turnout.telemetry.exposition import in_blocks
from turnout.workers.division import share_of
from turnout.workers.link import Link

SCRAPE_SECONDS = 8.0
"""Seconds for the metrics of all workers; Prometheus waits 10 s by default."""

SNAPSHOT_SECONDS = 3.0
"""Seconds for the counts of one worker; after that, its previous ones are used."""

_HELLO_SECONDS = 30.0
_TELL_SECONDS = 10.0

_PART = struct.Struct(">I?I")

_PORTS = ("grpc", "http", "control")


Asked = Sequence[tuple[str, str, bool]]
"""Operators' requests: model, version, and whether to load or to unload it."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a worker receives at its start.

    Attributes:
        settings: Its own, with the server's ports and its part of divided limits.
        given: The server's, as they were read at its start.
        source: Reads them again.
        index: Its number, from 0.
        control: Whether it has the control listener.
        waits: Whether it accepts connections only once its versions are loaded, since other workers accept them.
        asked: Operators' requests since the server started.
        session_key: Signs the console's sessions: a browser's connections reach any worker.
    """

    settings: Settings
    given: Settings
    source: SettingsSource
    index: int
    control: bool
    waits: bool
    asked: Asked
    session_key: bytes = field(repr=False)

    def read(self) -> Settings:
        """Reads the settings again, and returns this worker's, with its ports and its share.

        Raises:
            ConfigError: They are invalid.
        """
        fresh = self.source.read()
        unchanged = [name for name in _PORTS if getattr(fresh, name) == getattr(self.given, name)]
        same = {name: getattr(self.settings, name) for name in unchanged}
        share = share_of(fresh.model_copy(update=same | {"workers": self.given.workers}), self.index)
        return share.model_copy(update={"workers": fresh.workers})


class Member:
    """One of several workers. Used on the event loop only.

    Attributes:
        start: What it received at its start.
        others_ready: Whether every other worker that accepts connections is ready.
        listen_now: Set when it must accept connections without waiting any longer.
        on_change: Called when `others_ready` has changed.
        hung_up: Set by SIGHUP, which may arrive before the server runs.
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
        """Returns the worker at one end of a socket pair, after receiving its start.

        Args:
            descriptor: The file descriptor of its end.

        Raises:
            UnavailableError: The parent does not answer.
        """
        member = cls()
        get_running_loop().add_signal_handler(signal.SIGHUP, member.hung_up.set)
        member._link = await Link.over(socket.socket(fileno=descriptor), member._answer)
        reply = await member._link.ask("hello", bound=_HELLO_SECONDS)
        member.start = pickle.loads(reply)  # noqa: S301 - from the parent, over a socket that nobody else has
        return member

    def on_parents_end(self, call: Callable[[], None]) -> None:
        """Calls `call` when the parent is gone or the link is closed."""
        self._link.closed.add_done_callback(lambda _: call())

    def answers(self, topic: str, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Sets the handler for a topic, for requests from the parent or another worker."""
        self._answers[topic] = answer

    async def listening(self) -> None:
        """Reports that it accepts connections from now on."""
        await self._link.ask("listening", bound=_TELL_SECONDS)

    async def ready(self) -> None:
        """Reports that all versions are loaded that should be."""
        await self._link.ask("ready", bound=_TELL_SECONDS)

    async def leave(self, snapshot: bytes) -> None:
        """Sends its final counts, if the parent still listens."""
        try:
            await self._link.ask("leave", snapshot, bound=_TELL_SECONDS)
        except TurnoutError:
            return

    async def scrape(self, content_type: str) -> AsyncIterator[bytes]:
        """Returns the metrics of all workers in a format.

        Raises:
            UnavailableError: The parent does not answer.
        """
        return in_blocks(await self._link.ask("scrape", content_type.encode(), bound=SCRAPE_SECONDS))

    async def gather(self, topic: str, body: bytes = b"", *, bound: float) -> Mapping[int, bytes | UnavailableError]:
        """Returns the answer of each other running worker, by its number.

        Args:
            topic: One that they have a handler for.
            body: Of the request.
            bound: Seconds to wait for each.

        Raises:
            UnavailableError: The parent does not answer.
        """
        request = struct.pack(">d16s", bound, topic.encode()) + body
        return dict(unpack_answers(await self._link.ask("gather", request, bound=bound + _TELL_SECONDS)))

    def close(self) -> None:
        """Closes the link; the parent notices the end of the process by itself."""
        self._link.close()

    async def _answer(self, topic: str, body: bytes) -> bytes:
        if topic == "others":
            self.others_ready = body == b"1"
            self.on_change()
        elif topic == "listen":
            self.listen_now.set()
        elif (answer := self._answers.get(topic)) is not None:
            return await answer(body)
        else:
            raise UnavailableError(f"this worker does not answer {topic!r} yet")
        return b""


def read_gather(body: bytes) -> tuple[float, str, bytes]:
    """Returns bound, topic and body of a request of `Member.gather`."""
    bound, topic = struct.unpack_from(">d16s", body)
    return bound, topic.rstrip(b"\0").decode(), body[24:]


def pack_answers(answers: Mapping[int, bytes | TurnoutError]) -> bytes:
    """Encodes answers for `unpack_answers`."""
    parts: list[bytes] = []
    for index, answer in answers.items():
        data = answer if isinstance(answer, bytes) else answer.message.encode()
        parts += [_PART.pack(index, isinstance(answer, bytes), len(data)), data]
    return b"".join(parts)


def unpack_answers(packed: bytes) -> Iterator[tuple[int, bytes | UnavailableError]]:
    """Yields each worker's number and its answer, or the error if it did not answer."""
    at = 0
    while at < len(packed):
        index, answered, length = _PART.unpack_from(packed, at)
        at += _PART.size
        data = packed[at : at + length]
        yield index, data if answered else UnavailableError(data.decode(errors="replace"))
        at += length
