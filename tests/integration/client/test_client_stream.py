"""Many predictions over one stream: each has its own answer, its own failure and its own end."""

import asyncio
import queue
import signal
import threading
import time
from types import SimpleNamespace

import grpc
import numpy as np
import pytest

from client_faults import (
    BOUND,
    AnyClient,
    Fault,
    FaultServer,
    answer_to,
    bad_request,
    echo,
    fault_server,
    within_bound,
)
from turnout_client import (
    AsyncClient,
    Cancelled,
    Client,
    DeadlineExceeded,
    InvalidArgument,
    PermissionDenied,
    RetryPolicy,
    Unavailable,
    Violation,
)
from turnout_proto.v1.prediction_pb2 import PredictStreamResponse

PATIENT = RetryPolicy(retries=1000, first_backoff=0.01, max_backoff=0.05)


@pytest.fixture
def server():
    with fault_server() as running:
        yield running


@pytest.fixture
async def client(server, kind):
    async with AnyClient(kind, server.address, transport="stream", retries=0) as opened:
        yield opened


class Held:
    """A stream that reads every item and answers none before the test says what."""

    def __init__(self, server: FaultServer) -> None:
        self.items = []
        self.answers: queue.SimpleQueue[PredictStreamResponse | None] = queue.SimpleQueue()
        server.stream = self._serve

    @property
    def requests(self):
        return [item.request for item in self.items if item.HasField("request")]

    @property
    def cancelled(self):
        return [item.cancel for item in self.items if item.HasField("cancel")]

    def _serve(self, items, context):
        context.add_callback(lambda: self.answers.put(None))
        threading.Thread(target=self._read, args=(items,), daemon=True).start()
        while (answer := self.answers.get(timeout=BOUND)) is not None:
            yield answer

    def _read(self, items):
        try:
            for item in items:
                self.items.append(item)
        except grpc.RpcError:
            return  # the client went away


async def test_all_predictions_share_one_stream(client, server):
    answers = await asyncio.gather(*(client.predict("m", {"x": np.array(n)}) for n in range(100)))
    assert [int(answer["x"]) for answer in answers] == list(range(100))
    assert server.streams == 1
    assert len({request.request_id for request in server.seen}) == 100


async def test_answers_find_their_requests_in_whatever_order_they_come(client, server):
    held = Held(server)
    asked = [asyncio.create_task(client.predict("m", {"x": np.array(n)})) for n in range(5)]
    await within_bound(lambda: len(held.items) == 5)
    for item in sorted(held.items, key=lambda item: -int.from_bytes(item.request.inputs[0].raw, "little")):
        held.answers.put(answer_to(item))
    assert [int(answer["x"]) for answer in await asyncio.gather(*asked)] == list(range(5))


async def test_one_items_failure_leaves_the_others(client, server):
    def predict(request):
        if request.model == "bad":
            raise Fault(grpc.StatusCode.INVALID_ARGUMENT, "no", bad_request(version="expected a selector"))
        return echo(request)

    server.predict = predict
    names = ["m", "bad", "m", "bad", "m"]
    ends = await asyncio.gather(*(client.predict(name, {}) for name in names), return_exceptions=True)
    assert [type(end).__name__ for end in ends] == [
        "InvalidArgument" if name == "bad" else "Prediction" for name in names
    ]
    failure = ends[1]
    assert isinstance(failure, InvalidArgument)
    assert failure.violations == (Violation("version", "expected a selector"),)
    assert failure.request_id in {request.request_id for request in server.seen}
    assert server.streams == 1


async def test_an_id_that_is_under_way_is_replaced(client, server):
    held = Held(server)
    asked = [asyncio.create_task(client.predict("m", {"x": np.array(n)}, request_id="same")) for n in range(3)]
    await within_bound(lambda: len(held.items) == 3)
    assert len({request.request_id for request in held.requests}) == 3
    assert "same" in {request.request_id for request in held.requests}
    for item in held.items:
        held.answers.put(answer_to(item))
    assert [int(answer["x"]) for answer in await asyncio.gather(*asked)] == [0, 1, 2]


