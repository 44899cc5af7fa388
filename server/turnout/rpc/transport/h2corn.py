"""Listeners on h2corn: HTTP/2 in Rust, each request a task of this process's own event loop.

One listening socket, one generation of the server at a time:

    start -> serving -> show:  the next generation takes over the socket, this one keeps the connections that it has
                     -> age:   the next generation takes over the socket, this one finishes what it has begun
                     -> stop:  the next generation does nothing but refuse, until this one has finished

h2corn takes no more connections once it is told to stop, and those that come then would wait in the socket's queue for
a server that never asks for them; so there is always a generation that does.

Nor can it be told to take no more and keep what it has: its GOAWAY is followed by the end of the connection as soon as
no call is open, and what a client sent meanwhile fails ("Broken pipe"; 1 of some 10,000 calls). So a generation that
certificates retire is not told: its event loop (tokio's epoll) is made to look at the listening socket no more.

`Server._serve_worker_fds` is what h2corn's own workers call: the public `serve` without a banner in this server's log.
"""

import asyncio
import contextlib
import functools
import os
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h2corn
from google.rpc.status_pb2 import Status
from h2corn._lib import prepare_tls
from h2corn._server import TlsMaterial
from structlog.typing import FilteringBoundLogger

from turnout.config import Address
from turnout.errors import ConfigError
from turnout.host import cut_connections, same_file, unwatch, usable_cores
from turnout.rpc.transport.asgi.application import Application
from turnout.rpc.transport.asgi.eager_tasks import allow_ended
from turnout.rpc.transport.asgi.running_calls import RunningCalls
from turnout.rpc.transport.asgi.statuses import UNAVAILABLE
from turnout.rpc.transport.lingering_close import LingeringClose
from turnout.tls.identity import ServerIdentity

_CUT_SECONDS = 1.0
"""Seconds for the answers of ended calls to be sent before their connections are cut."""

_RETIRED_SECONDS = 30 * 86400.0
"""How long calls of a generation that a change of certificates retired may go on: h2corn wants to know when the
generation begins, and for other reasons to end them there is `stop`."""

_QUIET_SECONDS = 86400.0
"""Seconds after which clients of a retired generation are told to reconnect."""

_MOST_QUIET = 32
"""Most retired generations; beyond that the oldest is ended sooner. Each holds six descriptors."""

_WINDOW_BYTES = 4 << 20
"""That a client may send before it is read: what each connection may hold, and enough for 1 Gbit/s over 30 ms."""

_BACKLOG_STALLS = 10
"""Factor between the time that a client may read nothing and the time that it may have unread data: h2corn ignores
progress there, and a slow client that fetches large answers one after another always has some."""

_CORES_FOR_TWO_THREADS = 4
"""With fewer, one thread reads and writes connections. A second, h2corn's default, took turns with it, the event loop
and the client (on two cores, 16 in flight, without it: 8.3 -> 10.4 thousand requests a second, p99 8.2 -> 6.3 ms)."""

_RESTART_SECONDS = 0.2
"""Seconds before a generation follows one that failed: it may lack something scarce, such as file descriptors."""

_IN_MEMORY = Path("in memory")

