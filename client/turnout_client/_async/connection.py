"""An asyncio gRPC channel that is opened on first use. The counterpart in `_sync` is written by hand as well."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from turnout_client.config import Metadata, Options
from turnout_client.errors import Cancelled, ClientClosed, TurnoutClientError, error_of_break, error_of_call, whole
from turnout_client.obstacles import Diagnosis, is_failed_connection, patience, with_obstacle
from turnout_client.tls import Security
from turnout_client.token import Bearer
from turnout_client.tracing import traced
from turnout_proto.v1.catalog_pb2_grpc import CatalogServiceStub
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub

if TYPE_CHECKING:
    from turnout_proto.v1.catalog_pb2_grpc import CatalogServiceAsyncStub
    from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceAsyncStub

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


@dataclass(frozen=True, slots=True)
class AsyncStubs:
    """Stubs for the services on a server's data listener."""

    prediction: "PredictionServiceAsyncStub"
    catalog: "CatalogServiceAsyncStub"
    health: Any  # grpc_health has no types


class AsyncConnection:
    """A gRPC channel, with the metadata that each call sends. It is bound to the event loop that first uses it."""

    def __init__(self, target: str, security: Security, options: Options, metadata: Metadata, bearer: Bearer) -> None:
        self.bearer = bearer
        self._metadata = tuple(metadata)
        self.target = target
        self._security = security
        self._options = options
        self._diagnosis = Diagnosis(target, security.tls, plain=security.plain)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channels: list[grpc.aio.Channel] = []  # only the last is used for new calls
        self._stubs: AsyncStubs | None = None
        self._closed = asyncio.Event()

    @property
    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Metadata sent with each call. Raises ValueError if the token cannot be read."""
        return self.bearer.with_token(self._metadata)

    @property
    def stubs(self) -> AsyncStubs:
        """The stubs of the services; the first access opens the channel.

        Raises:
            ClientClosed: The connection was closed.
            RuntimeError: The running event loop is not the one that first used the connection.
        """
        self.check_loop()
        if self._stubs is None:
            if self._closed.is_set():
                raise ClientClosed("the client was closed")
            if self._security.credentials is None:
                channel = grpc.aio.insecure_channel(self.target, options=self._options)
            else:
                channel = grpc.aio.secure_channel(self.target, self._security.credentials, options=self._options)
            self._channels.append(channel)
            self._stubs = AsyncStubs(PredictionServiceStub(channel), CatalogServiceStub(channel), HealthStub(channel))
        return self._stubs

    def check_loop(self) -> None:
        """Binds the connection to the running event loop. Raises RuntimeError if it belongs to another one."""
        if self._loop is not (running := asyncio.get_running_loop()):
            if self._loop is not None:
                raise RuntimeError("this client belongs to another event loop; create an AsyncClient in each loop")
            self._loop = running

    async def invoke(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT]",
        request: RequestT,
        timeout: float | None,
        request_id: str = "",
    ) -> ResponseT:
        """Makes one unary call and returns its response.

        Raises:
            TurnoutClientError: The call ended with a status other than OK.
        """
        try:
            response = await method(request, timeout=timeout, metadata=traced(self.metadata))
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error, request_id) from error
        except asyncio.CancelledError:
            self._raise_if_closed(request_id)
            raise
        return whole(response, request_id)

    async def watch_health(
        self,
        service: str,
        timeout: float | None,
        enough: Callable[[int], bool],
    ) -> None:
        """Passes each status of `service` to `enough` until it returns True; waits for a server if necessary.

        Raises:
            Unavailable: The server ended the watch.
            TurnoutClientError: The call ended with a status other than OK.
        """
        request = HealthCheckRequest(service=service)
        watch = self.stubs.health.Watch(request, timeout=timeout, metadata=self.metadata, wait_for_ready=True)
        try:
            while (reply := await watch.read()) is not grpc.aio.EOF:
                if enough(whole(reply).status):
                    return
            raise error_of_break(None)
        except grpc.aio.AioRpcError as error:
            raise error_of_break(error, has_deadline=True) from error
        except asyncio.CancelledError:
            self._raise_if_closed()
            raise
        finally:
            watch.cancel()

    def failed(self, error: TurnoutClientError) -> None:
        """Takes note of an error. If a connection failed, begins to look for the reason.

        If the certificates have been renewed, later calls use another channel.
        """
        if not is_failed_connection(error):
            return
        self._diagnosis.obstacle()
        if (renewed := self._security.renewed()) is not self._security:
            self._security = renewed
            self._stubs = None

    async def pause(self, seconds: float) -> None:
        """Waits for so many seconds.

        Raises:
            Cancelled: The connection was closed meanwhile.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()
                raise Cancelled("the client was closed")

    async def explained(self, error: TurnoutClientError, left: float | None) -> TurnoutClientError:
        """Returns `error`, or an error that explains it if TLS is the cause and that is found within `left` seconds."""
        return with_obstacle(error, await self.obstacle(left)) if is_failed_connection(error) else error

    async def obstacle(self, left: float | None) -> str:
        """Returns the TLS problem between client and server; "" if none was found within `left` seconds."""
        try:
            async with asyncio.timeout(patience(left)):
                return await asyncio.wrap_future(self._diagnosis.obstacle())
        except TimeoutError:
            return ""

    async def aclose(self) -> None:
        """Ends the pending calls and closes the channel. Closing a closed connection does nothing."""
        self._closed.set()
        self._stubs = None
        channels, self._channels = self._channels, []
        for channel in channels:
            await channel.close()

    def _raise_if_closed(self, request_id: str = "") -> None:
        """Raises Cancelled if the current call was cancelled because the channel was closed.

        Closing a channel cancels its calls, which raises CancelledError in tasks that were not cancelled themselves.
        """
        task = asyncio.current_task()
        if self._closed.is_set() and task is not None and not task.cancelling():
            raise Cancelled("the client was closed", request_id=request_id) from None
