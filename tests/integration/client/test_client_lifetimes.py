"""Clients that are copied, forked, used in another event loop, or never closed."""

import asyncio
import copy
import gc
import multiprocessing
import pickle
import threading

import pytest

from client_faults import BOUND, fault_server, within_bound
from turnout_client import AsyncClient, Client, ClientClosed


@pytest.fixture
def server():
    with fault_server() as running:
        yield running


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_client_is_not_copied_and_its_token_not_pickled(kind, transport, duplicate):
    client = kind("127.0.0.1:1", transport=transport, token="a-secret")
    with pytest.raises(TypeError, match=f"expected one {kind.__name__} in each process") as caught:
        duplicate(client)
    assert "a-secret" not in str(caught.value)


def test_a_client_belongs_to_the_event_loop_that_used_it_first(server, transport):
    client = AsyncClient(server.address, transport=transport)

    async def call() -> str:
        return (await client.predict("m", {})).version

    with asyncio.Runner() as first:
        assert first.run(call()) == "1.0.0"
        for use in (call, client.models, client.wait_ready):
            with pytest.raises(RuntimeError, match="this client belongs to another event loop"):
                asyncio.run(use())
        assert first.run(call()) == "1.0.0"
    with pytest.raises(RuntimeError, match="this client belongs to another event loop"):
        asyncio.run(call())
    asyncio.run(client.aclose())


def test_a_client_is_closed_from_another_loop(server, transport):
    client = AsyncClient(server.address, transport=transport)

    async def call() -> None:
        await client.predict("m", {})

    with asyncio.Runner() as first:
        first.run(call())
        asyncio.run(client.aclose())
        with pytest.raises(ClientClosed):
            first.run(call())


def test_a_stream_is_not_used_after_a_fork(server):
    """Its threads are the parent's: in the child, each call would wait until its deadline."""
    context = multiprocessing.get_context("fork")
    ends = context.SimpleQueue()

    def call() -> None:
        try:
            ends.put(client.predict("m", {}, timeout=BOUND).version)
        except RuntimeError as error:
            ends.put(str(error))

    with Client(server.address, transport="stream") as client:
        client.predict("m", {})
        child = context.Process(target=call)
        child.start()
        child.join(BOUND)
        assert child.exitcode == 0
        assert "create a Client in each process" in ends.get()
        assert client.predict("m", {}).version == "1.0.0"


def test_the_threads_of_a_client_that_was_never_closed_end(server):
    def streams() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name.startswith("turnout-client")]

    client = Client(server.address, transport="stream")
    client.predict("m", {})
    (reader,) = streams()
    del client
    gc.collect()
    reader.join(BOUND)
    assert not reader.is_alive()


async def test_the_tasks_of_a_client_that_was_never_closed_end(server):
    def streams() -> list[asyncio.Task[object]]:
        return [task for task in asyncio.all_tasks() if task.get_name().startswith("turnout-client")]

    client = AsyncClient(server.address, transport="stream")
    await client.predict("m", {})
    assert len(streams()) == 2
    del client
    gc.collect()
    await within_bound(lambda: not streams())