_STOPPED = Status(code=UNAVAILABLE, message="the server stopped before the call ended")


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of connections.

    Attributes:
        connections: Most at once; more wait to be accepted.
        streams: Most calls at once on a connection.
        header_bytes: Of a request's headers.
        headers: Most of them.
        header_seconds: For a connection to show its protocol, and for headers to be complete once begun.
        body_seconds: For more of a body to arrive.
        stall_seconds: For a client to read more of an answer.
        idle_seconds: For a connection without a request to have one.
        age_seconds: Interval at which all clients are told to reconnect; 0 for never.
        grace_seconds: For calls to end once the listener, or a generation of it, stops.
    """

    connections: int
    streams: int
    header_bytes: int
    headers: int
    header_seconds: float
    body_seconds: float
    stall_seconds: float
    idle_seconds: float
    age_seconds: float
    grace_seconds: float


@dataclass(frozen=True, slots=True)
class ListenerApplication:
    """The application that a listener serves.

    Attributes:
        open: Makes the application of a generation, which keeps its calls in what it is given.
        unary_paths: Paths of methods whose clients send one message, and have no reason to pause within it.
    """

    open: Callable[[RunningCalls], Application]
    unary_paths: Sequence[str] = ()


@dataclass(slots=True, eq=False)
class _Generation:
    """One run of the server.

    Attributes:
        server: The running server.
        calls: Its calls in flight.
        serving: Ends when it has finished.
        descriptors: Its own descriptors of the listening socket, if they may be read.
    """

    server: h2corn.Server
    calls: RunningCalls
    serving: asyncio.Task[None]
    descriptors: frozenset[int] = frozenset()


class H2cornListener:
    """Carries calls and HTTP requests to an ASGI application."""

    def __init__(
        self,
        listening: socket.socket,
        host: str,
        application: ListenerApplication,
        limits: ConnectionLimits,
        log: FilteringBoundLogger,
        identity: ServerIdentity | None = None,
    ) -> None:
        """Prepares.

        Args:
            listening: A bound socket, which the listener closes.
            host: The host to listen on, as configured.
            application: Serves the requests.
            limits: The limits of connections.
            log: Receives a line when a generation ends by itself.
            identity: Its certificate and key, and what it asks of clients; None for plain text.
        """
        self._address = Address(host, listening.getsockname()[1])
        self._socket = listening
        self._application = application
        self._limits = limits
        self._log = log
        self._identity = identity
        self._current: _Generation | None = None
        self._running: set[_Generation] = set()
        self._retired: set[_Generation] = set()
        self._quiet: dict[_Generation, asyncio.TimerHandle] = {}
        self._stopping = False
        self._ageing: asyncio.Task[None] | None = None
        self._side_tasks: set[asyncio.Task[None]] = set()
        self._lingering = LingeringClose(self._address.port)

    @property
    def address(self) -> Address:
        """Where it listens, with the real port."""
        return self._address

    async def start(self) -> None:
        """Starts to accept connections."""
        allow_ended(asyncio.get_running_loop())
        self._current = await self._begin()
        if self._limits.age_seconds:
            self._ageing = asyncio.create_task(self._age(self._limits.age_seconds))

    async def show(self, identity: ServerIdentity) -> None:
        """Uses another identity for new connections; calls in flight go on as long as they take.

        Raises:
            ConfigError: h2corn cannot use it; nothing changes then.
        """
        before, self._identity = self._identity, identity
        if self._stopping:
            return
        try:
            await self._replace(None)
        except (ConfigError, OSError, RuntimeError) as error:
            self._identity = before
            raise ConfigError(f"{self._address}: connections cannot be shown another certificate: {error}") from error

    async def _replace(self, grace: float | None) -> None:
        """Lets the next generation accept connections; the present one has `grace` seconds to finish its calls."""
        following = await self._begin()
        if self._stopping:  # meanwhile
            self._retire(following, None)
            return
        retired, self._current = self._current, following
        if retired is None:
            return
        if grace is not None:
            retired.calls.end_uncounted(_STOPPED)
            self._retire(retired, grace)
        elif unwatch(retired.descriptors):
            self._keep(retired)
        else:
            self._retire(retired, None)

    def _keep(self, generation: _Generation) -> None:
        """Keeps a generation that accepts no more connections: most of those it has will end by themselves."""
        timer = asyncio.get_running_loop().call_later(_QUIET_SECONDS, self._retire_quiet, generation)
        self._quiet[generation] = timer
        if len(self._quiet) > _MOST_QUIET:
            self._retire_quiet(next(iter(self._quiet)))

    def _retire_quiet(self, generation: _Generation) -> None:
        self._quiet.pop(generation).cancel()
        self._retire(generation, None)

    async def stop(self, grace: float) -> None:
        """Tells clients to go elsewhere (GOAWAY), waits `grace` seconds for calls under way, then ends the rest.

        Until then new connections are accepted, and the application refuses their calls.
        """
        self._stopping = True
        if self._ageing is not None:
            self._ageing.cancel()
        last, self._current = self._current, None
        if last is None:  # it failed, and another one may just be beginning
            await self._cut()
            self._lingering.close()
            self._socket.close()
            return
        try:
            await self._finish_begun(last, grace)
        except asyncio.CancelledError:
            await self._cut()
            raise
        finally:
            self._lingering.close()
            self._socket.close()

    async def _finish_begun(self, last: _Generation, grace: float) -> None:
        """Stops, in the order that loses no answer: `last` took connections until now."""
        following = await self._begin()
        self._retire(last, None)
        for generation in list(self._quiet):
            self._retire_quiet(generation)
        for generation in self._retired:
            generation.calls.end_uncounted(_STOPPED)
        # What a change of certificates left to itself is waited for no longer than the rest.
        await asyncio.wait(self._side_tasks, timeout=min(grace, self._limits.grace_seconds))
        for generation in self._retired:
            generation.calls.end_all(_STOPPED)
        await self._let_go()
        await self._lingering.finish()
        self._retire(following, None)
        following.calls.end_all(_STOPPED)
        await self._let_go()
        await self._lingering.finish()

    async def _let_go(self) -> None:
        """Waits a moment for ended calls to finish, and cuts the connections of those that do not."""
        if self._side_tasks:
            await asyncio.wait(self._side_tasks, timeout=_CUT_SECONDS)
        if self._side_tasks:
            cut_connections(self._address.port)
            await asyncio.wait(self._side_tasks)

    async def _cut(self) -> None:
        """Ends every generation at once: nothing listens any more, and all connections close soon."""
        with contextlib.suppress(OSError):  # only Linux ends a socket so for all descriptors of it, h2corn's as well
            self._socket.shutdown(socket.SHUT_RDWR)
        ending = list(self._running)
        for generation in ending:
            generation.server.shutdown()
            generation.calls.end_all(_STOPPED)
        cut_connections(self._address.port)
        if ending:
            await asyncio.wait([generation.serving for generation in ending], timeout=_CUT_SECONDS)
        for generation in ending:
            generation.calls.close()

    async def _begin(self) -> _Generation:
        calls = RunningCalls()
        others = same_file(self._socket.fileno()) if self._identity is not None else frozenset()
        server = h2corn.Server(self._application.open(calls), self._config())
        try:
            prepared = prepare_tls(server.config, _material(self._identity))
        except (ValueError, OSError) as error:
            raise ConfigError(f"h2corn cannot use the TLS certificate: {error}") from None
        serving = asyncio.create_task(
            server._serve_worker_fds([os.dup(self._socket.fileno())], prepared_tls=prepared),
            name=f"h2corn {self.address}",
        )
        generation = _Generation(server, calls, serving)
        self._running.add(generation)
        serving.add_done_callback(lambda _: self._ended(generation))
        started = asyncio.ensure_future(server.wait_started())
        try:
            await asyncio.wait([started, serving], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            started.cancel()
            self._retire(generation, None)  # or it would listen for ever, and nobody know of it
            raise
        await started
        if self._identity is not None:
            generation.descriptors = same_file(self._socket.fileno()) - others
        return generation

    def _retire(self, generation: _Generation, grace: float | None) -> None:
        """Lets a generation finish its calls within `grace` seconds; None leaves its end to `stop`."""
        self._retired.add(generation)
        self._lingering.hold(self._limits.grace_seconds if grace is None else grace)
        generation.server.shutdown()
        self._spawn(self._finish(generation, grace))

    async def _finish(self, generation: _Generation, grace: float | None) -> None:
        if grace is not None:
            await asyncio.wait([generation.serving], timeout=grace)
            generation.calls.end_all(_STOPPED)
        await self._end(generation)
        self._retired.discard(generation)

    async def _end(self, generation: _Generation) -> None:
        with contextlib.suppress(RuntimeError):  # h2corn's own bound passed, and it cut what was left
            await generation.serving
        generation.calls.close()

    async def _age(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            await self._replace(self._limits.grace_seconds)

    def _ended(self, generation: _Generation) -> None:
        """Starts another generation if one ended by itself."""
        self._running.discard(generation)
        if generation is not self._current or generation.serving.cancelled():
            return
        self._current = None
        error = generation.serving.exception()
        self._log.error("the listener failed and begins anew", address=str(self.address), exc_info=error)
        self._spawn(self._restart())

    async def _restart(self) -> None:
        while self._current is None and not self._stopping:
            await asyncio.sleep(_RESTART_SECONDS)
            try:
                self._current = await self._begin()
            except (OSError, RuntimeError, ConfigError) as error:
                self._log.error("the listener cannot begin anew yet", address=str(self.address), exc_info=error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._side_tasks.add(task)
        task.add_done_callback(self._side_tasks.discard)

    def _config(self) -> h2corn.Config:
        limits, identity = self._limits, self._identity
        return h2corn.Config(
            bind=(f"fd://{self._socket.fileno()}",),
            grpc=True,
            lifespan="off",
            access_log=False,
            log_format="json",
            runtime_threads=2 if usable_cores() >= _CORES_FOR_TWO_THREADS else 1,
            max_concurrent_streams=limits.streams,
            limit_request_head_size=limits.header_bytes,
            limit_request_line=limits.header_bytes,
            limit_request_field_size=limits.header_bytes,
            limit_request_fields=limits.headers,
            h2_max_header_list_size=limits.header_bytes,
            h2_max_header_block_size=limits.header_bytes,
            h2_initial_stream_window_size=_WINDOW_BYTES,
            h2_initial_connection_window_size=_WINDOW_BYTES,
            max_request_body_size=0,  # the application bounds bodies, and says so in words
            timeout_request_body_idle=limits.body_seconds,
            request_policies=tuple(
                _request_policy(path, limits.body_seconds, limits.stall_seconds)
                for path in self._application.unary_paths
            ),
            limit_connections=limits.connections,
            timeout_handshake=limits.header_seconds,
            timeout_request_header=limits.header_seconds,
            timeout_keep_alive=limits.idle_seconds,
            timeout_graceful_shutdown=limits.grace_seconds + _CUT_SECONDS if identity is None else _RETIRED_SECONDS,
            h2_timeout_response_stall=limits.stall_seconds,
            h2_timeout_write=limits.stall_seconds * _BACKLOG_STALLS,
            **_tls_options(identity),
        )


@functools.cache
def _request_policy(path: str, body_seconds: float, stall_seconds: float) -> h2corn.RequestPolicy:
    return h2corn.RequestPolicy(
        path=path,
        max_request_body_size=0,
        timeout_request_body_idle=body_seconds,
        h2_timeout_response_stall=stall_seconds,
    )


def _material(identity: ServerIdentity | None) -> TlsMaterial | None:
    if identity is None:
        return None
    return TlsMaterial(identity.certificate, identity.key, identity.client_ca or None)


def _tls_options(identity: ServerIdentity | None) -> Mapping[str, Any]:
    """Returns h2corn's TLS settings: that there are files, which it does not have to read."""
    if identity is None:
        return {}
    options: dict[str, Any] = {"certfile": _IN_MEMORY, "keyfile": _IN_MEMORY}
    if identity.client_certificates != "none":
        options |= {"ca_certs": _IN_MEMORY, "cert_reqs": identity.client_certificates}
    return options
