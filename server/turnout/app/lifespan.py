"""A server's background tasks while it runs, and the drain at its end."""

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from typing import Any

from structlog.typing import FilteringBoundLogger

from turnout.admission.requests import Admission
from turnout.app.listeners import Listeners
from turnout.app.serving import Serving
from turnout.config import Drain, Retention
from turnout.errors import Draining, UnavailableError
from turnout.registry.storage.repository import Repository
from turnout.registry.transfer.uploads import Uploads
from turnout.releases.pruner import expire
from turnout.rpc.registry.threads import CancellableThreads
from turnout.state.store import StateStore

_QUIET_SECONDS = 0.03
_SETTLE_SECONDS = 0.5
"""After the drain delay, requests are accepted until none has arrived for the first of these times, but no longer than
the second. Thus requests that were in transit when the server was told to stop are still accepted."""

_LAST_SECONDS = 0.2
"""Time in seconds that the last rejections have to reach their clients."""

_EXPIRY_SECONDS = 0.5
"""Minimum time in seconds between two checks for abandoned uploads."""

_RETENTION_SECONDS = 3600.0
"""Time in seconds between two removals of expired records."""

_RUNS_CLOSE_SECONDS = 1.0
"""Maximum time in seconds for which runs of requests that were already ended may delay the server's end. Supervisors
only wait for the drain timeout."""

_SHADOWS_CLOSE_SECONDS = 1.0
"""Maximum time in seconds for which running shadow copies may delay the server's end."""


class SideTasks:
    """Background tasks that run as long as the server does. If one of them ends by itself, the server stops."""

    def __init__(self, failed: "asyncio.Future[None]") -> None:
        self._failed = failed
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Starts a task. If the task ends, the error message that explains the server's end contains `name`."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def expect_end(self) -> None:
        """Allows tasks to end from now on."""
        for task in self._tasks:
            task.remove_done_callback(self._ended)

    async def cancel(self) -> None:
        """Cancels all tasks, and waits for their end."""
        self.expect_end()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._failed.cancel()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if self._failed.done() or task.cancelled():
            return
        error = RuntimeError(f"side task {task.get_name()!r} ended")
        error.__cause__ = task.exception()
        self._failed.set_exception(error)


async def drain(
    serving: Serving,
    registry: CancellableThreads,
    bounds: Drain,
    admission: Admission,
    listeners: Listeners,
    side_tasks: SideTasks,
    without_delay: asyncio.Event,
) -> None:
    """Drains the server, whose readiness is already off.

    First waits for the drain delay, then stops accepting requests, then waits for the requests in progress. A request
    that has started is answered even if it has been received only in part. Later requests are rejected with UNAVAILABLE
    and a retry delay, also on new connections and by every listener, until the last request in progress has been
    answered on any of them.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(bounds.delay_s):
            await without_delay.wait()
    await _settle(admission)
    admission.stop()
    serving.inference.drain()
    bound = bounds.timeout_s
    ends = time.monotonic() + bound
    # Publishing may take minutes and can be repeated, so it does not delay the server's end.
    registry.stop(Draining("the server stops", retry_after=1.0))
    # The shadow lanes end first: no caller waits for a copy, and the manager would wait for the versions they lease.
    shadows = serving.shadows.close(min(bound, _SHADOWS_CLOSE_SECONDS))
    await asyncio.gather(
        *(c.finish(bound) for c in listeners.clients), listeners.control.stop(min(bound, 1.0)), shadows
    )
    await asyncio.gather(*(c.stop(_LAST_SECONDS) for c in listeners.clients))
    side_tasks.expect_end()
    await serving.manager.close(max(ends - time.monotonic(), min(bound, _RUNS_CLOSE_SECONDS)))


async def keep_retention(store: StateStore, retention: Retention, log: FilteringBoundLogger) -> None:
    """Removes expired records from the state store periodically, until the task is cancelled."""
    while True:
        await asyncio.sleep(_RETENTION_SECONDS)
        try:
            removed = await store.in_thread(expire, store, retention)
        except UnavailableError as error:
            log.warning("what the retention lets go stays for now", reason=error.message)
        else:
            if removed.ticks or removed.events:
                log.info("removed what the retention lets go", ticks=removed.ticks, events=removed.events)


async def expire_uploads(repository: Repository, uploads: Uploads, keep_seconds: float) -> None:
    """Removes abandoned uploads periodically, until the task is cancelled."""
    while True:
        await asyncio.sleep(max(keep_seconds / 4, _EXPIRY_SECONDS))
        await repository.in_thread(uploads.expire)


async def _settle(admission: Admission) -> None:
    begun = -1
    for _ in range(round(_SETTLE_SECONDS / _QUIET_SECONDS)):
        if begun == (begun := admission.begun):
            return
        await asyncio.sleep(_QUIET_SECONDS)
