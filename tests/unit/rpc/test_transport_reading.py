"""Messages of a stream that have come are read together, and what has not come yet is waited for once."""

import asyncio
import gzip
import itertools
from collections import deque
from collections.abc import Awaitable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.admission.requests import ReceiveBudget
from turnout.admission.unread import UnsentBudget
from turnout.rpc.transport.asgi.call import AsgiCall, CallLimits
from turnout.rpc.transport.asgi.framing import PREFIX
from turnout.rpc.transport.asgi.statuses import Event
from turnout.rpc.transport.port import JOINED_BYTES, StatusError
from turnout.threads import Threads

LIMIT = 4 * JOINED_BYTES


def framed(*messages: bytes, compressed: int = 0) -> bytes:
    return b"".join(PREFIX.pack(compressed, len(message)) + message for message in messages)


class Client:
    """What ASGI's server is to a call: hands out events that have come, and lets the call wait for others."""

    def __init__(self, *bodies: bytes, ended: bool = False) -> None:
        self.asked = 0
        self._events: deque[Event] = deque({"type": "http.request", "body": body, "more_body": True} for body in bodies)
        self._waiting: asyncio.Future[Event] | None = None
        if ended:
            self._events.append({"type": "http.request", "body": b"", "more_body": False})

    def come(self, body: bytes, *, more_body: bool = True) -> None:
        """Has more come, to whoever waits."""
        assert self._waiting is not None
        self._waiting.set_result({"type": "http.request", "body": body, "more_body": more_body})
        self._waiting = None

    def has_come(self, *bodies: bytes) -> None:
        """Has more come, for whoever asks next."""
        self._events += ({"type": "http.request", "body": body, "more_body": True} for body in bodies)

    def receive(self) -> Awaitable[Event]:
        """Returns the next event, which may be to come."""
        assert self._waiting is None or self._waiting.cancelled(), "one waits already"
        self.asked += 1
        future = asyncio.get_running_loop().create_future()
        if self._events:
            return _given(self._events.popleft())
        self._waiting = future
        return future

    def call(self, encoding: bytes = b"") -> AsgiCall:
        """Returns a call by this client."""

        async def send(_: Event) -> None:
            raise AssertionError("nothing is sent")

        headers = {b"grpc-encoding": encoding} if encoding else {}
        scope = {"headers": list(headers.items()), "path": "/s/m", "extensions": {}}
        limits = CallLimits(LIMIT, 0.0, False, ReceiveBudget(1 << 20), Threads("compression"), UnsentBudget(1 << 20))
        call = AsgiCall(limits, True, scope, headers, self.receive, send)
        call.open()
        return call


async def _given(event: Event) -> Event:
    return event


async def all_of(call: AsgiCall, most: int) -> list[Sequence[bytes]]:
    """Returns what each reading gave, until the client has sent its last."""
    return [messages async for messages in _readings(call, most)]


async def _readings(call: AsgiCall, most: int):
    while messages := await call.read_some(most):
        yield messages


@given(st.lists(st.binary(max_size=30), max_size=25), st.lists(st.integers(0, 900), max_size=20), st.integers(1, 9))
def test_however_messages_come_they_are_read_in_their_order(messages: list[bytes], cuts: list[int], most: int) -> None:
    data = framed(*messages)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    bodies = [data[start:end] for start, end in itertools.pairwise(edges)]

    async def read() -> list[Sequence[bytes]]:
        return await all_of(Client(*bodies, ended=True).call(), most)

    readings = asyncio.run(read())
    assert [message for reading in readings for message in reading] == messages
    assert all(0 < len(reading) <= most for reading in readings)


async def test_all_that_has_come_is_read_at_once_whatever_events_it_came_in() -> None:
    client = Client(framed(b"1"), framed(b"2", b"3"), framed(b"4"))
    call = client.call()
    assert await call.read_some(16) == [b"1", b"2", b"3", b"4"]
    client.come(framed(b"5"))
    assert await call.read_some(16) == [b"5"]
    client.come(b"", more_body=False)
    assert await call.read_some(16) == ()
    assert client.asked == 5  # once for each event


