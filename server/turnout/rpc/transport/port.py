"""The interface between gRPC methods and the transports that carry their calls.

    transport: one serialized message -> method -> one serialized message -> transport

A transport frames messages, limits their size, enforces deadlines, cancels the task of a call that the client has
cancelled, and sends the status. A method does not depend on a transport: it takes serialized messages, returns or
writes serialized messages, and raises StatusError. `turnout.rpc.guard` wraps every method so that it raises only
StatusError and asyncio.CancelledError.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from google.rpc.status_pb2 import Status

from turnout.admission.unread import Unsent
from turnout.auth.caller import Caller
from turnout.chunks import Serialized
from turnout.config import Address

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]
"""Pairs of a lowercase key and a value, which is `bytes` for keys that end in `-bin` and `str` otherwise."""


class StatusError(Exception):
    """Raised by a method to end its call with a status other than OK."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        self.status = status


class FixedMetadata(tuple[tuple[str, str], ...]):
    """Trailing metadata that many calls share; a transport caches its own form of it in `prepared`."""

    prepared: Any = None


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a large response, which are sent one after the other instead of being copied together.

    `unsent` counts them, and is released when the last of them has been sent. The last should be small: it is copied.
    """

    parts: Sequence[bytes]
    unsent: Unsent


Response: TypeAlias = bytes | Parts

RESPONSES = (bytes, Parts)
"""The types of `Response`, for `isinstance`. A union expression would create a new object on each use."""

JOINED_BYTES = 128 * 1024
"""Size in bytes up to which pieces are joined before sending, since copying costs less than sending another piece."""


class RpcCall(ABC):
    """One call, as its method sees it.

    Attributes:
        trailing: Metadata to send with the status OK; the method sets it before it returns.
        caller: The authenticated caller; None before authentication, and if `[auth]` is not enabled.
    """

    trailing: Metadata
    caller: Caller | None = None

    @property
    @abstractmethod
    def metadata(self) -> Metadata:
        """The metadata that the client sent. Raises InvalidRequest if it cannot be read."""

    @abstractmethod
    def mentions(self, keys: frozenset[bytes]) -> bool:
        """Returns whether `metadata` contains one of the keys, which are ASCII. Cheaper than searching `metadata`."""

    @property
    @abstractmethod
    def deadline(self) -> float | None:
        """The client's deadline on the `time.monotonic()` clock, in seconds; None if it set none."""

    @property
    def connection(self) -> Hashable:
        """A key of the connection that carries the call; the call itself if the transport does not tell."""
        return self

    @property
    @abstractmethod
    def host(self) -> str:
        """The caller's IP address; "" if it has none."""

    @property
    @abstractmethod
    def authorization(self) -> str:
        """The `authorization` header; "" if it is absent. Repeated headers are joined by commas."""

    @property
    @abstractmethod
    def certificate(self) -> str:
        """The client's leaf certificate in PEM, verified against `tls.client_ca`; "" if it presented none."""


class Stream(RpcCall):
    """A call with any number of messages each way."""

    @abstractmethod
    async def read(self) -> bytes | None:
        """Returns the client's next message; None after its last message."""

    async def read_some(self, most: int) -> Sequence[Serialized]:
        """Returns at most `most` messages that the client has sent; an empty sequence after its last message.

        Waits only until the first message has arrived. A large message is returned alone or last.
        """
        message = await self.read()
        return () if message is None else (message,)

    @abstractmethod
    async def write(self, message: bytes) -> None:
        """Sends a message. Returns when there is room for the next one.

        Raises:
            asyncio.CancelledError: The client has disconnected.
        """

    async def write_all(self, messages: Sequence[bytes]) -> None:
        """Sends messages, together if the transport supports that. Returns when there is room for more.

        Raises the same errors as `write`.
        """
        for message in messages:
            await self.write(message)


@dataclass(frozen=True, slots=True)
class Unary:
    """A method that takes one message and returns one message.

    Attributes:
        answer: Takes the request. Returns the response, or an awaitable of it if the method has to wait.
        prompt: Whether the method usually does not have to wait. Such a method is started without a task:
            `asyncio.current_task` returns None until the method first waits.
    """

    answer: Callable[[Serialized, RpcCall], Response | Awaitable[Response]]
    prompt: bool = False

    async def respond(self, message: Serialized, call: RpcCall) -> Response:
        """Returns the response, waiting for it if necessary."""
        done = self.answer(message, call)
        return done if isinstance(done, RESPONSES) else await done


@dataclass(frozen=True, slots=True)
class Streaming:
    """A method for which the client, the server, or both send any number of messages; the wire format is the same.

    `serve` reads and writes messages. When it returns, the call ends with OK.
    """

    serve: Callable[[Stream], Awaitable[None]]


Method: TypeAlias = Unary | Streaming

Methods: TypeAlias = Mapping[str, Method]
"""Methods by path: `/package.Service/Method`."""

ALWAYS_TAKEN = "/grpc.health.v1.Health/"
"""Path prefix of calls that are always admitted: operators need health checks most when a server is overloaded."""


class CallListener(Protocol):
    """A listener that carries calls to methods from `start` until `stop`."""

    @property
    def address(self) -> Address:
        """The address that the listener is bound to, with the actual port."""
        ...

    async def start(self) -> None:
        """Starts accepting connections."""
        ...

    async def finish(self, grace: float) -> None:
        """Waits up to `grace` seconds for calls in flight.

        Until `stop`, connections are accepted, so that the methods can reject the calls that still come.
        """
        ...

    async def stop(self, grace: float) -> None:
        """Sends GOAWAY to clients, waits up to `grace` seconds for calls in flight, then cancels the rest."""
        ...
