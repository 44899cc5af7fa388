"""A server as a process: its event loop, its signals, its exit code."""

import asyncio
import gc
import os
import signal
from collections.abc import Callable
from typing import Any

from turnout.app.reload import Reloader
from turnout.app.server import running
from turnout.config import Settings, misread_variables
from turnout.host import return_freed_memory
from turnout.telemetry.logging import LogForm, Threshold, make_logger
from turnout.workers.member import Member

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def loop_factory(*, gpu: bool) -> LoopFactory:
    """Returns what makes the event loop: libuv's if it is known to serve, which is a tenth of a small unary call.

    Args:
        gpu: Whether it may use one. Then it is asyncio's own loop (docs/decisions/0035-servers-run-on-libuv.md).
    """
    if gpu:
        return asyncio.new_event_loop
    try:
        import uvloop
    except ModuleNotFoundError:  # there is none for PyPy
        return asyncio.new_event_loop
    return uvloop.new_event_loop


async def run(settings: Settings, read: Callable[[], Settings], member: Member | None = None) -> int:
    """Runs a server until SIGTERM or SIGINT; a second signal ends the process at once. SIGHUP reloads the settings.

    Args:
        settings: Of the server.
        read: Reads them anew; it raises ConfigError if they are wrong.
        member: What it is as one of several workers; it drains when its parent is gone, too.

    Returns:
        The exit code: 0 after a drain, 1 where a part that must not end did.

    Raises:
        ConfigError, UnavailableError: As `running`.
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
            os._exit(1)  # asked twice: no drain, no farewell
        interrupted = number is signal.SIGINT
        stop()

    def stop() -> None:
        stopping.set()
        if member is not None:
            member.listen_now.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    hung_up = asyncio.Event() if member is None else member.hung_up  # that may be before there is a server
    loop.add_signal_handler(signal.SIGHUP, hung_up.set)
    if member is not None:
        member.on_parents_end(stop)
    async with running(settings, log, threshold=threshold, form=form, member=member) as server:
        reloads = loop.create_task(_reload(server.reloader, read, hung_up))
        if member is None:
            log.info("listening", grpc=str(server.grpc), http=str(server.http), control=str(server.control))
        # What lives as long as the process is looked at by no collection from now on: each would stall the loop for it.
        gc.collect()
        gc.freeze()
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


async def _reload(reloader: Reloader, read: Callable[[], Settings], hung_up: asyncio.Event) -> None:
    while True:
        await hung_up.wait()
        hung_up.clear()
        await reloader.reload(read)
