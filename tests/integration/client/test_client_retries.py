"""When a client tries again, over either transport and from either kind of client."""

import asyncio
import threading
import time
from itertools import pairwise

import grpc
import pytest

from client_faults import BOUND, AnyClient, Fault, echo, fault_server, retry_info, within_bound
from ports import free_port
from turnout_client import (
    DeadlineExceeded,
    ResourceExhausted,
    RetryPolicy,
    TurnoutClientError,
    Unavailable,
)

QUICK = RetryPolicy(retries=3, first_backoff=0.001, max_backoff=0.002)


@pytest.fixture
def server():
    with fault_server() as running:
        yield running


@pytest.fixture
async def client(server, kind, transport):
    async with AnyClient(kind, server.address, transport=transport, retries=QUICK) as opened:
        yield opened


def failing(times, code, *details):
    """Answers with a status for so many times, and with an echo from then on."""
    tries = []

    def predict(request):
        tries.append(time.monotonic())
        if len(tries) <= times:
            raise Fault(code, "not now", *details)
        return echo(request)

    return tries, predict


async def test_a_server_that_is_not_available_is_tried_again(client, server):
    tries, server.predict = failing(3, grpc.StatusCode.UNAVAILABLE)
    await client.predict("m", {})
    assert len(tries) == 4


async def test_tries_come_to_an_end(client, server):
    tries, server.predict = failing(9, grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(Unavailable, match="not now"):
        await client.predict("m", {})
    assert len(tries) == 4


async def test_no_retries_are_none(server, kind, transport):
    tries, server.predict = failing(1, grpc.StatusCode.UNAVAILABLE)
    async with AnyClient(kind, server.address, transport=transport, retries=0) as client:
        with pytest.raises(Unavailable):
            await client.predict("m", {})
    assert len(tries) == 1


async def test_a_full_queue_is_tried_again_when_the_server_says(client, server):
    tries, server.predict = failing(2, grpc.StatusCode.RESOURCE_EXHAUSTED, retry_info(0.05))
    await client.predict("m", {})
    assert len(tries) == 3
    assert all(later - earlier >= 0.05 for earlier, later in pairwise(tries))


async def test_a_bound_that_no_waiting_changes_is_not_tried_again(client, server):
    tries, server.predict = failing(1, grpc.StatusCode.RESOURCE_EXHAUSTED)
    with pytest.raises(ResourceExhausted):
        await client.predict("m", {})
    assert len(tries) == 1


@pytest.mark.parametrize(
    "code",
    [
        code
        for code in grpc.StatusCode
        if code not in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
    ],
)
async def test_no_other_status_is_tried_again_even_where_it_says_when(client, server, code):
    tries, server.predict = failing(1, code, retry_info(0.0))
    with pytest.raises(TurnoutClientError) as caught:
        await client.predict("m", {})
    assert caught.value.code is code
    assert len(tries) == 1


async def test_a_pause_past_the_deadline_is_not_waited_for(client, server):
    tries, server.predict = failing(9, grpc.StatusCode.UNAVAILABLE, retry_info(300.0))
    started = time.monotonic()
    with pytest.raises(Unavailable, match="not now") as caught:
        await client.predict("m", {}, timeout=60.0)
    assert time.monotonic() - started < 30
    assert caught.value.retry_after == 300.0
    assert len(tries) == 1


async def test_the_deadline_bounds_all_tries_together(server, kind, transport):
    def slow(request):
        time.sleep(0.15)  # a fault: the server answers late, and badly
        raise Fault(grpc.StatusCode.UNAVAILABLE)

    patient = RetryPolicy(retries=1000, first_backoff=0.001, max_backoff=0.001)
    async with AnyClient(kind, server.address, transport=transport, retries=patient) as client:
        await client.predict("m", {})  # it is connected
        server.predict = slow
        started, before = time.monotonic(), len(server.seen)
        with pytest.raises((DeadlineExceeded, Unavailable)):
            await client.predict("m", {}, timeout=2.0)
        assert time.monotonic() - started < 60
        assert 2 <= len(server.seen) - before <= 2.0 / 0.15 + 1


async def test_a_server_that_restarts_meanwhile_is_found_again(kind, transport):
    patient = RetryPolicy(retries=1000, first_backoff=0.02, max_backoff=0.1)
    port = free_port()
    with fault_server(port) as first:
        async with AnyClient(kind, first.address, transport=transport, retries=patient) as client:
            await client.predict("m", {})
            first.stop()
            asked = asyncio.create_task(client.predict("m", {}, timeout=20))
            with fault_server(port) as second:
                await asked
                assert len(second.seen) == 1


async def test_a_call_under_way_when_its_server_dies_is_tried_again(kind, transport):
    patient = RetryPolicy(retries=1000, first_backoff=0.02, max_backoff=0.1)
    held = threading.Event()

    def hold(request):
        held.wait(BOUND)
        return echo(request)

    with fault_server(free_port()) as first:
        first.predict = hold
        async with AnyClient(kind, first.address, transport=transport, retries=patient) as client:
            asked = asyncio.create_task(client.predict("m", {}, timeout=20))
            await within_bound(lambda: len(first.seen) == 1)
            first.kill()
            with fault_server(first.port):
                await asked
        held.set()


async def test_the_catalog_is_tried_again_too(kind):
    patient = RetryPolicy(retries=1000, first_backoff=0.02, max_backoff=0.1)
    port = free_port()
    async with AnyClient(kind, f"127.0.0.1:{port}", retries=patient) as client:
        asked = asyncio.create_task(client.models(timeout=20))
        with fault_server(port):
            assert await asked == ()
