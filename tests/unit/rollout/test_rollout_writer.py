"""What a write of a rollout finds that takes longer than its tick waits."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import pytest

from rollout_values import PLAN, begun
from turnout.errors import Conflict
from turnout.rollout.engine.active_rollout import ActiveRollout
from turnout.rollout.engine.store_timeouts import StoreTimeout
from turnout.rollout.engine.writer import EventReporter, RolloutWriter
from turnout.state.store import StateStore
from turnout.telemetry.logging import make_logger
from turnout.threads import Threads

BOUND, TICK = 60.0, 0.05


@pytest.mark.parametrize("together", [False, True], ids=["alone", "with others"])
async def test_a_write_that_came_late_and_found_another_servers_is_not_made_again(
    tmp_path: Path, together: bool
) -> None:
    """The state store may be that slow all the time, so that no write is ever in time to say so itself."""
    file, timeout = tmp_path / "state.db", StoreTimeout()

    @asynccontextmanager
    async def locked() -> AsyncIterator[sqlite3.Connection]:
        with closing(sqlite3.connect(file, isolation_level=None, timeout=BOUND)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield other
            other.execute("COMMIT")
        await timeout.rest(BOUND)

    with StateStore.open(f"sqlite:///{file}") as store, ExitStack() as stack:
        threads = Threads("rollouts")
        stack.callback(threads.shutdown)
        reporter = EventReporter(lambda *_: None, make_logger("json", "critical"))
        writer = RolloutWriter(store, "here", 20.0, timeout, threads, reporter)
        active = ActiveRollout.begin(begun(replace(PLAN, shadow=None)), 0, 0.0)
        await writer.save(active, BOUND, strict=True)
        async with locked() as other:
            other.execute("UPDATE rollouts SET number = number + 1")
            assert await _overtaken(writer, active, together) is False
        async with locked():
            assert await _overtaken(writer, active, together) is True


async def _overtaken(writer: RolloutWriter, active: ActiveRollout, together: bool) -> bool:
    """Writes a rollout, and returns whether another server is known to have written it."""
    if together:
        return active in await writer.save_counts([active], TICK)
    try:
        await writer.save(active, TICK)
    except Conflict:
        return True
    return False
