"""Follows what other processes publish, release and tag.

The state store is asked for its revision a few times per second (two indexed rows). The repository is watched, and also
reread periodically for file systems that do not report changes. No error in either stops the server: the known state
stays in force, and the error is reported.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from semver import Version
from structlog.typing import FilteringBoundLogger
from watchfiles import Change, watch

from turnout.config import RepositorySettings
from turnout.errors import TurnoutError, UnavailableError
from turnout.serving.versions.availability import Availability, Dependency
from turnout.serving.versions.catalog import Catalog, ModelEntry
from turnout.threads import Threads

_RESCAN_SECONDS = 10.0
_RETRY_SECONDS = 1.0
"""Interval in seconds at which an unavailable repository is checked."""
_ANSWER_SECONDS = 5.0
"""Time in seconds after which a state store that does not answer counts as unavailable. It takes milliseconds."""
_WATCH_STEP_MS = 50
_WATCH_TIMEOUT_MS = 1000
"""Interval in milliseconds at which the watch checks that its directory has not been replaced."""
_WATCH_CLOSE_SECONDS = 0.5
"""Maximum time in seconds for which the watch may delay the server's end. Its thread may hang with the file system."""


Refresh = Callable[[], Awaitable[None]]
"""Rereads the repository and the release state."""

Revision = Callable[[], Awaitable[int]]


class VersionFinder:
    """Reads the repository again before a version counts as unknown, since the server notices a publish a little later.

    Only for changes: a request for an unknown version must not make the server read its repository.
    """

    def __init__(self, catalog: Catalog, look_soon: Callable[[], None], refresh: Refresh) -> None:
        """Stores the means to `look_soon`, which lists the repository again even if it is remote, and to `refresh`."""
        self._catalog = catalog
        self._look_soon = look_soon
        self._refresh = refresh

    async def find(self, model: str, *versions: Version) -> ModelEntry:
        """Returns a model, in which `versions` are missing only if they do not exist.

        Raises:
            ModelNotFound: The model does not exist.
        """
        known = self._catalog.snapshot.models.get(model)
        if known is None or not known.versions.keys() >= set(versions):
            await self.look()
        return self._catalog.snapshot.model(model)

    async def look(self) -> None:
        """Reads the repository again. If the state store does not respond, only the release state stays as it was."""
        self._look_soon()
        with contextlib.suppress(UnavailableError):
            await self._refresh()


async def follow_recorded(refresh: Refresh) -> None:
    """Refreshes after a change was recorded. If that fails, the change counts anyway, and `follow` applies it later."""
    with contextlib.suppress(TurnoutError, OSError):
        await refresh()


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
    """Refreshes on every change until it is cancelled. Errors are reported, and the known state stays in force.

    `revision` reads that of the state store, and raises if the store cannot be used; `changed` is set by a store that
    reports changes itself. The repository at the absolute path `root` is polled, and its directory is watched as well
    unless it is `remote`.
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
        asked = asyncio.ensure_future(revision())
        try:
            if not (await asyncio.wait({asked}, timeout=_ANSWER_SECONDS))[0]:
                availability.report(Dependency.STATE_STORE, "the state store cannot be used: it does not answer")
            current = await asked
        except (TurnoutError, OSError) as error:
            fault = _words(error)
        finally:
            asked.cancel()
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
            async with asyncio.timeout(interval):
                await changed.wait()
        changed.clear()


def _words(error: TurnoutError | OSError) -> str:
    """Describes an error without a path, since anyone who queries readiness can read it."""
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
                    except (TurnoutError, OSError) as error:  # reported and retried by `_follow_state`
                        log.debug("a change in the repository could not be read yet", reason=_words(error))
            changed.clear()
            await asyncio.sleep(_RETRY_SECONDS)
    finally:
        threads.shutdown()


@asynccontextmanager
async def _watched(root: Path, threads: Threads, changed: asyncio.Event) -> AsyncIterator["asyncio.Future[None]"]:
    """Watches a directory in a thread, since most changes there are of the state store and need no event loop.

    `changed` is set at the start, for each batch of changes, and when the watch ends. The future that this yields is
    done once the directory is gone or has been replaced.
    """
    loop, stop = asyncio.get_running_loop(), threading.Event()
    watching = asyncio.wrap_future(threads.submit(_watch, root, lambda: loop.call_soon_threadsafe(changed.set), stop))
    watching.add_done_callback(lambda _: changed.set())
    try:
        yield watching
    finally:
        stop.set()
        # The directory vanished before the watch began, or its file system hangs: TimeoutError is an OSError.
        with contextlib.suppress(OSError):
            async with asyncio.timeout(_WATCH_CLOSE_SECONDS):
                await watching


def _watch(root: Path, report: Callable[[], object], stop: threading.Event) -> None:
    """Reports the start and each batch of changes; returns when the directory has been replaced."""
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
        # A watch stays with its original directory: a mount over it, or a replacement, goes unnoticed.
        if _identity(root) != watched:
            return


def _identity(root: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(root)
    except OSError:
        return None
    return status.st_dev, status.st_ino
