"""Runs a server as a process: sets up the event loop and signal handlers, and determines the exit code."""

import asyncio
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

from turnout.app.server import running
from turnout.config import Settings, misread_variables
from turnout.host.garbage import freeze_objects
from turnout.host.memory import return_freed_memory
from turnout.host.signals import accept_hangups, on_each_hangup
from turnout.telemetry.logging import LogForm, Threshold, make_logger
from turnout.workers.member import Member

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def loop_factory(*, gpu: bool) -> LoopFactory:
    """Returns the factory of the event loop: uvloop's, which saves a tenth of the cost of a small unary call. If the
    process may use a GPU, it is asyncio's (docs/decisions/0035-servers-run-on-libuv.md).
    """
    if gpu:
        return asyncio.new_event_loop
    try:
        import uvloop
    except ModuleNotFoundError:  # uvloop is not available for PyPy
        return asyncio.new_event_loop
    return uvloop.new_event_loop


async def run(settings: Settings, read: Callable[[], Settings], member: Member | None = None) -> int:
    """Runs a server until SIGTERM or SIGINT. A second signal ends the process immediately. SIGHUP reloads the settings.

    `read` reads the settings again, and raises ConfigError if they are invalid. A `member` of several workers also
    drains when the supervisor ends.

    Returns:
        The exit code: 0 after a drain, 1 if a background task ended unexpectedly.

    Raises:
        ConfigError, UnavailableError: As for `running`.
    """
    return_freed_memory()
    threshold, form = Threshold(settings.log.level), LogForm(settings.log.format)
    log = make_logger(form, threshold)
    if member is not None:
        log = log.bind(worker=member.start.index)
    for sentence in misread_variables(settings):
        log.warning("tls", reason=sentence)
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    interrupted = False

    def on_signal(number: signal.Signals) -> None:
        nonlocal interrupted
        if stopping.is_set():
            os._exit(1)  # second signal: exit without draining
        interrupted = number is signal.SIGINT
        stop()

    def stop() -> None:
        stopping.set()
        if member is not None:
            member.listen_now.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    hung_up = asyncio.Event() if member is None else member.hung_up  # SIGHUP may arrive before the server runs
    loop.add_signal_handler(signal.SIGHUP, hung_up.set)
    accept_hangups()
    if member is not None:
        member.on_parents_end(stop)
    async with running(settings, log, threshold=threshold, form=form, member=member) as server:
        reloads = loop.create_task(on_each_hangup(hung_up, partial(server.reloader.reload, read)))
        if member is None:
            log.info("listening", grpc=str(server.grpc), http=str(server.http), control=str(server.control))
        freeze_objects()
        signalled = asyncio.ensure_future(stopping.wait())
        ends: list[asyncio.Future[Any]] = [signalled, server.failed]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        signalled.cancel()
        reloads.cancel()
        failure = server.failed.exception() if server.failed.done() else None
        if failure is not None:
            log.error("a side task died; the server stops", reason=str(failure), exc_info=failure)
        if interrupted or failure is not None:
            server.without_delay.set()
        log.info("draining", seconds=settings.drain.timeout_s)
    log.info("stopped")
    return 0 if failure is None else 1
