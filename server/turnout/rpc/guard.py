"""What every method of every service is wrapped in: whatever comes, the client gets a status of this server's making.

Bytes that are no message, and messages beyond the limits, are INVALID_ARGUMENT; an error that nobody foresaw is
INTERNAL and says so, no more. Both are counted and logged. gRPC itself would answer UNKNOWN with the words of Python's
exception.

Answers are serialised here as well, since gRPC does so where nothing catches what that raises.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message
from structlog.typing import FilteringBoundLogger

from turnout.errors import Exhausted, InvalidRequest, ModelFailure, TurnoutError
from turnout.rpc.errors import abort
from turnout.rpc.reading import Malformed, MessageReader, MessageT, Unparsed, deserialiser
from turnout.serving.conversion import ConversionThread
from turnout.serving.limits import InputLimits
from turnout.telemetry.faults import FaultRecorder

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_UNEXPECTED = "the call failed inside the server, whose log tells why"


@dataclass(frozen=True, slots=True)
class Guard:
    """Wraps methods.

    Attributes:
        limits: On what requests may hold.
        max_message_bytes: Largest answer.
        thread: Parses large messages.
        faults: Counts what cannot be parsed and what nobody foresaw.
        log: Tells of both.
    """

    limits: InputLimits
    max_message_bytes: int
    thread: ConversionThread
    faults: FaultRecorder
    log: FilteringBoundLogger

    def reader(self, message: type[MessageT]) -> MessageReader[MessageT]:
        """Returns what parses large messages of a type."""
        return MessageReader(message, self.limits, self.thread)

    def handlers(self, service: str, handlers: Mapping[str, Handler]) -> Mapping[str, Handler]:
        """Returns the handlers of a service, by method, guarded."""
        return {method: self._guarded(service, method, handler) for method, handler in handlers.items()}

    def unary(self, service: str, behaviour: Callable[[Any, Context], Any], request: type[Message]) -> Handler:
        """Returns the handler of a unary method whose behaviour takes `request | Unparsed` and returns bytes."""

        async def call(message: Any, context: Context) -> bytes:
            try:
                answer: bytes = await behaviour(message, context)
            except Exception as error:  # noqa: BLE001 - the client would get its words
                del message  # or it lives as long as the error, as in `_failed`
                if isinstance(error, TurnoutError):
                    self.note(service, error)
                await self._failed(service, context, error)
            return answer

        return grpc.unary_unary_rpc_method_handler(call, request_deserializer=deserialiser(request))

    def streaming(self, service: str, behaviour: Callable[[Any, Context], Any], request: type[Message]) -> Handler:
        """Returns the handler of a stream whose behaviour reads `request | Unparsed` and writes bytes itself."""

        async def call(messages: Any, context: Context) -> None:
            try:
                await behaviour(messages, context)
            except Exception as error:  # noqa: BLE001 - as above
                await self._failed(service, context, error)

        return grpc.stream_stream_rpc_method_handler(call, request_deserializer=deserialiser(request))

    def note(self, service: str, error: TurnoutError) -> None:
        """Counts a message that could not be parsed; other errors are those of calls, which are counted as such."""
        if isinstance(error, Malformed):
            self.faults.malformed[service] += 1

    def sized(self, answer: bytes) -> bytes:
        """Returns a serialised answer.

        Raises:
            Exhausted: It is larger than messages may be; gRPC would end the whole stream for that.
        """
        if len(answer) > self.max_message_bytes:
            raise Exhausted(
                f"the answer has {len(answer)} bytes, and at most {self.max_message_bytes} can be sent "
                "(limits.max_message_bytes)"
            )
        return answer

    def _guarded(self, service: str, method: str, handler: Handler) -> Handler:
        """Returns a handler of generated code, guarded: all four kinds."""
        behaviours = handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream
        behaviour: Any = next(filter(None, behaviours))
        parse: Any = handler.request_deserializer
        serialise: Any = handler.response_serializer
        if parse is None:
            return handler  # it takes bytes as they come, and refuses the call
        message: type[Message] = parse.__self__
        reader = self.reader(message)

        async def taken(request: Any) -> Any:
            if type(request) is not Unparsed:
                return request
            try:
                return (await reader.read(request))[0]
            except InvalidRequest as error:
                self.note(service, error)
                self.log.warning("refused a message", service=service, method=method, error=error.message)
                raise

        async def taken_all(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
            async for request in requests:
                yield await taken(request)

        def ready(answer: Any) -> bytes:
            return self.sized(answer if isinstance(answer, bytes) else serialise(answer))

        streams_in = bool(handler.request_streaming)

        async def one(request: Any, context: Context) -> Any:
            """Answers once, or writes the answers of a stream by itself."""
            try:
                answer = await behaviour(taken_all(request) if streams_in else await taken(request), context)
                return answer if answer is None else ready(answer)
            except Exception as error:  # noqa: BLE001 - told apart below
                del request
                await self._failed(service, context, error)

        async def many(request: Any, context: Context) -> AsyncIterator[bytes]:
            try:
                async for answer in behaviour(taken_all(request) if streams_in else await taken(request), context):
                    yield ready(answer)
            except Exception as error:  # noqa: BLE001 - told apart below
                del request
                await self._failed(service, context, error)

        call = many if inspect.isasyncgenfunction(behaviour) else one
        make = _MAKERS[streams_in, bool(handler.response_streaming)]
        return make(call, request_deserializer=deserialiser(message), response_serializer=ready)

    async def _failed(self, service: str, context: Context, error: Exception) -> None:
        """Ends a call by the status of `error`, and leaves nothing of it behind.

        gRPC keeps the error that ends a call in the call's context, which the error's traceback leads back to: until
        Python looks for such cycles, each refused message of 24 MiB kept 75 MiB.
        """
        try:
            if isinstance(error, TurnoutError):
                await abort(context, error)
            await self._unexpected(service, context, error)
        except grpc.aio.AbortError as ending:
            del error
            ending.__context__ = None
            raise ending.with_traceback(None) from None

    async def _unexpected(self, service: str, context: Context, error: Exception) -> None:
        if isinstance(error, grpc.aio.AbortError):
            raise error
        if context.done():  # the client left, and gRPC says so by an exception of its own
            raise asyncio.CancelledError from error
        self.faults.unexpected[service] += 1
        self.log.error("unexpected error", service=service, exc_info=error)
        await abort(context, ModelFailure(_UNEXPECTED))


class GuardedServer:
    """A server as generated code sees it: each service that is added to it is guarded."""

    def __init__(self, server: grpc.aio.Server, guard: Guard) -> None:
        self._server = server
        self._guard = guard

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Leaves them: generated code registers the same methods by name, too."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Adds the methods of a service, guarded."""
        self._guard.faults.watch(service)
        guarded = dict(self._guard.handlers(service, handlers))
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, guarded),))


_MAKERS: Mapping[tuple[bool, bool], Callable[..., Handler]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
