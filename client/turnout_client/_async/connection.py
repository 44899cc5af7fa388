"""An asyncio gRPC channel that is opened on first use. The counterpart in `_sync` is written by hand as well."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from turnout_client.config import Metadata, Options
from turnout_client.errors import Cancelled, ClientClosed, TurnoutClientError, error_of_break, error_of_call
from turnout_client.obstacles import explained, find_obstacle
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

sleep = asyncio.sleep

_in_thread = asyncio.to_thread  # noqa: TID251 - each step that runs in it takes at most a second


@dataclass(frozen=True, slots=True)
class AsyncStubs:
    """Stubs for the services on a server's data listener."""

    prediction: "PredictionServiceAsyncStub"
    catalog: "CatalogServiceAsyncStub"
    health: Any  # grpc_health has no types


class AsyncConnection:
    """A gRPC channel, with the metadata that each call sends. It is bound to the event loop that first uses it.

    Attributes:
        bearer: The token that each call sends.
    """

    def __init__(self, target: str, security: Security, options: Options, metadata: Metadata, bearer: Bearer) -> None:
        self.bearer = bearer
        self._metadata = tuple(metadata)
        self._target = target
        self._security = security
        self._options = options
        self._channel: grpc.aio.Channel | None = None
        self._stubs: AsyncStubs | None = None
        self._closed = False

    @property
    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Metadata sent with each call. Raises ValueError if the token cannot be read."""
        return self.bearer.with_token(self._metadata)

    @property
    def stubs(self) -> AsyncStubs:
        """The stubs of the services; the first access opens the channel.

        Raises:
            ClientClosed: The connection was closed.
        """
        if self._stubs is None:
            if self._closed:
                raise ClientClosed("the client was closed")
            if self._security.credentials is None:
                channel = grpc.aio.insecure_channel(self._target, options=self._options)
            else:
                channel = grpc.aio.secure_channel(self._target, self._security.credentials, options=self._options)
            self._channel = channel
            self._stubs = AsyncStubs(PredictionServiceStub(channel), CatalogServiceStub(channel), HealthStub(channel))
        return self._stubs

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
            return await method(request, timeout=timeout, metadata=traced(self.metadata))
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error, request_id) from error
        except asyncio.CancelledError:
            self._raise_if_closed(request_id)
            raise

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
                if enough(reply.status):
                    return
            raise error_of_break(None)
        except grpc.aio.AioRpcError as error:
            raise error_of_break(error, has_deadline=True) from error
        except asyncio.CancelledError:
            self._raise_if_closed()
            raise
        finally:
            watch.cancel()

    async def explained(self, error: TurnoutClientError) -> TurnoutClientError:
        """Returns `error`, or an error that explains it if TLS is the cause."""
        return await _in_thread(explained, error, self._target, self._security.tls, plain=self._security.plain)

    async def obstacle(self) -> str:
        """Returns the TLS problem between client and server; "" if none was found."""
        return await _in_thread(find_obstacle, self._target, self._security.tls, plain=self._security.plain)

    async def aclose(self) -> None:
        """Ends the pending calls and closes the channel. Closing a closed connection does nothing."""
        self._closed = True
        self._stubs = None
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    def _raise_if_closed(self, request_id: str = "") -> None:
        """Raises Cancelled if the current call was cancelled because the channel was closed.

        Closing a channel cancels its calls, which raises CancelledError in tasks that were not cancelled themselves.
        """
        task = asyncio.current_task()
        if self._closed and task is not None and not task.cancelling():
            raise Cancelled("the client was closed", request_id=request_id) from None
