"""Opens a server's three listeners.

data     h2corn, or grpcio       gRPC for clients
http     h2corn                  REST, metrics, probes, console; the same listener as data if they share an address
control  grpcio                  gRPC for operators; channelz reports the state of the grpcio library
"""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Literal

from starlette.types import ASGIApp

from turnout.admission.requests import Admission, ReceiveBudget
from turnout.config import Address, Settings
from turnout.errors import ConfigError
from turnout.host.files import open_file_limit
from turnout.rpc.server import Services, control_methods, data_methods, listen
from turnout.rpc.transport.admission import admitted
from turnout.rpc.transport.asgi.application import Application, GrpcApplication
from turnout.rpc.transport.asgi.call import CallLimits, Receive, Scope, Send, send_http
from turnout.rpc.transport.asgi.running_calls import RunningCalls
from turnout.rpc.transport.h2corn import H2cornListener, ListenerApplication
from turnout.rpc.transport.listening_socket import listen as listen_socket
from turnout.rpc.transport.port import CallListener, Unary
from turnout.threads import Threads
from turnout.tls.certificates import Certificates
from turnout.web.cancelled import serve_or_refuse

_RESERVED_FILES = 512
"""Number of file descriptors that are reserved for purposes other than connections: models, the state store and child
processes."""

_FILES_SHARE: Mapping[str, float] = {"grpc": 0.7, "http": 0.3}
"""Shares of the remaining file descriptors. The listeners together never use the last one, since h2corn would then
close every connection."""


_STOPPED = "the server stopped before the answer was ready"


@dataclass(frozen=True, slots=True)
class NullListener:
    """A listener that serves nothing: the one with that address runs in another worker."""

    address: Address

    async def start(self) -> None:
        """Does nothing."""

    async def finish(self, grace: float) -> None:
        """Does nothing."""

    async def stop(self, grace: float) -> None:
        """Does nothing."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """The listeners of a server.

    Attributes:
        http: The HTTP listener, which may be the same object as `grpc`.
    """

    grpc: CallListener
    http: CallListener
    control: CallListener

    @property
    def clients(self) -> tuple[CallListener, ...]:
        """The listeners for clients, without duplicates."""
        return (self.grpc,) if self.http is self.grpc else (self.grpc, self.http)

    @property
    def by_name(self) -> Mapping[str, CallListener]:
        """The listeners by name. One that serves both gRPC and HTTP is `grpc`."""
        http = {} if self.http is self.grpc else {"http": self.http}
        return {"grpc": self.grpc, **http, "control": self.control}

    async def start(self) -> None:
        """Starts accepting connections."""
        for listener in (*self.clients, self.control):
            await listener.start()


def open_listeners(
    services: Services,
    settings: Settings,
    web: ASGIApp,
    certificates: Certificates,
    admission: Admission,
    budget: ReceiveBudget,
    stack: AsyncExitStack,
) -> Listeners:
    """Returns the listeners, bound to their addresses. They accept no connections until they are started.

    Raises:
        ConfigError: An address cannot be bound, or the settings contradict each other.
    """
    data = data_methods(services, settings)
    shared = services.peers is not None  # all workers listen on ports that the supervisor reserves
    operators = control_methods(services, settings)
    control: CallListener = NullListener(settings.control)
    if services.peers is None or services.peers.member.start.control:
        identity = certificates.source("control")
        control = listen(operators, settings.control, settings, services.guard.log, identity, shared, channelz=True)

    one_port = settings.grpc == settings.http and settings.grpc.port != 0

    def web_application(running: RunningCalls) -> Application:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await serve_or_refuse(
                request, scope, receive, send, lambda: send_http(send, 503, _STOPPED) if running.ended else None
            )

        async def request(scope: Scope, receive: Receive, send: Send) -> None:
            with running.request():
                await web(scope, receive, send)

        return application

    def open_h2corn(
        name: Literal["grpc", "http"],
        application: ListenerApplication,
    ) -> H2cornListener:
        address: Address = getattr(settings, name)
        listening = listen_socket(address, shared=shared)
        stack.callback(listening.close)
        listener = H2cornListener(
            listening,
            address.host,
            application,
            _with_connections(settings, 1.0 if one_port else _FILES_SHARE[name]),
            services.guard.log,
            certificates.of(name),
        )
        certificates.on_change(name, listener.show)
        return listener

    if one_port and settings.tls.of("grpc") != settings.tls.of("http"):
        raise ConfigError("tls.grpc and tls.http: expected the same, since grpc and http are one address")
    if settings.transport.data == "grpcio":
        if one_port:
            raise ConfigError("grpc and http: expected two addresses, since transport.data is grpcio")
        grpc = listen(
            admitted(data, admission), settings.grpc, settings, services.guard.log, certificates.source("grpc"), shared
        )
        return Listeners(grpc, open_h2corn("http", ListenerApplication(web_application)), control)

    threads = Threads("compression")
    stack.callback(threads.shutdown)
    limits, timeout = settings.limits, settings.limits.body_timeout_s
    calls = CallLimits(
        int(limits.max_message_bytes), timeout, settings.transport.gzip, budget, threads, services.guard.unsent
    )

    def application(running: RunningCalls) -> Application:
        return GrpcApplication(
            data, running, calls, admission, services.guard.log, web_application(running) if one_port else None
        )

    unary = [path for path, method in data.items() if isinstance(method, Unary)]
    grpc = open_h2corn("grpc", ListenerApplication(application, unary))
    return Listeners(grpc, grpc if one_port else open_h2corn("http", ListenerApplication(web_application)), control)


def _with_connections(settings: Settings, share: float) -> Settings:
    """Returns the settings of a listener that may use a share of the file descriptors."""
    files = int((open_file_limit() - _RESERVED_FILES) * share)
    connections = max(1, min(settings.limits.max_connections, files))
    return settings.model_copy(update={"limits": settings.limits.model_copy(update={"max_connections": connections})})
