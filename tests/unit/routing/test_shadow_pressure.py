"""How often lanes ask whether a copy may run."""

import asyncio

from turnout.routing.shadow import pressure
from turnout.routing.shadow.pressure import Pressure
from turnout.serving.versions.catalog import Catalog


async def test_many_lanes_that_wait_ask_together_as_often_as_one(monkeypatch) -> None:
    asked: list[float] = []
    over = asyncio.Event()

    async def sleep(seconds: float) -> None:
        asked.append(seconds)
        await over.wait()

    monkeypatch.setattr(pressure.asyncio, "sleep", sleep)
    shared = Pressure(Catalog())
    async with asyncio.TaskGroup() as lanes:
        waiting = [lanes.create_task(shared.pause()) for _ in range(100)]
        while len(asked) < 100:
            await asyncio.wait(waiting, timeout=0.001)
        over.set()
    one = asked[0]
    # Spread evenly, so that each interval of one lane alone holds one question of the hundred.
    assert asked == [one * number for number in range(1, 101)]
    await shared.pause()
    assert asked[-1] == one
    ended = asyncio.ensure_future(shared.pause())
    ended.cancel()
    await asyncio.wait([ended])
    await shared.pause()
    assert asked[-1] == one
