"""Following the state store, which may fail or not answer at all."""

import asyncio
import logging
from contextlib import suppress
from pathlib import Path

import pytest
import structlog

from turnout.config import RepositorySettings
from turnout.errors import UnavailableError
from turnout.serving.versions import follow as following
from turnout.serving.versions.availability import Availability, Dependency
from turnout.serving.versions.follow import follow
from turnout.telemetry.metrics.server import ServerRecorder


@pytest.mark.parametrize("answer", [3, UnavailableError("it is starting")], ids=["answer", "failure"])
async def test_a_store_that_does_not_answer_counts_as_unavailable_until_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: int | UnavailableError
) -> None:
    monkeypatch.setattr(following, "_ANSWER_SECONDS", 0.01)
    answered, refreshed = asyncio.Event(), asyncio.Event()
    availability = Availability(ServerRecorder(), structlog.wrap_logger(logging.getLogger("test")))

    async def revision() -> int:
        await answered.wait()
        if isinstance(answer, UnavailableError):
            raise answer
        return answer

    async def refresh() -> None:
        refreshed.set()

    settings = RepositorySettings(watch=False, poll_interval_s=0.01)
    task = asyncio.create_task(follow(refresh, revision, availability, tmp_path, settings, availability._log))

    async def until(reason: str) -> None:
        while availability.reasons.get(Dependency.STATE_STORE, "") != reason:
            await asyncio.sleep(0.01)

    try:
        async with asyncio.timeout(60):
            await until("the state store cannot be used: it does not answer")
            assert not refreshed.is_set()
            answered.set()
            await until("" if answer == 3 else "it is starting")
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert refreshed.is_set() == (answer == 3)


@pytest.mark.parametrize("steps", range(8))
async def test_it_ends_when_it_is_cancelled_at_the_moment_of_a_change(tmp_path: Path, steps: int) -> None:
    """`asyncio.wait_for` of Python 3.11 returns the result and forgets the cancellation, so that no server ended."""
    availability = Availability(ServerRecorder(), structlog.wrap_logger(logging.getLogger("test")))
    changed, looked = asyncio.Event(), asyncio.Event()

    async def revision() -> int:
        looked.set()
        return 1

    async def refresh() -> None:
        pass

    settings = RepositorySettings(watch=False, poll_interval_s=60.0)
    task = asyncio.create_task(follow(refresh, revision, availability, tmp_path, settings, availability._log, changed))
    async with asyncio.timeout(60):
        await looked.wait()
        for _ in range(100):  # until it waits for a change
            await asyncio.sleep(0)
    changed.set()
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=10)
    task.cancel()
    assert done, "it goes on"