async def test_what_an_item_waits_for_its_turn_to_be_written_is_off_its_time(client, server, monkeypatch):
    held = Held(server)
    real = time.monotonic
    clock = SimpleNamespace(monotonic=lambda: real() + 5)  # five seconds go by between the call and the writing
    monkeypatch.setattr("turnout_client.wire.time", clock)
    before = clock.monotonic()
    calls = [asyncio.create_task(client.predict("m", {}, timeout=timeout)) for timeout in (20, 5.0001, float("inf"))]
    await within_bound(lambda: len(held.items) == 3)
    timeouts = sorted(item.timeout_ms for item in held.items)
    assert timeouts[:2] == [0, 1]  # no bound, and hardly anything left
    assert 10_000 < timeouts[2] <= 15_000
    for item in held.items:
        assert before * 1000 - 1 <= item.sent_ms <= clock.monotonic() * 1000
        held.answers.put(answer_to(item))
    await asyncio.gather(*calls)


async def test_each_item_bears_its_own_time_and_ends_at_it(client, server):
    held = Held(server)
    patient = asyncio.create_task(client.predict("m", {}, timeout=200))
    await within_bound(lambda: len(held.items) == 1)
    (slow,) = held.items
    for seconds in (0.1, 1.0, 10.0):  # what has no time left before it is written is never sent
        with pytest.raises(DeadlineExceeded) as caught:
            await client.predict("m", {}, timeout=seconds)
        sent = {item.request.request_id: item for item in list(held.items)}
        if caught.value.request_id in sent:
            break
    assert not patient.done()
    assert 100_000 < slow.timeout_ms <= 200_000
    assert 0 < sent[caught.value.request_id].timeout_ms <= seconds * 1000
    held.answers.put(answer_to(slow))
    await patient
    assert not held.cancelled


async def test_a_late_answer_reaches_no_later_request_of_the_same_id(client, server):
    held = Held(server)
    late = asyncio.create_task(client.predict("m", {"x": np.array(1)}, request_id="same", timeout=1.5))
    await within_bound(lambda: len(held.items) == 1)
    with pytest.raises(DeadlineExceeded):
        await late
    second = asyncio.create_task(client.predict("m", {"x": np.array(2)}, request_id="same"))
    await within_bound(lambda: len(held.items) == 2)
    for item in held.items:
        held.answers.put(answer_to(item))
    assert int((await second)["x"]) == 2
    third = asyncio.create_task(client.predict("m", {"x": np.array(3)}, request_id="same"))
    await within_bound(lambda: len(held.items) == 3)
    assert held.requests[2].request_id == "same"
    held.answers.put(answer_to(held.items[2]))
    await third


async def test_cancelling_the_task_that_waits_cancels_the_item_and_nothing_else(server):
    held = Held(server)
    async with AsyncClient(server.address, transport="stream") as client:
        given_up = asyncio.create_task(client.predict("m", {}))
        kept = asyncio.create_task(client.predict("m", {}))
        await within_bound(lambda: len(held.items) == 2)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        await within_bound(lambda: held.cancelled == [held.requests[0].request_id])
        held.answers.put(answer_to(held.items[0]))  # was under way: nobody's any more
        held.answers.put(answer_to(held.items[1]))
        await kept
        assert server.streams == 1


def test_interrupting_the_main_thread_cancels_the_item(server):
    held = Held(server)

    def interrupt_once_held():
        deadline = time.monotonic() + BOUND
        while not held.items and time.monotonic() < deadline:
            time.sleep(0.005)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with Client(server.address, transport="stream") as client:
        threading.Thread(target=interrupt_once_held).start()
        with pytest.raises(KeyboardInterrupt):
            client.predict("m", {}, timeout=BOUND)
        asyncio.run(within_bound(lambda: held.cancelled == [held.requests[0].request_id]))


