"""A large response is sent without a copy of its large parts, and counted for as long as the server holds its end."""

from turnout.admission.requests import ReceiveBudget
from turnout.admission.unread import UnsentBudget
from turnout.rpc.transport.asgi.call import AsgiCall, CallLimits
from turnout.rpc.transport.asgi.framing import PREFIX
from turnout.rpc.transport.asgi.statuses import Event
from turnout.rpc.transport.port import Parts
from turnout.threads import Threads

BEGINNING, LARGE, END = b"beginning", b"x" * (3 << 20), b"end"
SIZE = len(BEGINNING) + len(LARGE) + len(END)


async def test_large_parts_are_sent_as_they_are_and_the_last_event_counts_them_all() -> None:
    held: list[bytes] = []

    async def send(event: Event) -> None:
        held.append(event.get("body", b""))

    async def receive() -> Event:
        raise AssertionError("nothing is received")

    unsent = UnsentBudget(8 << 20)
    limits = CallLimits(1 << 20, 0.0, False, ReceiveBudget(1 << 20), Threads("compression"), unsent)
    call = AsgiCall(limits, True, {"headers": [], "path": "/s/m", "extensions": {}}, {}, receive, send)
    call.open()
    await call.send_parts(Parts((BEGINNING, LARGE, END), unsent.reserve("client", SIZE)))
    assert b"".join(held) == PREFIX.pack(0, SIZE) + BEGINNING + LARGE + END
    assert any(body is LARGE for body in held)
    del held[:-1]
    assert unsent.held == SIZE
    held.clear()
    assert unsent.held == 0
