"""Wraps every method of every service so that clients always receive a well-formed status.

Bytes that cannot be parsed and messages that exceed the limits result in INVALID_ARGUMENT. An unexpected error results
in INTERNAL, without details. Both are counted and logged.
"""

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.status_pb2 import Status
from structlog.typing import FilteringBoundLogger

from turnout.admission.unread import UnsentBudget
from turnout.auth.authority import Authority
from turnout.chunks import Serialized
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
from turnout.serving.inputs.limits import InputLimits
from turnout.telemetry.metrics.faults import FaultRecorder
from turnout.threads import Threads

_UNEXPECTED = "the call failed inside the server; see the server's log"


@dataclass(frozen=True, slots=True)
class MethodGuard:
    """Wraps methods with parsing, limits, authorization of messages and error handling.

    Attributes:
        max_message_bytes: Maximum size of a response in bytes.
        thread: Thread that parses large messages.
        unsent: Limit on the total size of the large answers that clients have not read.
        authority: Authorizes callers; None if `[auth]` is not enabled.
        model_of_upload: Returns the model of an upload, which authorization needs.
    """

    limits: InputLimits
    max_message_bytes: int
    thread: Threads
    faults: FaultRecorder
    log: FilteringBoundLogger
    unsent: UnsentBudget
    authority: Authority | None = None
    model_of_upload: ModelOfUpload = lambda _: None

    def reader(self, message: type[MessageT]) -> MessageReader[MessageT]:
        """Returns a reader of messages of the given type."""
        return MessageReader(message, self.limits, self.thread)

    def unary(
        self,
        service: str,
        behaviour: Callable[[Serialized, RpcCall], Response | Awaitable[Response]],
        *,
        prompt: bool = False,
    ) -> Unary:
        """Returns a unary method whose behaviour parses, serializes and checks limits itself.

        `behaviour` and `prompt` are as for `Unary`, but `behaviour` may raise any exception.
        """

        def answer(message: Serialized, call: RpcCall) -> Response | Awaitable[Response]:
            try:
                done = behaviour(message, call)
            except Exception as error:  # noqa: BLE001 - the client would otherwise see the exception's message
                status = self._ended(service, error)
            else:
                return done if isinstance(done, RESPONSES) else awaited(done)
            raise StatusError(status)  # raised outside `except`, whose error would keep the message alive

        async def awaited(rest: Awaitable[Response]) -> Response:
            try:
                return await rest
            except Exception as error:  # noqa: BLE001 - as above
                status = self._ended(service, error)
            raise StatusError(status)

        return Unary(answer, prompt)

    def streaming(self, service: str, behaviour: Callable[[Stream], Awaitable[None]]) -> Streaming:
        """Returns a streaming method whose behaviour parses, serializes and checks limits itself."""

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
        name: str = "",
        apart: Collection[str] = (),
        skip_unimplemented: bool = False,
    ) -> Methods:
        """Returns the methods of a service, by path.

        Args:
            service: Descriptor of the service.
            servicers: Objects that implement the methods as coroutine functions of the same names. A function takes the
                request, or an asynchronous iterator of requests if the client streams. It returns the response; if the
                server streams, it also takes `write`, which sends a response and returns when there is room for the
                next. That of a unary method may also take `call`. It raises TurnoutError to reject a call.
            name: The name by which clients call the service; the descriptor's name if empty.
            apart: Names of methods to leave out.
            skip_unimplemented: Whether to leave out methods that no object implements, so that calls of them end with
                UNIMPLEMENTED. For protocols of dependencies, which add methods in later releases.

        Raises:
            AttributeError: No object implements a method.
        """
        name = name or service.full_name
        self.faults.watch(name)
        methods: dict[str, Method] = {}
        for method in service.methods:
            behaviour = next(filter(None, (getattr(servicer, method.name, None) for servicer in servicers)), None)
            if method.name in apart or (behaviour is None and skip_unimplemented):
                continue
            if behaviour is None:
                raise AttributeError(f"no servicer has {method.name}")
            methods[f"/{name}/{method.name}"] = self._method(name, method, behaviour)
        return methods

    def check_size(self, size: int) -> None:
        """Checks that a response of `size` bytes may be sent.

        Raises:
            Exhausted: The response exceeds the maximum message size, for which a transport would end the whole stream.
        """
        if size > self.max_message_bytes:
            raise Exhausted(
                f"the answer has {size} bytes, and at most {self.max_message_bytes} can be sent "
                "(limits.max_message_bytes)"
            )

    def _ended(self, service: str, error: Exception) -> Status:
        """Returns the status of a failed call, and drops the error's tracebacks, which keep the message in memory.

        The thread that raised the error refers to it until the thread is scheduled again. On a busy machine, a
        low-priority thread kept 75 MiB in memory for a rejected message of 24 MiB.
        """
        status = self._status(service, error)
        kept: BaseException | None = error
        while kept is not None:
            kept.__traceback__ = None
            kept = kept.__context__
        return status

    def _status(self, service: str, error: Exception) -> Status:
        """Returns the status for an error. Counts and logs unexpected errors."""
        if isinstance(error, StatusError):
            return error.status
        if not isinstance(error, TurnoutError):
            self.faults.unexpected[service] += 1
            self.log.error("unexpected error", service=service, exc_info=error)
            error = ModelFailure(_UNEXPECTED)
        return to_status(error)

    def _method(self, service: str, method: MethodDescriptor, behaviour: Callable[..., Awaitable[Any]]) -> Method:
        reader = self.reader(GetMessageClass(method.input_type))
        check = MessageCheck.of(f"/{service}/{method.name}", method, self.authority, self.model_of_upload)

        async def parsed(data: Serialized) -> Message:
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
            data = answer.SerializeToString()
            self.check_size(len(data))
            return data

        if not method.client_streaming and not method.server_streaming:
            takes_call = _takes_call(getattr(behaviour, "__func__", behaviour))

            async def answer(data: Serialized, call: RpcCall) -> bytes:
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


@functools.cache
def _takes_call(function: Callable[..., Awaitable[Any]]) -> bool:
    return "call" in inspect.signature(function).parameters
