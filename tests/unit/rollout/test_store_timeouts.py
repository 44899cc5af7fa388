"""How long rollouts wait for the state store, and for what they asked of it earlier."""

import asyncio
import time

import pytest

from turnout.errors import UnavailableError
from turnout.rollout.engine.store_timeouts import StillRunning, StoreTimeout

BOUND = 60.0


class Store:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.free = asyncio.Event()

    async def answer(self) -> str:
        self.asked += 1
        await self.free.wait()
        return "answered"


async def late(store_timeout: StoreTimeout, store: Store) -> None:
    """Has a tick give the store up."""
    with pytest.raises(StillRunning):
        await store_timeout.wait(store.answer(), 0.01)
    assert store_timeout._late


async def test_a_command_waits_for_what_a_tick_asked_and_then_for_its_own_answer() -> None:
    store_timeout, store = StoreTimeout(), Store()
    await late(store_timeout, store)
    command = asyncio.ensure_future(store_timeout.wait(store.answer(), BOUND, patient=True))
    await asyncio.sleep(0.05)
    assert (store.asked, command.done()) == (1, False), "one request, and not a queue of them"
    store.free.set()
    assert await command == "answered"
    assert store.asked == 2
    assert not store_timeout._late


async def test_the_next_tick_does_not_wait_at_all() -> None:
    store_timeout, store = StoreTimeout(), Store()
    await late(store_timeout, store)
    with pytest.raises(UnavailableError, match="an earlier request"):
        await asyncio.wait_for(store_timeout.wait(store.answer(), 0.01), BOUND)
    assert store.asked == 1
    store.free.set()


async def test_a_command_is_refused_where_the_store_does_not_answer_in_its_time_either() -> None:
    store_timeout, store = StoreTimeout(), Store()
    await late(store_timeout, store)
    began = time.monotonic()
    with pytest.raises(UnavailableError, match="an earlier request"):
        await store_timeout.wait(store.answer(), 0.1, patient=True)
    assert time.monotonic() - began >= 0.1
    assert store.asked == 1
    store.free.set()


async def test_a_command_that_is_given_up_while_it_waits_asks_nothing() -> None:
    store_timeout, store = StoreTimeout(), Store()
    await late(store_timeout, store)
    command = asyncio.ensure_future(store_timeout.wait(store.answer(), BOUND, patient=True))
    await asyncio.sleep(0.01)
    command.cancel()
    with pytest.raises(asyncio.CancelledError):
        await command
    store.free.set()
    await asyncio.sleep(0.01)
    assert store.asked == 1
