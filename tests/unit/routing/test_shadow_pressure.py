"""How often lanes ask whether a copy may run, and who is next."""

import asyncio
from collections.abc import Sequence

import pytest

from turnout.routing.shadow import pressure
from turnout.routing.shadow.pressure import Pressure
from turnout.serving.versions.catalog import Catalog


@pytest.fixture
def timeouts(monkeypatch) -> list[float]:
    """The time limits of all pauses, whose time never passes."""
    limits: list[float] = []
    wait = asyncio.wait

    async def timeless(futures: Sequence[asyncio.Future], **limit: float) -> object:
        limits.append(limit["timeout"])
        return await wait(futures)

    monkeypatch.setattr(pressure.asyncio, "wait", timeless)
    return limits


async def test_many_lanes_that_wait_ask_together_as_often_as_one_and_take_turns(timeouts) -> None:
    shared = Pressure(Catalog())
    woken: list[int] = []

    async def lane(number: int) -> None:
        await shared.pause()
        woken.append(number)

    async with asyncio.TaskGroup() as lanes:
        several = [lanes.create_task(lane(number)) for number in range(100)]
        while len(timeouts) < 100:
            await asyncio.sleep(0)
        # Spread evenly, so that each pause of one lane alone holds one question of the hundred.
        assert timeouts == [timeouts[0] * number for number in range(1, 101)]
        several[0].cancel()
        shared.running = 99
        for _ in range(99):
            await asyncio.sleep(0)
            shared.ended()
    assert (shared.running, woken) == (0, list(range(1, 100)))
    async with asyncio.TaskGroup() as lanes:
        lanes.create_task(shared.pause())
        await asyncio.sleep(0)
        shared.ended()
    assert timeouts[-1] == timeouts[0]