async def test_of_messages_that_come_alone_each_is_answered_before_one_looks_for_more() -> None:
    client = Client(framed(b"0"))
    call = client.call()
    assert await call.read_some(16) == [b"0"]
    client.come(framed(b"1"))
    assert await call.read_some(16) == [b"1"]  # it was waited for, and nothing came with it
    assert client.asked == 3
    client.come(framed(b"2"))
    client.has_come(framed(b"3"), framed(b"4"))
    assert await call.read_some(16) == [b"2"]
    assert client.asked == 3
    assert await call.read_some(16) == [b"3", b"4"]
    client.come(framed(b"5"))
    client.has_come(framed(b"6"))
    assert await call.read_some(16) == [b"5", b"6"]  # those before did not come alone
    client.come(framed(b"7"))
    assert await call.read_some(16) == [b"7"]
    client.come(framed(b"8", b"9"))
    assert await call.read_some(16) == [b"8", b"9"]  # nor does one that comes with another in an event


async def test_no_more_is_read_than_was_asked_for() -> None:
    client = Client(framed(b"1", b"2", b"3"), framed(b"4"))
    call = client.call()
    assert await call.read_some(2) == [b"1", b"2"]
    assert await call.read_some(1) == [b"3"]
    assert client.asked == 1
    assert await call.read_some(2) == [b"4"]


async def test_large_messages_do_not_pile_up() -> None:
    large = b"x" * JOINED_BYTES
    client = Client(framed(b"small"), framed(large), framed(large), framed(b"small"))
    call = client.call()
    assert await call.read_some(16) == [b"small", large]
    assert await call.read_some(16) == [large]
    assert await call.read_some(16) == [b"small"]


async def test_a_message_that_is_not_whole_is_waited_for_after_those_that_are() -> None:
    client = Client(framed(b"1") + framed(b"cut")[:6])
    call = client.call()
    assert await call.read_some(16) == [b"1"]
    rest = asyncio.create_task(call.read_some(16))
    while client.asked < 2:
        await asyncio.sleep(0)
    client.come(framed(b"cut")[6:] + framed(b"2"))
    assert await rest == [b"cut", b"2"]


async def test_a_reader_that_is_cancelled_loses_nothing_that_came_later() -> None:
    client = Client(framed(b"1"))
    call = client.call()
    assert await call.read_some(16) == [b"1"]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(call.read_some(16), 0.001)
    again = asyncio.create_task(call.read_some(16))
    while client.asked < 3:
        await asyncio.sleep(0)
    client.come(framed(b"2"))
    assert await again == [b"2"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (PREFIX.pack(0, LIMIT + 1), "at most"),
        (framed(b"x", compressed=2), "0 or 1"),
        (framed(b"x", compressed=1), "without grpc-encoding"),
    ],
    ids=["too large", "no frame", "compressed"],
)
async def test_a_wrong_message_is_refused_once_those_before_it_were_read(wrong: bytes, message: str) -> None:
    call = Client(framed(b"1", b"2") + wrong, framed(b"3")).call()
    assert await call.read_some(16) == [b"1", b"2"]
    with pytest.raises(StatusError, match=message):
        await call.read_some(16)


async def test_a_client_that_left_cancels_its_call() -> None:
    client = Client(framed(b"1"))
    call = client.call()
    assert await call.read_some(16) == [b"1"]
    assert client._waiting is not None
    client._waiting.set_result({"type": "http.disconnect"})
    with pytest.raises(asyncio.CancelledError):
        await call.read_some(16)


async def test_compressed_messages_are_read_one_by_one() -> None:
    body = framed(gzip.compress(b"1"), gzip.compress(b"2"), compressed=1)
    call = Client(body, ended=True).call(b"gzip")
    assert await all_of(call, 16) == [[b"1"], [b"2"]]
