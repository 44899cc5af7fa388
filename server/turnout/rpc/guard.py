"""Wraps every method of every service: whatever arrives, the client gets a well-formed status.

Bytes that are not a message, and messages beyond the limits, are INVALID_ARGUMENT; an unexpected error is INTERNAL,
without details. Both are counted and logged.
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
        limits: On the contents of requests.
        max_message_bytes: Size of the largest answer.
        thread: Parses large messages.
        faults: Counts unparsable messages and unexpected errors.
        log: Receives both.
        authority: Decides who may call what; None if `[auth]` is not enabled.
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
        """Returns the reader of messages of a type."""
        return MessageReader(message, self.limits, self.thread)

    def unary(
        self,
        service: str,
        behaviour: Callable[[bytes, RpcCall], Response | Awaitable[Response]],
        *,
        prompt: bool = False,
    ) -> Unary:
        """Returns a unary method whose behaviour parses, serialises and checks limits itself.

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
            raise StatusError(status)  # outside of `except`: it would keep the message alive, as the error does

        async def awaited(rest: Awaitable[Response]) -> Response:
            try:
                return await rest
            except Exception as error:  # noqa: BLE001 - as above
                status = self._ended(service, error)
            raise StatusError(status)

        return Unary(answer, prompt)

    def streaming(self, service: str, behaviour: Callable[[Stream], Awaitable[None]]) -> Streaming:
        """Returns a streaming method whose behaviour parses, serialises and checks limits itself."""

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
            service: Describes the methods, their messages, and which of them are streams.
            servicers: For each method, one of them has a coroutine function of that name, which raises TurnoutError to
                refuse. It takes the request, or an asynchronous iterator of requests. It returns the response, or
                takes `write` as well, which sends one and returns when there is room for the next.
            called: The same for unary methods that also take the call.
            name: The name by which clients call the service; its own if empty.
            apart: Methods to leave out.
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
        """Checks that an answer may be sent.

        Raises:
            Exhausted: It is larger than a message may be; a transport would end the whole stream for that.
        """
        if size > self.max_message_bytes:
            raise Exhausted(
                f"the answer has {size} bytes, and at most {self.max_message_bytes} can be sent "
                "(limits.max_message_bytes)"
            )

    def _ended(self, service: str, error: Exception) -> Status:
        """Returns the status of a failed call, and releases everything that the call held.

        The thread that raised the error keeps it until it gets a core again, and the traceback keeps the message alive:
        a low-priority thread on a busy machine kept 75 MiB of a refused message of 24 MiB.
        """
        status = self._status(service, error)
        kept: BaseException | None = error
        while kept is not None:
            kept.__traceback__ = None
            kept = kept.__context__
        return status

    def _status(self, service: str, error: Exception) -> Status:
        """Returns the status of an error; counts and logs an unexpected one first."""
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
        """Returns a method of any of the four kinds, by its descriptor."""
        takes_call = getattr(behaviour, "__self__", None) in called
        reader = self.reader(GetMessageClass(method.input_type))
        check = MessageCheck.of(f"/{service}/{method.name}", method, self.authority, self.model_of_upload)

        async def parsed(data: bytes) -> Message:
            try:
                return await reader.read(data)
            except InvalidRequest as error:
                if isinstance(error, MalformedMessage):
                    self.faults.malformed[service] += 1
                self.log.warning("refused a message", service=service, method=method.name, error=error.message)
                raise

        def ready(answer: Message, call: RpcCall) -> bytes:
            if check is not None:
                check.response(call, answer)
            return self.sized(answer.SerializeToString())

        if not method.client_streaming and not method.server_streaming:

            async def answer(data: bytes, call: RpcCall) -> bytes:
                request = await parsed(data)
                if check is not None:
                    check.request(call, request)
                return ready(await (behaviour(request, call) if takes_call else behaviour(request)), call)

            return self.unary(service, answer)

        async def serve(stream: Stream) -> None:
            again: Callable[[], None] | None = None  # later messages, each way, continue what the first one asks for

            async def read() -> Message | None:
                nonlocal again
                if (data := await stream.read()) is None:
                    return None
                request = await parsed(data)
                if again is not None:
                    again()
                elif check is not None:
                    again = check.request(stream, request)
                return request

            async def requests() -> AsyncIterator[Message]:
                while (request := await read()) is not None:
                    yield request

            async def write(answer: Message) -> None:
                if again is not None:
                    again()
                await stream.write(ready(answer, stream))

            if method.client_streaming:
                begun = behaviour(requests(), *([write] if method.server_streaming else []))
            elif (request := await read()) is None:
                raise InvalidRequest("expected a message, and none came")
            else:
                begun = behaviour(request, write)
            if method.server_streaming:
                await begun
            else:
                await write(await begun)

        return self.streaming(service, serve)


def _behaviour(servicers: Sequence[object], method: str) -> Callable[..., Awaitable[Any]]:
    for servicer in servicers:
        if (behaviour := getattr(servicer, method, None)) is not None:
            found: Callable[..., Awaitable[Any]] = behaviour
            return found
    raise AttributeError(f"no servicer has {method}")
