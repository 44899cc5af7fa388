"""A worker's side: what it tells its parent, and asks of it and of the other workers."""

import pickle
import signal
import socket
import struct
from asyncio import Event, get_running_loop
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from turnout.config import Settings, SettingsSource
from turnout.errors import TurnoutError, UnavailableError
from turnout.telemetry.exposition import in_blocks
from turnout.workers.division import share_of
from turnout.workers.link import Link

SCRAPE_SECONDS = 8.0
"""What the sum of all workers may take; Prometheus waits 10 s by default."""

SNAPSHOT_SECONDS = 3.0
"""What one worker may take to tell what it counts; what it told last stands in."""

_HELLO_SECONDS = 30.0
_TELL_SECONDS = 10.0

_PART = struct.Struct(">I?I")

_PORTS = ("grpc", "http", "control")


Asked = Sequence[tuple[str, str, bool]]
"""Model, version, and whether it is to be loaded or kept out: what operators asked for."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a worker is told at its start.

    Attributes:
        settings: Its own, with the ports of the server, and its part of what is divided.
        given: Those of the server, as they were read when it started.
        source: Reads them anew.
        index: Its number, from 0.
        control: It has the control listener.
        waits: It takes no connection before its versions are loaded, since other workers do.
        asked: What operators asked for since the server started.
    """

    settings: Settings
    given: Settings
    source: SettingsSource
    index: int
    control: bool
    waits: bool
    asked: Asked

    def read(self) -> Settings:
        """Returns this worker's settings, read anew, with the ports and the share that it has.

        Raises:
            ConfigError: They are wrong.
        """
        fresh = self.source.read()
        unchanged = [name for name in _PORTS if getattr(fresh, name) == getattr(self.given, name)]
        same = {name: getattr(self.settings, name) for name in unchanged}
        share = share_of(fresh.model_copy(update=same | {"workers": self.given.workers}), self.index)
        return share.model_copy(update={"workers": fresh.workers})


class Member:
    """One of several workers. Used on the event loop only.

    Attributes:
        start: What it was told.
        others_ready: Every other worker that takes connections is ready.
        listen_now: Set when it must not wait any longer before it takes connections.
        on_change: Called when `others_ready` changed.
        hung_up: Set by SIGHUP, which may come before there is a server.
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
        """Returns the worker at one end of a socket pair, told what to do.

        Args:
            descriptor: Of its end.

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
        """Has `call` called when the parent is gone, or the link was closed."""
        self._link.closed.add_done_callback(lambda _: call())

    def answers(self, topic: str, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Says what answers the requests of a topic, of the parent or of another worker."""
        self._answers[topic] = answer

    async def listening(self) -> None:
        """Tells that it takes connections from now on."""
        await self._link.ask("listening", bound=_TELL_SECONDS)

    async def ready(self) -> None:
        """Tells that all that should be loaded is."""
        await self._link.ask("ready", bound=_TELL_SECONDS)

    async def leave(self, snapshot: bytes) -> None:
        """Tells what it counted in the end, as far as the parent still listens."""
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
        """Returns what each other worker that runs answers, by its number.

        Args:
            topic: One that they have an answer for.
            body: Of the request.
            bound: Seconds that each may take.

        Raises:
            UnavailableError: The parent does not answer.
        """
        request = struct.pack(">d16s", bound, topic.encode()) + body
        return dict(unpack_answers(await self._link.ask("gather", request, bound=bound + _TELL_SECONDS)))

    def close(self) -> None:
        """Ends the link; the parent sees the process's end by itself."""
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
    """Returns what `unpack_answers` reads."""
    parts: list[bytes] = []
    for index, answer in answers.items():
        data = answer if isinstance(answer, bytes) else answer.message.encode()
        parts += [_PART.pack(index, isinstance(answer, bytes), len(data)), data]
    return b"".join(parts)


def unpack_answers(packed: bytes) -> Iterator[tuple[int, bytes | UnavailableError]]:
    """Yields what each worker answered, by its number; why it did not, in an error."""
    at = 0
    while at < len(packed):
        index, answered, length = _PART.unpack_from(packed, at)
        at += _PART.size
        data = packed[at : at + length]
        yield index, data if answered else UnavailableError(data.decode(errors="replace"))
        at += length
