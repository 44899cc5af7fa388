"""Keeps a server in step with what other processes publish, release and tag.

The state store is asked for its revision a few times a second (two indexed rows); the repository is watched, and read
again from time to time besides, for file systems that tell nobody of changes. Nothing that goes wrong with either ends
the server: what was known stays in force, and what is wrong is told.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from structlog.typing import FilteringBoundLogger
from watchfiles import Change, awatch

from turnout.config import Repository as RepositorySettings
from turnout.errors import TurnoutError
from turnout.serving.versions.availability import Availability, Part
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
    told: asyncio.Event | None = None,
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
        log: Where trouble is told; what was known stays in force meanwhile.
        told: Set when the state store says by itself that something changed; None if it cannot.
        remote: The repository lives elsewhere: it is asked every so often, and no directory is watched.
    """
    rescan = min(settings.remote_poll_s, _RESCAN_SECONDS) if remote and settings.watch else _RESCAN_SECONDS
    async with asyncio.TaskGroup() as group:
        group.create_task(
            _follow_state(refresh, revision, availability, settings.poll_interval_s, told or asyncio.Event(), rescan),
            name="follow state",
        )
        if settings.watch and not remote:
            group.create_task(_follow_disk(refresh, root, log), name="follow repository")


async def _follow_state(
    refresh: Refresh,
    revision: Revision,
    availability: Availability,
    interval: float,
    told: asyncio.Event,
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
        away = Part.REPOSITORY in availability.reasons
        due = loop.time() >= read_at + (min(_RETRY_SECONDS, rescan) if away else rescan)
        if due or (not fault and current != known):
            try:
                await refresh()
                known = current
            except (TurnoutError, OSError) as error:
                fault = fault or _words(error)
            read_at = loop.time()
        availability.tell(Part.STATE_STORE, fault)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(told.wait(), interval)
        told.clear()


def _words(error: TurnoutError | OSError) -> str:
    """Says what is wrong, without a path: whoever asks for the readiness reads it."""
    return error.message if isinstance(error, TurnoutError) else f"it cannot be read ({error.strerror})"


async def _follow_disk(refresh: Refresh, root: Path, log: FilteringBoundLogger) -> None:
    threads = Threads("watch")
    while True:
        watched = await threads.run(_identity, root)
        if watched is not None:
            async for _ in _changes(root, watched, threads):
                try:
                    await refresh()
                except (TurnoutError, OSError) as error:  # who follows the state tells it, and looks again
                    log.debug("a change in the repository could not be followed at once", reason=_words(error))
        await asyncio.sleep(_RETRY_SECONDS)


async def _changes(root: Path, watched: tuple[int, int], threads: Threads) -> AsyncIterator[None]:
    """Yields at first and for each batch of changes under `root`; ends where another directory has come to be there."""

    def concerns_versions(_: Change, path: str) -> bool:
        top = Path(path).relative_to(root).parts[:1]
        return not top or not top[0].startswith(".")  # .staging and .turnout are not versions

    watching = awatch(
        root, watch_filter=concerns_versions, step=_WATCH_STEP_MS, debounce=200, rust_timeout=_WATCH_TIMEOUT_MS,
        yield_on_timeout=True,
    )  # fmt: skip
    first = True
    try:
        async for changes in watching:
            if changes or first:
                yield
            first = False
            # A watch stays with the directory that it began with: a mount over it, or another one, is not seen.
            if await threads.run(_identity, root) != watched:
                return
    except OSError:  # the directory went between the look and the watch
        return


def _identity(root: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(root)
    except OSError:
        return None
    return status.st_dev, status.st_ino
