"""The supervisor of the workers: starts and restarts them, forwards signals, and merges their metrics."""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.process_collector import ProcessCollector
from pydantic import SecretStr
from structlog.typing import FilteringBoundLogger

from turnout.config import Settings, SettingsSource, in_force, reread
from turnout.errors import TurnoutError, UnavailableError
from turnout.host.signals import accept_hangups, on_each_hangup
from turnout.telemetry.exposition import Exposition, own_families
from turnout.telemetry.families import Family
from turnout.telemetry.metrics.workers import worker_families
from turnout.workers.division import share_of
from turnout.workers.link import Link
from turnout.workers.member import SNAPSHOT_SECONDS, pack_answers, read_gather
from turnout.workers.merging import Totals
from turnout.workers.ports import kept_port
from turnout.workers.restarts import MOST_EARLY_DEATHS, Restarts
from turnout.workers.snapshot import decode
from turnout.workers.start import Start

_TELL_SECONDS = 5.0

_PING_SECONDS = 10.0
"""Interval in seconds at which the supervisor checks that a worker answers."""

_HUNG_SECONDS = 60.0
"""Time in seconds without an answer after which a worker is killed, and so restarted. The kernel assigns connections to
a worker that hangs as to any other."""

_LAST_SECONDS = 15.0
"""Time in seconds that a worker has to end after its drain before it is killed."""

PROGRAM = (sys.executable, "-m", "turnout.worker")

_PARENT = "parent"
"""Value of the label `worker` for the supervisor's own series."""


@dataclass(slots=True)
class Worker:
    """A slot for a worker, which is occupied by one process after another.

    Attributes:
        process: The current or last process; None before the first.
        link: Link to the current process; None if there is none.
        joined: Whether the process has requested its start data.
        follows: Whether the process receives the requests of other workers. What they requested before, it looks up.
        answers: Whether the process answered the latest scrape.
        listening: Whether the process accepts connections.
        ready_since: Time at which the process became ready, in seconds on the event loop's clock; None if it is not.
    """

    index: int
    restarts: Restarts
    process: Process | None = None
    link: Link | None = None
    joined: bool = False
    follows: bool = False
    answers: bool = True
    listening: bool = False
    ready_since: float | None = None

    @property
    def runs(self) -> bool:
        """Whether the process is running."""
        return self.process is not None and self.process.returncode is None


