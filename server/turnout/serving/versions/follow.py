"""Follows what other processes publish, release and tag.

The state store is asked for its revision a few times a second (two indexed rows); the repository is watched, and read
again from time to time besides, for file systems that tell nobody of changes. Nothing that goes wrong with either ends
the server: what was known stays in force, and what is wrong is told.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from structlog.typing import FilteringBoundLogger
from watchfiles import Change, watch

from turnout.config import RepositorySettings as RepositorySettings
from turnout.errors import TurnoutError
from turnout.serving.versions.availability import Availability, Dependency
from turnout.threads import Threads

_RESCAN_SECONDS = 10.0
_RETRY_SECONDS = 1.0
"""Between two looks at a repository that is unavailable."""
_WATCH_STEP_MS = 50
_WATCH_TIMEOUT_MS = 1000
"""After which the watch looks whether the directory is still the one that it watches."""


Refresh = Callable[[], Awaitable[None]]
"""Reads again what exists and what was declared."""

Revision = Callable[[], Awaitable[int]]


async def follow(
    refresh: Refresh,
    revision: Revision,
    availability: Availability,
    root: Path,
    settings: RepositorySettings,
    log: FilteringBoundLogger,
    changed: asyncio.Event | None = None,
    *,
    remote: bool = False,
) -> None:
    """Refreshes whenever something changed; runs until it is cancelled.

    Args:
        refresh: Called then; what it raises is told, and what was known stays in force.
        revision: Reads that of the state store. Raises if the store cannot be used.
        availability: Told whether the state store can be used; tells whether the repository can.
        root: Of the repository, absolute.
        settings: How often to look, and whether to watch.
        log: Where trouble is logged; what was known stays in force meanwhile.
        changed: Set when the state store says by itself that something changed; None if it cannot.
        remote: The repository lives elsewhere: it is asked every so often, and no directory is watched.
    """
    rescan = min(settings.remote_poll_s, _RESCAN_SECONDS) if remote and settings.watch else _RESCAN_SECONDS
    async with asyncio.TaskGroup() as group:
        group.create_task(
            _follow_state(
                refresh, revision, availability, settings.poll_interval_s, changed or asyncio.Event(), rescan
            ),
            name="follow state",
        )
        if settings.watch and not remote:
            group.create_task(_follow_disk(refresh, root, log), name="follow repository")


async def _follow_state(
    refresh: Refresh,
    revision: Revision,
    availability: Availability,
    interval: float,
    changed: asyncio.Event,
    rescan: float,
) -> None:
    known: int | None = None
    loop = asyncio.get_running_loop()
    read_at = loop.time()
    while True:
        fault, current = "", known
        try:
            current = await revision()
        except (TurnoutError, OSError) as error:
            fault = _words(error)
        away = Dependency.REPOSITORY in availability.reasons
        due = loop.time() >= read_at + (min(_RETRY_SECONDS, rescan) if away else rescan)
        if due or (not fault and current != known):
            try:
                await refresh()
                known = current
            except (TurnoutError, OSError) as error:
                fault = fault or _words(error)
            read_at = loop.time()
        availability.report(Dependency.STATE_STORE, fault)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(changed.wait(), interval)
        changed.clear()


def _words(error: TurnoutError | OSError) -> str:
    """Says what is wrong, without a path: whoever asks for the readiness reads it."""
    return error.message if isinstance(error, TurnoutError) else f"it cannot be read ({error.strerror})"


async def _follow_disk(refresh: Refresh, root: Path, log: FilteringBoundLogger) -> None:
    threads, changed = Threads("watch"), asyncio.Event()
    try:
        while True:
            async with _watched(root, threads, changed) as watching:
                while await changed.wait() and not watching.done():
                    changed.clear()
                    try:
                        await refresh()
                    except (TurnoutError, OSError) as error:  # who follows the state tells it, and looks again
                        log.debug("a change in the repository could not be followed at once", reason=_words(error))
            changed.clear()
            await asyncio.sleep(_RETRY_SECONDS)
    finally:
        threads.shutdown()


@asynccontextmanager
async def _watched(root: Path, threads: Threads, changed: asyncio.Event) -> AsyncIterator["asyncio.Future[None]"]:
    """Watches a directory in a thread: most of what changes there is the state store, and no matter of the event loop.

    Args:
        root: The directory.
        threads: Of which one watches.
        changed: Set at first, for each batch of changes, and when there is nothing to watch any more.

    Yields:
        Done once there is no directory, or another one in its place.
    """
    loop, stop = asyncio.get_running_loop(), threading.Event()
    watching = asyncio.wrap_future(threads.submit(_watch, root, lambda: loop.call_soon_threadsafe(changed.set), stop))
    watching.add_done_callback(lambda _: changed.set())
    try:
        yield watching
    finally:
        stop.set()
        with contextlib.suppress(OSError):  # the directory went between the look and the watch
            await watching


def _watch(root: Path, report: Callable[[], object], stop: threading.Event) -> None:
    """Tells once it watches and of each batch of changes; returns where the directory is another than it was."""
    if (watched := _identity(root)) is None:
        return
    hidden, first = os.path.join(root, "."), True

    def concerns_versions(_: Change, path: str) -> bool:
        return not path.startswith(hidden)  # .staging and .turnout are not versions

    for changes in watch(
        root, watch_filter=concerns_versions, step=_WATCH_STEP_MS, debounce=200, rust_timeout=_WATCH_TIMEOUT_MS,
        yield_on_timeout=True, stop_event=stop,
    ):  # fmt: skip
        if changes or first:
            report()
        first = False
        # A watch stays with the directory that it began with: a mount over it, or another one, is not seen.
        if _identity(root) != watched:
            return


def _identity(root: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(root)
    except OSError:
        return None
    return status.st_dev, status.st_ino
