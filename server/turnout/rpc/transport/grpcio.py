"""The transport on grpc.aio."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import grpc
from google.rpc import code_pb2
from google.rpc.status_pb2 import Status
from grpc_status.rpc_status import to_status
from structlog.typing import FilteringBoundLogger

from turnout.address import cannot_listen
from turnout.admission.unread import CountedBytes, Unsent
from turnout.config import Address
from turnout.errors import ConfigError
from turnout.routing.request_metadata import peer_host
from turnout.rpc.transport.in_flight import in_flight
from turnout.rpc.transport.port import Metadata, Method, Methods, Parts, StatusError, Stream, Streaming
from turnout.tls.identity import IdentitySource, ServerIdentity

T = TypeVar("T")

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"
Options: TypeAlias = Sequence[tuple[str, int]]
Running: TypeAlias = "set[asyncio.Task[object]]"

_FAILED = Status(code=code_pb2.INTERNAL, message="the call failed inside the server")

_LOOK_SECONDS = 0.5
"""Time in seconds between two checks of whether the server has failed."""

_AGAIN_SECONDS = 0.2
"""Delay in seconds before another attempt to replace a failed server, for example if the port is not released yet."""

_FINISH_SECONDS = 60.0
"""Time in seconds that the other calls of a failed server have to finish."""


class GrpcioListener:
    """A listener on the gRPC C core.

    If an error escapes into the main loop of grpc.aio, its server accepts no more calls. With grpcio 1.85, any client
    can cause this with a path that is not UTF-8. Therefore a server that fails is replaced by another one on the same
    port, and finishes its other calls.
    """

    def __init__(
        self,
        methods: Methods,
        address: Address,
        options: Options,
        log: FilteringBoundLogger,
        identity: IdentitySource | None = None,
    ) -> None:
        """Binds an address; port 0 selects a free port. Must be called on the running event loop.

        Raises:
            ConfigError: The address cannot be bound, or the core does not support the TLS settings.
        """
        self._handlers = _Handlers(methods, log)
        self._options = options
        self._log = log
        self._identity = identity
        self._server, port = self._bound(address)
        self._address = Address(address.host, port)
        self._watching: asyncio.Task[None] | None = None
        self._finishing: dict[grpc.aio.Server, asyncio.Task[None]] = {}

    @property
    def address(self) -> Address:
        """The address that the listener is bound to, with the actual port."""
        return self._address

    async def start(self) -> None:
        """Starts accepting connections."""
        await self._server.start()
        self._watching = asyncio.create_task(self._watch(), name=f"grpcio {self._address}")

    async def finish(self, grace: float) -> None:
        """Waits up to `grace` seconds for the calls in flight. The methods have to reject others by themselves.

        The server is not told to stop yet, since the gRPC core would then cancel calls that have just arrived.
        """
        if begun := list(self._handlers.running):
            await asyncio.wait(begun, timeout=grace)

    async def stop(self, grace: float) -> None:
        """Sends GOAWAY to clients, waits up to `grace` seconds for calls in flight, then cancels the rest."""
        if self._watching is not None:
            self._watching.cancel()
        try:
            await self._stop_all(grace)
        except asyncio.CancelledError:
            await self._stop_all(None)
            raise

    async def _stop_all(self, grace: float | None) -> None:
        await asyncio.gather(*(server.stop(grace) for server in {self._server, *self._finishing}))

    def _bound(self, address: Address) -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server(options=self._options)
        server.add_generic_rpc_handlers((self._handlers,))
        try:
            if self._identity is None:
                return server, server.add_insecure_port(str(address))
            return server, server.add_secure_port(str(address), _credentials(self._identity))
        except RuntimeError as error:
            raise ConfigError(cannot_listen(address, "another server may be there")) from error

    async def _watch(self) -> None:
        while True:
            try:
                await self._server.wait_for_termination(_LOOK_SECONDS)
            except Exception as error:  # noqa: BLE001 - whatever ended the main loop
                self._log.error("the listener failed and begins anew", address=str(self._address), exc_info=error)
                await self._replace(self._server)

    async def _replace(self, failed: grpc.aio.Server) -> None:
        finishing = self._finishing[failed] = asyncio.create_task(failed.stop(_FINISH_SECONDS))
        finishing.add_done_callback(lambda _: self._finishing.pop(failed))
        while self._server is failed:
            try:
                self._server, _ = self._bound(self._address)
            except ConfigError as error:
                self._log.error("the listener cannot begin anew yet", address=str(self._address), exc_info=error)
                await asyncio.sleep(_AGAIN_SECONDS)
        await self._server.start()


class _GrpcioCall(Stream):
    """A grpc.aio call. `read` and `write` are not used for unary calls.

    A call that has ended has no address and no certificate.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self.trailing: Metadata = ()
        self.caller = None

    @property
    def metadata(self) -> Metadata:
        return tuple(self._context.invocation_metadata() or ())

    def mentions(self, keys: frozenset[bytes]) -> bool:
        return any(key.encode() in keys for key, _ in self._context.invocation_metadata() or ())

    @property
    def deadline(self) -> float | None:
        remaining = self._context.time_remaining()
        return None if remaining is None else time.monotonic() + remaining

    @property
    def host(self) -> str:
        return "" if self._context.done() else peer_host(self._context.peer())  # as for `certificate`

    @property
    def authorization(self) -> str:
        metadata = self._context.invocation_metadata() or ()
        return ", ".join(str(value) for key, value in metadata if key == "authorization")

    @property
    def certificate(self) -> str:
        if self._context.done():
            return ""  # the core has freed the call; using it would crash the process
        found = self._context.auth_context().get("x509_pem_cert", ())
        return next((pem.decode() for pem in found), "")

    async def read(self) -> bytes | None:
        try:
            message = await self._context.read()
        except Exception:
            self._raise_if_cancelled()
            raise
        return message if isinstance(message, bytes) else None  # grpc.aio.EOF

    async def write(self, message: bytes) -> None:
        try:
            await self._context.write(bytes(message))  # the core refuses subclasses
        except Exception:
            self._raise_if_cancelled()
            raise

    def keep(self, unsent: Unsent) -> None:
        """Counts the response until the call has ended, since the core copies it."""
        self._context.add_done_callback(lambda _: unsent.release())  # type: ignore[arg-type] # types-grpcio wants a class of its own

    def _raise_if_cancelled(self) -> None:
        """Raises CancelledError if the client disconnected, which gRPC reports with many kinds of exceptions."""
        if self._context.done():
            raise asyncio.CancelledError from None