async def test_what_is_given_up_before_it_was_sent_is_never_sent(server, kind):
    """The server reads nothing for a while, so that flow control holds the last items back."""
    reads = threading.Event()

    def late(items, context):
        reads.wait(BOUND)
        for item in items:
            server.items.append(item)
            yield answer_to(item)

    class Big:
        encoded = 0

        def __array__(self, dtype=None, copy=None):
            Big.encoded += 1
            return np.zeros(1 << 20, np.uint8)

    server.stream = late
    async with AnyClient(kind, server.address, transport="stream", retries=0) as client:
        sent = [asyncio.create_task(client.predict("m", {"x": Big()})) for _ in range(4)]
        await within_bound(lambda: Big.encoded == 4)
        with pytest.raises(DeadlineExceeded):
            await client.predict("m", {}, request_id="expired", timeout=0.2)
        if kind is AsyncClient:
            cancelled = asyncio.create_task(client.predict("m", {}, request_id="cancelled"))
            await asyncio.sleep(0)
            cancelled.cancel()
            await asyncio.wait([cancelled])
        reads.set()
        await asyncio.gather(*sent)
        await client.predict("m", {}, request_id="last")
        await client.predict("m", {}, request_id="expired")
    small = [item.request.request_id or item.cancel for item in server.items if not item.request.inputs]
    assert small == ["last", "expired"]


@pytest.mark.parametrize("peace", [True, False], ids=["ended by the server", "killed with the server"])
async def test_a_broken_stream_fails_all_that_waits_and_the_next_call_opens_another(client, server, kind, peace):
    held = Held(server)
    asked = [asyncio.create_task(client.predict("m", {})) for _ in range(3)]
    await within_bound(lambda: len(held.items) == 3)
    if peace:
        held.answers.put(None)
    else:
        await asyncio.to_thread(server.stop)
    ends = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(end) for end in ends] == [Unavailable] * 3
    assert {end.request_id for end in ends} == {request.request_id for request in held.requests}
    if peace:
        server.stream = None
        await client.predict("m", {})
        assert server.streams == 2


async def test_what_a_broken_stream_left_unanswered_is_tried_again(server, kind):
    opened = []

    def break_once(items, context):
        opened.append(None)
        for item in items:
            if len(opened) == 1:
                return
            yield answer_to(item)

    server.stream = break_once
    async with AnyClient(kind, server.address, transport="stream", retries=PATIENT) as client:
        await asyncio.gather(*(client.predict("m", {}) for _ in range(10)))
    assert len(opened) >= 2


async def test_a_stream_that_is_refused_says_why(client, server):
    def refuse(items, context):
        raise Fault(grpc.StatusCode.PERMISSION_DENIED, "not you")
        yield

    server.stream = refuse
    with pytest.raises(PermissionDenied, match="not you"):
        await client.predict("m", {})


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED]
)
async def test_a_stream_that_somebody_on_the_way_ends_is_unavailable(client, server, code):
    def break_off(items, context):
        next(items)
        raise Fault(code, "stream reset")
        yield

    server.stream = break_off
    with pytest.raises(Unavailable, match="the stream broke: stream reset"):
        await client.predict("m", {})


async def test_closing_the_client_ends_what_waits(server, kind):
    held = Held(server)
    client = AnyClient(kind, server.address, transport="stream")
    asked = asyncio.create_task(client.predict("m", {}))
    await within_bound(lambda: len(held.items) == 1)
    await client.__aexit__()
    with pytest.raises(Cancelled, match="the client was closed"):
        await asked


async def test_closing_the_client_ends_unary_calls_too_and_cancels_no_task(server, kind):
    release = threading.Event()

    def hold(request):
        release.wait(BOUND)
        return echo(request)

    server.predict = hold
    client = AnyClient(kind, server.address)
    asked = asyncio.create_task(client.predict("m", {}))
    await within_bound(lambda: len(server.seen) == 1)
    await client.__aexit__()
    with pytest.raises(Cancelled):
        await asked
    release.set()


async def test_items_that_wait_for_the_network_expire_there(server, kind):
    """The server reads nothing: what flow control holds back ends at its own deadline."""

    def stuck(items, context):
        release.wait(BOUND)
        yield from ()

    release = threading.Event()
    server.stream = stuck
    big = np.zeros(1 << 20, np.uint8)
    async with AnyClient(kind, server.address, transport="stream", retries=0) as client:
        ends = await asyncio.gather(
            *(client.predict("m", {"x": big}, timeout=0.3) for _ in range(8)), return_exceptions=True
        )
        assert [type(end) for end in ends] == [DeadlineExceeded] * 8
    release.set()


async def test_no_thread_outlives_its_client(server):
    client = AnyClient(Client, server.address, transport="stream")
    await client.predict("m", {})
    assert [thread for thread in threading.enumerate() if thread.name.startswith("turnout-client")]
    await client.__aexit__()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("turnout-client")]
