"""Bodies of requests, as they are received."""

import tracemalloc

from starlette.requests import Request
from starlette.types import Message

from turnout.admission.requests import ReceiveBudget
from turnout.web.body import BodyReceiver

COUNT = 60_000


async def test_a_body_in_tiny_chunks_takes_little_more_memory_than_its_size() -> None:
    numbers = iter(range(COUNT))

    async def receive() -> Message:
        number = next(numbers)
        return {"type": "http.request", "body": number.to_bytes(2, "big"), "more_body": number < COUNT - 1}

    request = Request({"type": "http", "headers": []}, receive)
    tracemalloc.start()
    try:
        body = await BodyReceiver(1 << 20, ReceiveBudget(1 << 20)).receive(request)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert body.plain() == b"".join(number.to_bytes(2, "big") for number in range(COUNT))
    assert taken < 4 * COUNT  # half of it the body itself
