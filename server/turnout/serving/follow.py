"""Keeps a server in step with what other processes publish, release and tag.

The state store is asked for its revision a few times a second (one indexed row); the repository is watched, and read
again from time to time besides, for file systems that tell nobody of changes.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from structlog.typing import FilteringBoundLogger
from watchfiles import Change, awatch

from turnout.config import Repository as RepositorySettings
from turnout.errors import TurnoutError

_RESCAN_SECONDS = 10.0
_WATCH_STEP_MS = 50


Refresh = Callable[[], Awaitable[None]]
"""Reads again what exists and what was declared."""

Revision = Callable[[], Awaitable[int]]


async def follow(
    refresh: Refresh, revision: Revision, root: Path, settings: RepositorySettings, log: FilteringBoundLogger
) -> None:
    """Refreshes whenever something changed; runs until it is cancelled.

    Args:
        refresh: Called then; what it raises is told, and what was known stays in force.
        revision: Reads that of the state store.
        root: Of the repository, absolute; must exist.
        settings: How often to look, and whether to watch.
        log: Where trouble is told; what was known stays in force meanwhile.
    """
    async with asyncio.TaskGroup() as group:
        group.create_task(_follow_state(refresh, revision, settings.poll_interval_s, log), name="follow state")
        if settings.watch:
            group.create_task(_follow_disk(refresh, root, log), name="follow repository")


async def _follow_state(refresh: Refresh, revision: Revision, interval: float, log: FilteringBoundLogger) -> None:
    known: int | None = None
    trouble = ""
    loop = asyncio.get_running_loop()
    rescan_at = loop.time() + _RESCAN_SECONDS
    while True:
        try:
            current = await revision()
            if current != known or loop.time() >= rescan_at:
                await refresh()
                known = current
                rescan_at = loop.time() + _RESCAN_SECONDS
            trouble = ""
        except (TurnoutError, OSError) as error:
            if str(error) != trouble:  # once, not four times a second
                trouble = str(error)
                log.error("state store or repository cannot be read; what was known stays in force", reason=trouble)
        await asyncio.sleep(interval)


async def _follow_disk(refresh: Refresh, root: Path, log: FilteringBoundLogger) -> None:
    def concerns_versions(_: Change, path: str) -> bool:
        top = Path(path).relative_to(root).parts[:1]
        return not top or not top[0].startswith(".")  # .staging and .turnout are not versions

    async for _ in awatch(root, watch_filter=concerns_versions, step=_WATCH_STEP_MS, debounce=200):
        try:
            await refresh()
        except (TurnoutError, OSError) as error:
            log.error("repository cannot be read; what was known stays in force", reason=str(error))
