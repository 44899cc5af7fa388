"""What every method of every service is wrapped in: whatever comes, the client gets a status of this server's making.

Bytes that are no message, and messages beyond the limits, are INVALID_ARGUMENT; an error that nobody foresaw is
INTERNAL and says so, no more. Both are counted and logged.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.status_pb2 import Status
from structlog.typing import FilteringBoundLogger

from turnout.auth.authority import Authority
from turnout.errors import Exhausted, InvalidRequest, MalformedMessage, ModelFailure, TurnoutError
from turnout.rpc.authorization import MessageCheck, ModelOfUpload
from turnout.rpc.errors import to_status
from turnout.rpc.parsing.reader import MessageReader, MessageT
from turnout.rpc.transport.port import (
    RESPONSES,
    Method,
    Methods,
    Response,
    RpcCall,
    StatusError,
    Stream,
    Streaming,
    Unary,
)
from turnout.serving.data_plane.conversion import ConversionThread
from turnout.serving.inputs.limits import InputLimits
from turnout.telemetry.metrics.faults import FaultRecorder

_UNEXPECTED = "the call failed inside the server, whose log tells why"


@dataclass(frozen=True, slots=True)
class MethodGuard:
    """Wraps methods.

    Attributes:
        limits: On what requests may hold.
        max_message_bytes: Largest answer.
        thread: Parses large messages.
        faults: Counts what cannot be parsed and what nobody foresaw.
        log: Tells of both.
        authority: Says who may call what; None if `[auth]` is not enabled.
        model_of_upload: Finds the model of an upload, for that.
    """

    limits: InputLimits
    max_message_bytes: int
    thread: ConversionThread
    faults: FaultRecorder
    log: FilteringBoundLogger
    authority: Authority | None = None
    model_of_upload: ModelOfUpload = lambda _: None

    def reader(self, message: type[MessageT]) -> MessageReader[MessageT]:
        """Returns what parses messages of a type."""
        return MessageReader(message, self.limits, self.thread)

    def unary(
        self,
        service: str,
        behaviour: Callable[[bytes, RpcCall], Response | Awaitable[Response]],
        *,
        prompt: bool = False,
    ) -> Unary:
        """Returns the method of a service whose behaviour parses, serialises and bounds by itself.

        Args:
            service: Full name.
            behaviour: As `Unary.answer`; raises whatever it does.
            prompt: As `Unary.prompt`.
        """

        def answer(message: bytes, call: RpcCall) -> Response | Awaitable[Response]:
            try:
                done = behaviour(message, call)
            except Exception as error:  # noqa: BLE001 - the client would get its words
                status = self._ended(service, error)
            else:
                return done if isinstance(done, RESPONSES) else awaited(done)
            raise StatusError(status)  # outside of `except`: it would lead to the message, as the error does

        async def awaited(rest: Awaitable[Response]) -> Response:
            try:
                return await rest
            except Exception as error:  # noqa: BLE001 - as above
                status = self._ended(service, error)
            raise StatusError(status)

        return Unary(answer, prompt)

    def streaming(self, service: str, behaviour: Callable[[Stream], Awaitable[None]]) -> Streaming:
        """Returns the method of a service whose behaviour parses, serialises and bounds by itself."""

        async def serve(stream: Stream) -> None:
            try:
                return await behaviour(stream)
            except Exception as error:  # noqa: BLE001 - as above
                status = self._ended(service, error)
            raise StatusError(status)

        return Streaming(serve)

    def methods(
        self,
        service: ServiceDescriptor,
        *servicers: object,
        called: Sequence[object] = (),
        name: str = "",
        apart: Collection[str] = (),
    ) -> Methods:
        """Returns the methods of a service, by path.

        Args:
            service: Names the methods, their messages, and which of them are streams.
            servicers: One of them has a coroutine function by the name of each method, which raises TurnoutError where
                it refuses. It takes the request, or an asynchronous iterator of requests. It returns the response, or
                takes `write` beside that, which sends one and returns when there is room for the next.
            called: Servicers likewise, of unary methods only, which take the call beside the request.
            name: That clients call the service by; empty: its own.
            apart: Methods that are left out.
        """
        name = name or service.full_name
        self.faults.watch(name)
        return {
            f"/{name}/{method.name}": self._method(name, method, _behaviour([*servicers, *called], method.name), called)
            for method in service.methods
            if method.name not in apart
        }

    def sized(self, answer: bytes) -> bytes:
        """Returns a serialised answer. Raises as `check_size`."""
        self.check_size(len(answer))
        return answer

    def check_size(self, size: int) -> None:
        """Passes if an answer may be sent.

        Raises:
            Exhausted: It is larger than messages may be; a transport would end the whole stream for that.
        """
        if size > self.max_message_bytes:
            raise Exhausted(
                f"the answer has {size} bytes, and at most {self.max_message_bytes} can be sent "
                "(limits.max_message_bytes)"
            )

    def _ended(self, service: str, error: Exception) -> Status:
        """Returns the status that a call ends with, and leaves nothing of the call behind.

        A thread that the error came from keeps it until it gets a core again, and its traceback leads to the message: a
        thread of low priority on a busy machine kept 75 MiB of a refused message of 24 MiB.
        """
        status = self._status(service, error)
        kept: BaseException | None = error
        while kept is not None:
            kept.__traceback__ = None
            kept = kept.__context__
        return status

    def _status(self, service: str, error: Exception) -> Status:
        """Returns the status of an error; one that nobody foresaw is counted and logged first."""
        if isinstance(error, StatusError):
            return error.status
        if not isinstance(error, TurnoutError):
            self.faults.unexpected[service] += 1
            self.log.error("unexpected error", service=service, exc_info=error)
            error = ModelFailure(_UNEXPECTED)
        return to_status(error)

    def _method(
        self, service: str, method: MethodDescriptor, behaviour: Callable[..., Awaitable[Any]], called: Sequence[object]
    ) -> Method:
        """Returns a method that generated messages describe, of any of the four kinds."""
        takes_call = getattr(behaviour, "__self__", None) in called
        reader = self.reader(GetMessageClass(method.input_type))
        check = MessageCheck.of(f"/{service}/{method.name}", method, self.authority, self.model_of_upload)

        async def parsed(data: bytes, call: RpcCall, *, first: bool = True) -> Message:
            try:
                request = await reader.read(data)
            except InvalidRequest as error:
                if isinstance(error, MalformedMessage):
                    self.faults.malformed[service] += 1
                self.log.warning("refused a message", service=service, method=method.name, error=error.message)
                raise
            if check is not None and first:  # what follows on a stream goes on with what the first began
                check.request(call, request)
            return request

        def ready(answer: Message, call: RpcCall) -> bytes:
            if check is not None:
                check.response(call, answer)
            return self.sized(answer.SerializeToString())

        if not method.client_streaming and not method.server_streaming:

            async def answer(data: bytes, call: RpcCall) -> bytes:
                request = await parsed(data, call)
                return ready(await (behaviour(request, call) if takes_call else behaviour(request)), call)

            return self.unary(service, answer)

        async def requests(stream: Stream) -> AsyncIterator[Message]:
            first = True
            while (data := await stream.read()) is not None:
                yield await parsed(data, stream, first=first)
                first = False

        async def only(stream: Stream) -> Message:
            if (data := await stream.read()) is None:
                raise InvalidRequest("expected a message, and none came")
            return await parsed(data, stream)

        async def serve(stream: Stream) -> None:
            async def write(answer: Message) -> None:
                await stream.write(ready(answer, stream))

            request = requests(stream) if method.client_streaming else await only(stream)
            if method.server_streaming:
                await behaviour(request, write)
            else:
                await write(await behaviour(request))

        return self.streaming(service, serve)


def _behaviour(servicers: Sequence[object], method: str) -> Callable[..., Awaitable[Any]]:
    for servicer in servicers:
        if (behaviour := getattr(servicer, method, None)) is not None:
            found: Callable[..., Awaitable[Any]] = behaviour
            return found
    raise AttributeError(f"no servicer has {method}")
