"""Listeners on h2corn, an HTTP/2 server in Rust that runs each request as a task on this process's event loop.

A listener has one listening socket and runs a succession of h2corn servers, called generations:

    start -> serving -> show:  the next generation takes over the socket, this one keeps its connections
                     -> age:   the next generation takes over the socket, this one finishes its calls
                     -> finish: the next generation only rejects calls, until the listener stops

An h2corn server that is shutting down accepts no more connections. New connections would then wait in the socket's
queue indefinitely, so there is always one generation that accepts them.

h2corn cannot stop accepting connections and keep the existing ones. After its GOAWAY, it closes a connection as soon as
no call is open, and a call that the client sends at that moment fails ("Broken pipe"; about 1 in 10,000 calls).
Therefore a generation that is replaced because of new certificates is not shut down. Instead, its event loop (tokio's
epoll) is made to stop watching the listening socket.

`Server._serve_worker_fds` is the function that h2corn's own workers call. It does the same as the public `serve`, but
writes no banner to this server's log.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import h2corn
from h2corn._lib import prepare_tls
from h2corn._server import TlsMaterial
from structlog.typing import FilteringBoundLogger

from turnout.config import Address, Settings
from turnout.errors import ConfigError
from turnout.host.sockets import cut_connections, same_file, unwatch
from turnout.rpc.transport.asgi.application import Application
from turnout.rpc.transport.asgi.eager_tasks import allow_ended
from turnout.rpc.transport.asgi.running_calls import RunningCalls
from turnout.rpc.transport.h2corn_config import CUT_SECONDS, h2corn_config
from turnout.rpc.transport.lingering_close import LingeringClose
from turnout.tls.identity import ServerIdentity

_QUIET_SECONDS = 86400.0
"""Time in seconds after which the clients of a replaced generation are asked to reconnect."""

_MOST_QUIET = 32
"""Maximum number of replaced generations, each of which uses six file descriptors. Beyond that, the oldest is ended."""

_RESTART_SECONDS = 0.2
"""Delay in seconds before a failed generation is replaced. The failure may be due to a temporary shortage, such as of
file descriptors."""

_NOT_BEGUN = (ConfigError, OSError, RuntimeError)
"""Exceptions of a generation that cannot start, for example because the process has no file descriptors left."""


@dataclass(frozen=True, slots=True)
class ListenerApplication:
    """The application that a listener serves. `open` creates it for a generation, with the RunningCalls of that one.

    The clients of the methods with `unary_paths` send a single message, and so have no reason to pause.
    """

    open: Callable[[RunningCalls], Application]
    unary_paths: Sequence[str] = ()


@dataclass(slots=True, eq=False)
class _Generation:
    """One h2corn server in the succession that a listener runs."""

    server: h2corn.Server
    calls: RunningCalls  # in flight
    serving: asyncio.Task[None]  # ends when the server has finished
    descriptors: frozenset[int] = frozenset()  # its own of the listening socket; with TLS only


class H2cornListener:
    """A listener that passes gRPC calls and HTTP requests to an ASGI application."""

    def __init__(
        self,
        listening: socket.socket,
        host: str,
        application: ListenerApplication,
        settings: Settings,
        log: FilteringBoundLogger,
        identity: ServerIdentity | None = None,
    ) -> None:
        """Takes over a listening socket, which it closes in the end.

        `host` is the configured host to listen on; without an `identity`, connections are plain text.
        """
        self._address = Address(host, listening.getsockname()[1])
        self._socket = listening
        self._application = application
        self._settings = settings
        self._log = log
        self._identity = identity
        self._current: _Generation | None = None
        self._rejecting: _Generation | None = None
        self._running: set[_Generation] = set()
        self._quiet: dict[_Generation, asyncio.TimerHandle] = {}
        self._stopping = False
        self._ageing: asyncio.Task[None] | None = None
        self._side_tasks: set[asyncio.Task[None]] = set()
        self._lingering = LingeringClose(self._address.port)

    @property
    def address(self) -> Address:
        """The address that the listener is bound to, with the actual port."""
        return self._address

    @property
    def max_connections(self) -> int:
        """Maximum number of open connections."""
        return self._settings.limits.max_connections

    async def start(self) -> None:
        """Starts accepting connections."""
        allow_ended(asyncio.get_running_loop())
        self._current = await self._begin()
        if age := self._settings.limits.max_connection_age_s:
            self._ageing = asyncio.create_task(self._age(age))

    async def show(self, identity: ServerIdentity) -> None:
        """Uses another identity for new connections. Existing connections and their calls are not interrupted.

        Raises:
            ConfigError: h2corn cannot use the identity. The previous one stays in use.
        """
        before, self._identity = self._identity, identity
        if self._stopping:
            return
        try:
            await self._replace(None)
        except _NOT_BEGUN as error:
            self._identity = before
            raise ConfigError(f"{self._address}: connections cannot be shown another certificate: {error}") from error

    async def _replace(self, grace: float | None) -> None:
        """Starts the next generation, and retires the current one.

        That has `grace` seconds to finish its calls; None lets it keep its connections.
        """
        following = await self._begin()
        if self._stopping:  # `stop` was called while the generation started
            self._retire(following, None)
            return
        retired, self._current = self._current, following
        if retired is None:
            return
        if grace is not None:
            retired.calls.end_uncounted()
            self._retire(retired, grace)
        elif unwatch(retired.descriptors):
            self._keep(retired)
        else:
            self._retire(retired, None)

    def _keep(self, generation: _Generation) -> None:
        """Keeps a generation that accepts no new connections, since most of its connections will end by themselves."""
        timer = asyncio.get_running_loop().call_later(_QUIET_SECONDS, self._retire_quiet, generation)
        self._quiet[generation] = timer
        if len(self._quiet) > _MOST_QUIET:
            self._retire_quiet(next(iter(self._quiet)))

    def _retire_quiet(self, generation: _Generation) -> None:
        self._quiet.pop(generation).cancel()
        self._retire(generation, None)

    async def finish(self, grace: float) -> None:
        """Sends GOAWAY to clients, waits up to `grace` seconds for calls in flight, then ends the rest.

        From then on and until `stop`, new connections are accepted, and the application rejects their calls.
        """
        self._stopping = True
        if self._ageing is not None:
            self._ageing.cancel()
        last, self._current = self._current, None
        if last is None:  # it has finished, or the last generation failed
            return
        try:
            await self._finish_begun(last, grace)
        except asyncio.CancelledError:
            await self._cut()
            raise

    async def stop(self, grace: float) -> None:
        """Finishes, and then stops listening."""
        try:
            await self.finish(grace)
            if self._rejecting is None:
                await self._cut()
                return
            self._retire(self._rejecting, None)
            self._rejecting.calls.end_all()
            await self._let_go()
            await self._lingering.finish()
        except asyncio.CancelledError:
            await self._cut()
            raise
        finally:
            self._lingering.close()
            self._socket.close()

    async def _finish_begun(self, last: _Generation, grace: float) -> None:
        """Ends all generations in an order that loses no responses. `last` is the one that accepts connections."""
        try:
            self._rejecting = await self._begin()
        except _NOT_BEGUN as error:  # new connections are not answered then, but calls in flight are
            self._log.error("new connections wait until the end", address=str(self.address), exc_info=error)
        self._retire(last, None)
        for generation in list(self._quiet):
            self._retire_quiet(generation)
        ending = [generation for generation in self._running if generation is not self._rejecting]
        for generation in ending:
            generation.calls.end_uncounted()
        # Generations that were replaced because of new certificates get no more time than the others.
        await asyncio.wait(self._side_tasks, timeout=min(grace, self._settings.drain.timeout_s))
        for generation in ending:
            generation.calls.end_all()
        await self._let_go()
        await self._lingering.finish()

    async def _let_go(self) -> None:
        """Waits briefly for ended calls to finish, then cuts the connections of those that have not."""
        if self._side_tasks:
            await asyncio.wait(self._side_tasks, timeout=CUT_SECONDS)
        if self._side_tasks:
            cut_connections(self._address.port)
            await asyncio.wait(self._side_tasks)

    async def _cut(self) -> None:
        """Ends all generations immediately. Stops listening, and cuts all connections."""
        self._lingering.close()
        with contextlib.suppress(OSError):  # only on Linux does this also affect h2corn's descriptors of the socket
            self._socket.shutdown(socket.SHUT_RDWR)
        ending = list(self._running)
        for generation in ending:
            generation.server.shutdown()
            generation.calls.end_all()
        cut_connections(self._address.port)
        if ending:
            await asyncio.wait([generation.serving for generation in ending], timeout=CUT_SECONDS)

    async def _begin(self) -> _Generation:
        calls = RunningCalls()
        others = same_file(self._socket.fileno()) if self._identity is not None else frozenset()
        server = h2corn.Server(
            self._application.open(calls),
            h2corn_config(self._socket.fileno(), self._settings, self._identity, self._application.unary_paths),
        )
        try:
            own = self._identity
            material = None if own is None else TlsMaterial(own.certificate, own.key, own.client_ca or None)
            prepared = prepare_tls(server.config, material)
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
            self._retire(generation, None)  # otherwise it would be forgotten and listen forever
            raise
        await started
        if self._identity is not None:
            generation.descriptors = same_file(self._socket.fileno()) - others
        return generation

    def _retire(self, generation: _Generation, grace: float | None) -> None:
        """Lets a generation finish its calls within `grace` seconds; if None, `stop` ends those that remain."""
        self._lingering.hold(self._settings.drain.timeout_s if grace is None else grace)
        generation.server.shutdown()
        self._spawn(self._finish(generation, grace))

    async def _finish(self, generation: _Generation, grace: float | None) -> None:
        if grace is not None:
            await asyncio.wait([generation.serving], timeout=grace)
            generation.calls.end_all()
        with contextlib.suppress(RuntimeError):  # h2corn's own timeout passed, and it cut the rest
            await generation.serving

    async def _age(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await self._replace(self._settings.drain.timeout_s)
            except _NOT_BEGUN as error:
                self._log.error("connections are not renewed this time", address=str(self.address), exc_info=error)

    def _ended(self, generation: _Generation) -> None:
        """Starts another generation if the current one ended unexpectedly."""
        self._running.discard(generation)
        error = None if generation.serving.cancelled() else generation.serving.exception()
        if generation is not self._current or generation.serving.cancelled():
            return
        self._current = None
        self._log.error("the listener failed and begins anew", address=str(self.address), exc_info=error)
        self._spawn(self._restart())

    async def _restart(self) -> None:
        while self._current is None and not self._stopping:
            await asyncio.sleep(_RESTART_SECONDS)
            try:
                self._current = await self._begin()
            except _NOT_BEGUN as error:
                self._log.error("the listener cannot begin anew yet", address=str(self.address), exc_info=error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._side_tasks.add(task)
        task.add_done_callback(self._side_tasks.discard)
