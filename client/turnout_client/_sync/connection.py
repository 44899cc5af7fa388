"""A blocking gRPC channel that is opened on first use. The counterpart in `_async` is written by hand as well."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from turnout_client.config import Metadata, Options
from turnout_client.errors import (
    Cancelled,
    ClientClosed,
    FailedCall,
    TurnoutClientError,
    error_of_break,
    error_of_call,
    whole,
)
from turnout_client.obstacles import Diagnosis, is_failed_connection, patience, with_obstacle
from turnout_client.tls import Security
from turnout_client.token import Bearer
from turnout_client.tracing import traced
from turnout_proto.v1.catalog_pb2_grpc import CatalogServiceStub
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


@dataclass(frozen=True, slots=True)
class Stubs:
    """Stubs for the services on a server's data listener."""

    prediction: PredictionServiceStub
    catalog: CatalogServiceStub
    health: Any  # grpc_health has no types


class Connection:
    """A gRPC channel, with the metadata that each call sends. It can be shared by threads."""

    def __init__(self, target: str, security: Security, options: Options, metadata: Metadata, bearer: Bearer) -> None:
        self.bearer = bearer
        self._metadata = tuple(metadata)
        self.target = target
        self._security = security
        self._options = options
        self._diagnosis = Diagnosis(target, security.tls, plain=security.plain)
        self._lock = threading.Lock()
        self._channels: list[grpc.Channel] = []  # only the last is used for new calls
        self._stubs: Stubs | None = None
        self._closed = threading.Event()

    @property
    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Metadata sent with each call. Raises ValueError if the token cannot be read."""
        return self.bearer.with_token(self._metadata)

    @property
    def stubs(self) -> Stubs:
        """The stubs of the services; the first access opens the channel.

        Raises:
            ClientClosed: The connection was closed.
        """
        return self._stubs or self._open()

    def _open(self) -> Stubs:
        with self._lock:
            if self._closed.is_set():
                raise ClientClosed("the client was closed")
            if self._stubs is None:
                if self._security.credentials is None:
                    channel = grpc.insecure_channel(self.target, options=self._options)
                else:
                    channel = grpc.secure_channel(self.target, self._security.credentials, options=self._options)
                self._channels.append(channel)
                self._stubs = Stubs(PredictionServiceStub(channel), CatalogServiceStub(channel), HealthStub(channel))
            return self._stubs

    def invoke(
        self,
        method: "grpc.UnaryUnaryMultiCallable[RequestT, ResponseT]",
        request: RequestT,
        timeout: float | None,
        request_id: str = "",
    ) -> ResponseT:
        """Makes one unary call and returns its response.

        Raises:
            TurnoutClientError: The call ended with a status other than OK.
        """
        try:
            response = method(request, timeout=timeout, metadata=traced(self.metadata))
        except grpc.RpcError as error:
            failed = cast(FailedCall, error)
            if self._closed.is_set() and failed.code() is grpc.StatusCode.CANCELLED:
                raise Cancelled("the client was closed", request_id=request_id) from None
            raise error_of_call(failed, request_id) from error
        except ValueError:
            if self._closed.is_set():  # gRPC raises ValueError if another thread has just closed the channel
                raise ClientClosed("the client was closed") from None
            raise
        return whole(response, request_id)

    def watch_health(self, service: str, timeout: float | None, enough: Callable[[int], bool]) -> None:
        """Passes each status of `service` to `enough` until it returns True; waits for a server if necessary.

        Raises:
            Unavailable: The server ended the watch.
            TurnoutClientError: The call ended with a status other than OK.
        """
        request = HealthCheckRequest(service=service)
        watch = self.stubs.health.Watch(request, timeout=timeout, metadata=self.metadata, wait_for_ready=True)
        try:
            for reply in watch:
                if enough(whole(reply).status):
                    return
            raise error_of_break(None)
        except grpc.RpcError as error:
            raise error_of_break(cast(FailedCall, error), has_deadline=True) from error
        finally:
            watch.cancel()

    def failed(self, error: TurnoutClientError) -> None:
        """Takes note of an error. If a connection failed, begins to look for the reason.

        If the certificates have been renewed, later calls use another channel.
        """
        if not is_failed_connection(error):
            return
        self._diagnosis.obstacle()
        with self._lock:
            if (renewed := self._security.renewed()) is not self._security:
                self._security = renewed
                self._stubs = None

    def pause(self, seconds: float) -> None:
        """Waits for so many seconds.

        Raises:
            Cancelled: The connection was closed meanwhile.
        """
        if self._closed.wait(min(seconds, threading.TIMEOUT_MAX)):
            raise Cancelled("the client was closed")

    def explained(self, error: TurnoutClientError, left: float | None) -> TurnoutClientError:
        """Returns `error`, or an error that explains it if TLS is the cause and that is found within `left` seconds."""
        return with_obstacle(error, self.obstacle(left)) if is_failed_connection(error) else error

    def obstacle(self, left: float | None) -> str:
        """Returns the TLS problem between client and server; "" if none was found within `left` seconds."""
        try:
            return self._diagnosis.obstacle().result(patience(left))
        except TimeoutError:
            return ""

    def close(self) -> None:
        """Ends the pending calls and closes the channel. Closing a closed connection does nothing."""
        with self._lock:
            self._closed.set()
            self._stubs = None
            channels, self._channels = self._channels, []
        for channel in channels:
            channel.close()
