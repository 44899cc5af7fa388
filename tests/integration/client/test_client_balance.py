"""One client for many threads, and one client for several servers."""

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from client_faults import BOUND, AnyClient, answer_to, echo, fault_server, within_bound
from turnout_client import Client, RetryPolicy

PATIENT = RetryPolicy(retries=1000, first_backoff=0.01, max_backoff=0.05)


@pytest.mark.parametrize("transport", ["unary", "stream"])
def test_threads_share_a_client_and_each_gets_its_own_answers(transport):
    together = threading.Barrier(8)

    def ask(number):
        together.wait(BOUND)  # the first calls of all threads meet the channel, and the stream, before it is open
        numbers = [number * 1000 + n for n in range(50)]
        return [int(client.predict("m", {"x": np.array(n)})["x"]) for n in numbers] == numbers

    with fault_server() as server, Client(server.address, transport=transport) as client:
        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(ask, range(8)))
        assert len(server.seen) == 400
        assert server.streams == (1 if transport == "stream" else 0)


def test_threads_that_share_a_stream_outlive_its_breaks():
    """The server ends the stream after every few answers, under all threads at once."""

    def fickle(items, context):
        for _, item in zip(range(5), items, strict=False):
            yield answer_to(item)

    def ask(number):
        return int(client.predict("m", {"x": np.array(number)}, timeout=BOUND)["x"]) == number

    with fault_server() as server:
        server.stream = fickle
        with Client(server.address, transport="stream", retries=PATIENT) as client, ThreadPoolExecutor(8) as threads:
            assert all(threads.map(ask, range(200)))
        assert server.streams >= 40


async def test_calls_take_turns_over_several_addresses(kind):
    with fault_server() as one, fault_server() as two:
        async with AnyClient(kind, f"ipv4:{one.address},{two.address}", retries=PATIENT) as client:
            async with asyncio.timeout(BOUND):
                while not (one.seen and two.seen):  # until both are connected
                    await client.predict("m", {})
            one.seen, two.seen = [], []
            for _ in range(20):
                await client.predict("m", {})
            assert Counter(one=len(one.seen), two=len(two.seen)) == Counter(one=10, two=10)


async def test_calls_go_to_the_servers_that_are_left(kind):
    with fault_server() as one, fault_server() as two:
        async with AnyClient(kind, f"ipv4:{one.address},{two.address}", retries=PATIENT) as client:
            await client.predict("m", {})
            one.stop()
            for _ in range(10):
                await client.predict("m", {}, timeout=BOUND)
            assert len(two.seen) >= 10


async def test_a_stream_moves_to_a_server_that_is_left(kind):
    held = threading.Event()

    def hold(request):
        held.wait(BOUND)
        return echo(request)

    with fault_server() as one, fault_server() as two:
        one.predict = two.predict = hold
        target = f"ipv4:{one.address},{two.address}"
        async with AnyClient(kind, target, transport="stream", retries=PATIENT) as client:
            asked = asyncio.create_task(client.predict("m", {}, timeout=BOUND))
            await within_bound(lambda: bool(one.seen or two.seen))
            first, other = (one, two) if one.seen else (two, one)
            first.kill()
            await within_bound(lambda: bool(other.seen))
            held.set()
            await asked