class _Handlers(grpc.GenericRpcHandler):
    """Finds methods by path, and keeps the tasks of the calls in flight."""

    def __init__(self, methods: Methods, log: FilteringBoundLogger) -> None:
        self.running: Running = set()
        self._methods = methods
        self._log = log
        self._handlers: dict[str, Handler] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "Handler | None":
        path = handler_call_details.method
        if path not in self._handlers and path in self._methods:  # created when first called, to start sooner
            self._handlers[path] = _handler(self._methods[path], self._log.bind(path=path), self.running)
        return self._handlers.get(path)


def _handler(method: Method, log: FilteringBoundLogger, running: Running) -> Handler:
    if isinstance(method, Streaming):
        return grpc.stream_stream_rpc_method_handler(_behaviour(lambda _, call: method.serve(call), log, running))

    async def respond(message: bytes, call: _GrpcioCall) -> bytes:
        response = await method.respond(message, call)
        if isinstance(response, Parts):
            call.keep(response.unsent)
            return b"".join(response.parts)
        if isinstance(response, CountedBytes):
            call.keep(response.unsent)
            return bytes(response)
        return response

    return grpc.unary_unary_rpc_method_handler(_behaviour(respond, log, running))


def _behaviour(
    work: Callable[[Any, _GrpcioCall], Awaitable[T]], log: FilteringBoundLogger, running: Running
) -> Callable[[Any, Context], Awaitable[T]]:
    """Returns what gRPC calls with a message, or an iterator for a stream, to do the work of a call."""

    async def behaviour(message: Any, context: Context) -> T:
        call = _GrpcioCall(context)
        try:
            with in_flight(running):
                response = await work(message, call)
        except Exception as error:  # noqa: BLE001 - the client must get a status in any case
            status = _status(error, log)
        else:
            if call.trailing:
                context.set_trailing_metadata(tuple(call.trailing))
            return response
        del message
        raise await _ending(context, status)

    return behaviour


def _status(error: Exception, log: FilteringBoundLogger) -> Status:
    """Returns the status for an exception of a method. For an unexpected one, gRPC would send Python's message."""
    if isinstance(error, StatusError):
        return error.status
    log.error("a method raised what it must not", exc_info=error)
    return _FAILED


async def _ending(context: Context, status: Status) -> BaseException:
    """Ends a call with a status, and returns the exception that the handler must raise.

    gRPC stores the error that ends a call in the call's context, and the error's traceback refers back to the context.
    This cycle kept 75 MiB in memory for each rejected message of 24 MiB until the garbage collector ran. A caller must
    therefore leave the `except` block whose error refers to the message, and delete the message, before it calls this
    function.
    """
    if context.done():
        return asyncio.CancelledError()
    details = to_status(status)
    try:
        await context.abort(details.code, details.details, details.trailing_metadata)
    except grpc.aio.AbortError as error:
        return error.with_traceback(None)
    raise AssertionError("abort raises")


def _credentials(identity: IdentitySource) -> grpc.ServerCredentials:
    """Returns credentials that follow changes of `identity`. grpcio calls it at each handshake, in a separate thread.

    Raises:
        ConfigError: The identity makes client certificates optional, which grpcio does not support.
    """
    used = identity()
    if used.client_certificates == "optional":
        raise ConfigError(
            'the grpcio transport cannot ask for optional client certificates: set "required" or "none" for it'
        )

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        now = identity()
        if now is used:
            return None
        used = now
        return _configuration(now)

    required = used.client_certificates == "required"
    return grpc.dynamic_ssl_server_credentials(
        _configuration(used),
        changed,  # type: ignore[arg-type] # types-grpcio lacks None, which means no change
        require_client_authentication=required,
    )


def _configuration(identity: ServerIdentity) -> grpc.ServerCertificateConfiguration:
    pair = (identity.key, identity.certificate)
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=identity.client_ca or None)
