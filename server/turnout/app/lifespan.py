"""A server's life between its start and its end: tasks beside the listeners, and the drain."""

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from typing import Any

from structlog.typing import FilteringBoundLogger

from turnout.admission import Admission
from turnout.app.listeners import Listeners
from turnout.config import Retention, Settings
from turnout.errors import Draining, UnavailableError
from turnout.registry.storage.repository import Repository
from turnout.registry.transfer.uploads import Uploads
from turnout.releases.pruner import expire
from turnout.rpc.server import Services
from turnout.state.store import StateStore

_QUIET_SECONDS = 0.03
_SETTLE_SECONDS = 0.5
"""However short the delay, requests are taken until none came for the first of these, and at most for the second.
Those on their way when the server was told to stop were begun before that."""

_EXPIRY_SECONDS = 0.5
"""Between two looks for uploads that nobody goes on with, at least."""

_RETENTION_SECONDS = 3600.0
"""Between two looks for what the retention lets go."""

_RUNS_CLOSE_SECONDS = 1.0
"""What runs whose requests have been ended may hold the server's end up by; whatever waits for it counts on the drain's
own time."""

_SHADOWS_CLOSE_SECONDS = 1.0
"""What copies that run may hold the server's end up by."""


class SideTasks:
    """Tasks that run as long as the server does. One that ends by itself stops the server."""

    def __init__(self, failed: "asyncio.Future[None]") -> None:
        self._failed = failed
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Begins a task; `name` is what the server's end is explained with if it ends."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def expect_end(self) -> None:
        """Says that from now on a task may end."""
        for task in self._tasks:
            task.remove_done_callback(self._ended)

    async def cancel(self) -> None:
        """Ends all of them."""
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
    services: Services,
    settings: Settings,
    admission: Admission,
    listeners: Listeners,
    side_tasks: SideTasks,
    without_delay: asyncio.Event,
) -> None:
    """Drains: readiness is off already; then no new request is taken, then those under way are finished.

    What has begun is answered, whether or not all of it has come. What comes after that is refused with UNAVAILABLE
    and when to try again, on new connections too, until the last has been answered.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(settings.drain.delay_s):
            await without_delay.wait()
    await _settle(admission)
    admission.stop()
    services.inference.drain()
    bound = settings.drain.timeout_s
    ends = time.monotonic() + bound
    # What goes on for a publisher may take minutes, and can be begun anew: it does not hold up the server's end.
    services.registry.stop(Draining("the server stops", retry_after=1.0))
    # The lanes go first and at once: nobody waits for a copy, and the manager would wait for what a lane holds.
    shadows = services.shadows.close(min(bound, _SHADOWS_CLOSE_SECONDS))
    await asyncio.gather(*(c.stop(bound) for c in listeners.clients), listeners.control.stop(min(bound, 1.0)), shadows)
    side_tasks.expect_end()
    await services.manager.close(max(ends - time.monotonic(), min(bound, _RUNS_CLOSE_SECONDS)))


async def keep_retention(store: StateStore, retention: Retention, log: FilteringBoundLogger) -> None:
    """Removes from the state store what the retention no longer keeps, for as long as the server runs."""
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
    """Removes uploads that nobody goes on with, for as long as the server runs."""
    while True:
        await asyncio.sleep(max(keep_seconds / 4, _EXPIRY_SECONDS))
        await repository.in_thread(uploads.expire)


async def _settle(admission: Admission) -> None:
    begun = -1
    for _ in range(round(_SETTLE_SECONDS / _QUIET_SECONDS)):
        if begun == (begun := admission.begun):
            return
        await asyncio.sleep(_QUIET_SECONDS)