class Supervisor:
    """Runs the workers of a server."""

    def __init__(
        self,
        settings: Settings,
        given: Settings,
        source: SettingsSource,
        log: FilteringBoundLogger,
        program: Sequence[str] = PROGRAM,
        restarts: Callable[[], Restarts] = Restarts,
    ) -> None:
        """Initializes the supervisor, without starting any workers.

        Args:
            settings: The server's settings, with the reserved ports.
            given: The server's settings, with the ports as configured.
            source: Source from which to read the settings again on SIGHUP.
            log: The supervisor's logger.
            program: Command line of a worker, to which the file descriptor of its end of the socket pair is appended.
            restarts: Creates the history of a worker's deaths.
        """
        self._settings = settings
        self._given = given
        self._source = source
        self._log = log
        self._program = program
        self._workers = [Worker(index, restarts()) for index in range(settings.workers)]
        self._totals = Totals()
        self._exposition = Exposition()
        self._counting = asyncio.Lock()  # processing an older snapshot after a newer one would look like a reset
        self._next_count: asyncio.Task[list[Family]] | None = None
        self._asked: dict[tuple[str, str], bool] = {}
        self._session_key = SecretStr(secrets.token_hex(32))
        self._process = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._process)
        self._stopping = asyncio.Event()
        self._hung_up = asyncio.Event()
        self._announced = False
        self._code = 0

    @property
    def serves(self) -> bool:
        """Whether every worker accepts connections and is ready."""
        return all(worker.listening and worker.ready_since is not None for worker in self._workers)

    async def run(self) -> int:
        """Runs the workers until a signal arrives, or until all of them have died early too often.

        Returns:
            The exit code: 0 after a drain; otherwise 1, or the exit code of a worker that could not start.
        """
        with self._signals():
            keeping = [asyncio.create_task(self._keep(worker)) for worker in self._workers]
            reloads = asyncio.create_task(on_each_hangup(self._hung_up, self._reload))
            stopping = asyncio.create_task(self._stopping.wait())
            await asyncio.wait([stopping, *keeping], return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            reloads.cancel()
            failures = [task.exception() for task in keeping if task.done() and not task.cancelled()]
            self._stop(self._code)
            drain = self._settings.drain
            await asyncio.wait(keeping, timeout=drain.delay_s + drain.timeout_s + _LAST_SECONDS)
            for worker in self._workers:
                if worker.runs:
                    self._log.error("a worker did not end in time, and is killed", worker=worker.index)
                    self._code = self._code or 1
            await self._kill(keeping)
            for failure in failures:
                if failure is not None:
                    raise failure
        self._log.info("stopped")
        return self._code

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_end_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up.set)
        accept_hangups()
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _on_end_signal(self, number: signal.Signals) -> None:
        if self._stopping.is_set():  # second signal: end without draining
            self._signal_all(signal.SIGKILL)
            os._exit(1)
        self._log.info("draining", seconds=self._settings.drain.timeout_s)
        self._stop(0, number)

    async def _reload(self) -> None:
        """Reloads the settings for workers that start later, and makes every running worker reload its settings."""
        after = await reread(self._source.read, self._log)
        if after is not None:
            self._settings = in_force(self._settings, after)
        self._signal_all(signal.SIGHUP, joined=True)

    def _stop(self, code: int, number: signal.Signals = signal.SIGTERM) -> None:
        """Makes every worker drain. Only the first call has an effect."""
        if not self._stopping.is_set():
            self._code = code
            self._stopping.set()
            self._signal_all(number)

    def _signal_all(self, number: signal.Signals, *, joined: bool = False) -> None:
        """Sends a signal to every running worker, or only to those that have joined and thus can handle the signal."""
        for worker in self._workers:
            if worker.process is not None and worker.runs and (worker.joined or not joined):
                with contextlib.suppress(ProcessLookupError):
                    worker.process.send_signal(number)

    async def _kill(self, keeping: "Sequence[asyncio.Task[None]]") -> None:
        self._signal_all(signal.SIGKILL)
        await asyncio.wait(keeping, timeout=_TELL_SECONDS)
        for task in keeping:
            task.cancel()
        await asyncio.gather(*keeping, return_exceptions=True)

    async def _keep(self, worker: Worker) -> None:
        """Runs one process after another in a worker's slot until the server stops."""
        while not self._stopping.is_set():
            served, code = await self._run_once(worker)
            if self._stopping.is_set():
                if code not in (0, -signal.SIGTERM, -signal.SIGINT):  # a starting worker does not handle these yet
                    self._code = self._code or 1
                return
            if not self._announced:
                self._log.error(f"worker {worker.index} could not start, and the server stops", how=_ended(code))
                self._stop(code if code > 0 else 1)
                return
            pause = worker.restarts.died(served)
            self._log.error(
                "a worker ended, and is started again", worker=worker.index, how=_ended(code), seconds=pause,
                deaths_in_a_row=worker.restarts.early,
            )  # fmt: skip
            if all(other.restarts.hopeless and other.ready_since is None for other in self._workers):
                self._log.error(f"every worker died at once {MOST_EARLY_DEATHS} times in a row: the server gives up")
                self._stop(1)
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()

    async def _run_once(self, worker: Worker) -> tuple[float, int]:
        """Runs a process until it ends. Returns the time in seconds for which it was ready, and its exit code."""
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as ends:
            try:
                ours, theirs = map(ends.enter_context, socket.socketpair())
                # A separate process group: Ctrl-C should reach only the supervisor, which signals the workers.
                worker.process = await asyncio.create_subprocess_exec(
                    *self._program, str(theirs.fileno()),
                    pass_fds=[theirs.fileno()], process_group=0, stdin=asyncio.subprocess.DEVNULL,
                )  # fmt: skip
            except OSError as error:  # no processes, files or memory available now
                self._log.error("a worker could not be started", worker=worker.index, reason=error.strerror)
                return 0.0, 1
            theirs.close()
            ends.pop_all()
        try:
            worker.link = await Link.over(ours, lambda topic, body: self._answer(worker, topic, body))
            if self._stopping.is_set():  # stopped while the process was being created
                worker.process.send_signal(signal.SIGTERM)
            watching = asyncio.create_task(self._kill_if_hung(worker, worker.process, worker.link))
            try:
                code = await worker.process.wait()
            finally:
                watching.cancel()
        finally:
            if worker.runs:
                worker.process.kill()
            if worker.link is not None:
                worker.link.close()
            served = 0.0 if worker.ready_since is None else loop.time() - worker.ready_since
            worker.link, worker.joined, worker.follows, worker.answers = None, False, False, True
            worker.listening, worker.ready_since = False, None
        async with self._counting:
            self._totals.died(str(worker.index))
        await self._send_readiness()
        return served, code

    async def _kill_if_hung(self, worker: Worker, process: Process, link: Link) -> None:
        """Kills a process that accepts connections and no longer answers. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(_PING_SECONDS)
            if not worker.listening:
                continue
            try:
                await link.ask("ping", bound=_HUNG_SECONDS)
            except TurnoutError:
                if link.closed.done() or self._stopping.is_set():
                    continue  # it ends, or is killed when its time to drain is over
                self._log.error("a worker hangs, and is killed", worker=worker.index, seconds=_HUNG_SECONDS)
                process.kill()

    async def _answer(self, worker: Worker, topic: str, body: bytes) -> bytes:
        match topic:
            case "hello":
                worker.joined = True
                return self._start(worker).encode()
            case "asked":
                worker.follows = True
                return json.dumps([(*version, load) for version, load in self._asked.items()]).encode()
            case "listening":
                worker.listening = True
                await self._send_readiness()
                self._send_addresses()
            case "ready":
                worker.ready_since = asyncio.get_running_loop().time()
                await self._send_readiness()
            case "leave":
                async with self._counting:
                    self._totals.update(str(worker.index), decode(body))
            case "scrape":
                return await self._scrape(body.decode())
            case "gather":
                return await self._gather(worker, body)
            case _:
                raise UnavailableError(f"the parent does not answer {topic!r}")
        return b""

    def _start(self, worker: Worker) -> Start:
        others = any(other.listening for other in self._workers if other is not worker)
        waits = others and worker.restarts.count > 0
        return Start(
            settings=share_of(self._settings, worker.index),
            given=self._given,
            source=self._source,
            index=worker.index,
            control=worker.index == 0,
            waits=waits,
            session_key=self._session_key,
        )

    def _send_addresses(self) -> None:
        if not self._announced and all(worker.listening for worker in self._workers):
            self._announced = True
            at = self._settings
            self._log.info(
                "listening", grpc=str(at.grpc), http=str(at.http), control=str(at.control), workers=at.workers
            )

    async def _send_readiness(self) -> None:
        """Sends every worker the readiness of the others, and whether it must stop waiting for its own versions."""
        messages = []
        for worker in self._workers:
            others = [other for other in self._workers if other is not worker and other.listening]
            # At the start, wait for all workers. Later, a missing worker does not matter: it accepts no connections.
            started = self._announced or all(each.listening for each in self._workers)
            ready = started and all(other.ready_since is not None for other in others)
            messages.append(self._send(worker, "others", b"1" if ready else b"0"))
            if not others:
                messages.append(self._send(worker, "listen"))
        await asyncio.gather(*messages)

    async def _send(self, worker: Worker, topic: str, body: bytes = b"") -> None:
        if worker.link is not None:
            with contextlib.suppress(TurnoutError):  # the worker has ended or is too busy
                await worker.link.ask(topic, body, bound=_TELL_SECONDS)

    async def _scrape(self, content_type: str) -> bytes:
        # Scrapes that arrive during a count share the next one: a worker that hangs delays each count by seconds.
        if self._next_count is None:
            self._next_count = asyncio.create_task(self._merge())
        families = await asyncio.shield(self._next_count)
        return b"".join([block async for block in self._exposition.render(families, content_type)])

    async def _merge(self) -> list[Family]:
        async with self._counting:
            self._next_count = None
            complete = await self._count()
            self._totals.update(_PARENT, own_families(self._process.collect()))
            return [*self._totals.families(complete=complete), *self._families()]

    async def _count(self) -> bool:
        """Requests the metrics of every worker. Returns whether all of them are running, are ready and have replied."""

        async def snapshot(worker: Worker) -> bool:
            if worker.link is None:
                return False
            try:
                families = decode(await worker.link.ask("snapshot", bound=SNAPSHOT_SECONDS))
            except TurnoutError:
                worker.answers = False
                return False
            worker.answers = True
            self._totals.update(str(worker.index), families)
            return worker.ready_since is not None

        return all(await asyncio.gather(*map(snapshot, self._workers)))

    def _families(self) -> Iterator[Family]:
        up = {one.index: one.listening and one.ready_since is not None and one.answers for one in self._workers}
        return worker_families(up, {worker.index: worker.restarts.count for worker in self._workers})

    async def _gather(self, asking: Worker, body: bytes) -> bytes:
        bound, topic, request = read_gather(body)
        if topic == "load":
            model, version, load = json.loads(request)
            self._asked[model, version] = bool(load)
        others = [
            (one, one.link) for one in self._workers if one is not asking and one.link is not None and one.follows
        ]

        async def answer(link: Link) -> bytes | TurnoutError | None:
            try:
                return await link.ask(topic, request, bound=bound)
            except TurnoutError as error:
                return None if link.closed.done() else error  # None: it has ended, and its successor looks up the rest

        answers = await asyncio.gather(*(answer(link) for _, link in others))
        found = zip(others, answers, strict=True)
        return pack_answers({worker.index: reported for (worker, _), reported in found if reported is not None})


async def supervise(settings: Settings, source: SettingsSource, log: FilteringBoundLogger) -> int:
    """Runs a server with several workers, and returns the exit code as `Supervisor.run` does.

    Raises:
        ConfigError: A port cannot be bound.
    """
    with contextlib.ExitStack() as stack:
        grpc = stack.enter_context(kept_port(settings.grpc))
        http = grpc if settings.http == grpc else stack.enter_context(kept_port(settings.http))
        ports = {"grpc": grpc, "http": http, "control": stack.enter_context(kept_port(settings.control))}
        return await Supervisor(settings.model_copy(update=ports), settings, source, log).run()


def _ended(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
