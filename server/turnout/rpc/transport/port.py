"""The port between gRPC methods and what carries their calls.

    transport: one serialised message -> method -> one serialised message -> transport

A transport frames messages, bounds their size, keeps deadlines, cancels the task of a call that the client gave up, and
sends the status. A method knows no transport: it takes serialised messages, returns or writes serialised messages, and
raises StatusError. `turnout.rpc.guard` wraps every method so that it raises nothing else but asyncio.CancelledError.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from google.rpc.status_pb2 import Status

from turnout.auth.caller import Caller
from turnout.config import Address

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]
"""Keys in lower case, and values: `bytes` for keys that end in `-bin`, else `str`."""


class StatusError(Exception):
    """Ends a call with a status other than OK."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        self.status = status


class FixedMetadata(tuple[tuple[str, str], ...]):
    """Metadata that many calls are answered with.

    Attributes:
        prepared: What a transport has made of it; None before the first call.
    """

    prepared: Any = None


class Parts(tuple[bytes, ...]):
    """The pieces of a large response, which are sent one after the other rather than copied into one."""


Response: TypeAlias = bytes | Parts

RESPONSES = (bytes, Parts)
"""The same, for `isinstance`: a union is made anew each time that it is named."""

JOINED_BYTES = 128 * 1024
"""Up to which pieces are copied into one, which costs less than to send another."""


class RpcCall(ABC):
    """One call, as its method sees it.

    Attributes:
        trailing: Metadata that is sent with the status OK; set by the method before it returns.
        caller: Who calls, once that is known; None before that, and if `[auth]` is not enabled.
    """

    trailing: Metadata
    caller: Caller | None = None

    @property
    @abstractmethod
    def metadata(self) -> Metadata:
        """The metadata that the client sent. Raises InvalidRequest if it cannot be read."""

    @abstractmethod
    def mentions(self, keys: frozenset[bytes]) -> bool:
        """Tells whether `metadata` has one of the keys, which are ASCII; cheaper than to look for them there."""

    @property
    @abstractmethod
    def deadline(self) -> float | None:
        """`time.monotonic()` of the client's deadline; None if it set none."""

    @property
    @abstractmethod
    def host(self) -> str:
        """The caller's IP address; "" if it has none."""

    @property
    @abstractmethod
    def authorization(self) -> str:
        """The `authorization` header; "" if there is none."""

    @property
    @abstractmethod
    def certificate(self) -> str:
        """The client's own certificate, in PEM, which an authority of `tls.client_ca` signed; "" if it showed none."""


class Stream(RpcCall):
    """A call with any number of messages each way."""

    @abstractmethod
    async def read(self) -> bytes | None:
        """Returns the client's next message; None once it has sent its last."""

    async def read_some(self, most: int) -> Sequence[bytes]:
        """Returns the client's next messages, of which `most` at most have come; none once it has sent its last.

        It waits for the first only. Large messages come alone or last.
        """
        message = await self.read()
        return () if message is None else (message,)

    @abstractmethod
    async def write(self, message: bytes) -> None:
        """Sends a message; returns when there is room for the next."""

    async def write_all(self, messages: Sequence[bytes]) -> None:
        """Sends messages, all at once if the transport can; returns when there is room for more."""
        for message in messages:
            await self.write(message)


@dataclass(frozen=True, slots=True)
class Unary:
    """A method with one message each way.

    Attributes:
        answer: Takes the request, and returns the response, or an awaitable of it if it has to wait.
        prompt: Whether it usually does not wait. If so, it is started without a task: until it first waits,
            `asyncio.current_task` is None.
    """

    answer: Callable[[bytes, RpcCall], Response | Awaitable[Response]]
    prompt: bool = False

    async def respond(self, message: bytes, call: RpcCall) -> Response:
        """Returns the response, once it is there."""
        done = self.answer(message, call)
        return done if isinstance(done, RESPONSES) else await done


@dataclass(frozen=True, slots=True)
class Streaming:
    """A method whose client, server, or both send any number of messages: on the wire they are alike.

    Attributes:
        serve: Reads and writes until it returns, which ends the call with OK.
    """

    serve: Callable[[Stream], Awaitable[None]]


Method: TypeAlias = Unary | Streaming

Methods: TypeAlias = Mapping[str, Method]
"""By path: `/package.Service/Method`."""

ALWAYS_TAKEN = "/grpc.health.v1.Health/"
"""Calls of such a path are accepted however many are in flight: operators need them most when a server is full."""


class CallListener(Protocol):
    """Carries calls to methods, from `start` until `stop`."""

    @property
    def address(self) -> Address:
        """Where it listens, with the real port."""
        ...

    async def start(self) -> None:
        """Starts to accept connections."""
        ...

    async def stop(self, grace: float) -> None:
        """Tells clients to go elsewhere (GOAWAY), waits `grace` seconds for calls under way, then cancels the rest."""
        ...
