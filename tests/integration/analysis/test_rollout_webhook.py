"""What a receiver on loopback gets of a rollout, and what a bad one does to the server."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event
from semver import Version

from http_endpoint import connections
from onnx_models import scaled
from ports import free_port
from rollout_wire import LONG, TICK, command, in_state, settled, start, until
from turnout.config import RolloutSettings as RolloutSettings
from turnout.rollout.clock import SYSTEM_CLOCK
from turnout.rollout.machine.attempt import Rollout, RolloutHistoryEntry
from turnout.rollout.plan import Plan
from turnout.rollout.reporting.webhook import Webhook
from turnout.telemetry.logging import make_logger
from turnout_proto.v1 import rollout_pb2 as pb

pytestmark = pytest.mark.slow

SECRET = "correct-horse-battery"

OK = b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
BROKEN = b"HTTP/1.1 500 Broken\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
NONSENSE = b"SSH-2.0-OpenSSH_9.6\r\n\r\n"
HANGS_UP = b""


@dataclass
class Receiver:
    """A receiver of webhooks.

    Attributes:
        answers: To the next requests, in order; after them, what `answer` says.
        answer: None: nothing, for as long as it runs.
        got: Headers and body of each request.
    """

    answer: bytes | None = OK
    answers: list[bytes] = field(default_factory=list)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def events(self) -> list[dict]:
        return [json.loads(body) for _, body in self.got]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.split("\r\n")[1:]
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines if line)}
        self.got.append((headers, await reader.readexactly(int(headers["content-length"]))))
        answer = self.answers.pop(0) if self.answers else self.answer
        if answer is None:
            await self.over.wait()
        else:
            writer.write(answer)
            await writer.drain()


@asynccontextmanager
async def listening(receiver: Receiver, port: int = 0) -> AsyncIterator[str]:
    async with connections(receiver.serve, port) as url:
        yield f"{url}/hook"


ROLLOUT = Rollout.start("m", Version(2), Version(1), 7, Plan(), "ann", "")


@asynccontextmanager
async def webhook(url: str, secret: str = SECRET, **more: Any) -> AsyncIterator[Callable[[str], None]]:
    """Runs a webhook; what comes out tells it of an event."""
    settings = RolloutSettings(webhook_url=url, webhook_secret=secret, **more)
    hook = Webhook(settings, make_logger("json", "debug"), SYSTEM_CLOCK)
    task = asyncio.create_task(hook.run())
    try:
        yield lambda text: hook.notify("m", ROLLOUT, RolloutHistoryEntry("pause", text, "ann"))
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def pair(publish_model):
    publish_model("m", "1.0.0", scaled(2))
    publish_model("m", "1.1.0", scaled(2), release=False)


async def test_every_event_of_a_rollout_comes_in_order_signed_over_its_very_bytes(pair, start_server, capfd) -> None:
    receiver = Receiver()
    async with listening(receiver) as url:
        server = await start_server(rollout=TICK | {"webhook_url": url, "webhook_secret": SECRET})
        await start(server, "1.1.0", LONG, actor="ann", reason="naïve, but signed")
        await until(server, in_state("soaking"))
        await command(server, pb.ROLLOUT_COMMAND_ABORT, actor="bob")
        ended = (await until(server, in_state("rolled_back")))[-1]
        await settled(lambda: len(receiver.got) >= len(ended.events), lambda: receiver.events)
    assert [e["event"] for e in receiver.events] == [e.kind for e in ended.events]
    assert [e["text"] for e in receiver.events] == [e.text for e in ended.events]
    assert [e["epoch"] for e in receiver.events] == sorted(e["epoch"] for e in receiver.events)
    first = receiver.events[0]
    assert first | {"time": ""} == {
        "model": "m", "attempt": 1, "candidate": "1.1.0", "previous": "1.0.0", "state": "pending", "epoch": 1,
        "event": "start", "text": "naïve, but signed", "actor": "ann", "e_value": 0.0, "threshold": 100.0, "time": "",
    }  # fmt: skip
    for headers, body in receiver.got:
        digest = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        assert headers["x-turnout-signature"] == f"sha256={digest}"
        assert headers["content-type"] == "application/json"
    assert SECRET not in "".join(capfd.readouterr())


async def test_without_a_secret_nothing_is_signed() -> None:
    receiver = Receiver()
    async with listening(receiver) as url, webhook(url, secret="") as notify:
        notify("one")
        await settled(lambda: receiver.got)
    assert "x-turnout-signature" not in receiver.got[0][0]


@pytest.mark.parametrize("trouble", [BROKEN, NONSENSE, HANGS_UP], ids=["500", "nonsense", "hangs up"])
async def test_what_was_not_taken_is_sent_again_and_keeps_its_place(trouble) -> None:
    receiver = Receiver(answers=[trouble, trouble])
    async with listening(receiver) as url, webhook(url) as notify:
        for text in ("one", "two"):
            notify(text)
        await settled(lambda: len(receiver.got) == 4)
    assert [e["text"] for e in receiver.events] == ["one", "one", "one", "two"]
    assert receiver.got[0] == receiver.got[1] == receiver.got[2], "the same bytes, and the same signature"


async def test_a_receiver_that_comes_back_gets_what_it_missed() -> None:
    port, receiver = free_port(), Receiver()
    async with webhook(f"http://127.0.0.1:{port}/hook") as notify:
        notify("one")
        await asyncio.sleep(0)  # refused by now, or soon
        async with listening(receiver, port):
            await settled(lambda: receiver.got)
    assert receiver.events[0]["text"] == "one"


async def test_what_nobody_takes_is_given_up_and_told_without_the_secret(monkeypatch, capfd) -> None:
    monkeypatch.setattr("turnout.rollout.reporting.webhook._FIRST_PAUSE_SECONDS", 0.01)
    receiver = Receiver(answers=[BROKEN] * 5)
    async with listening(receiver) as url, webhook(url) as notify:
        for text in ("one", "two"):
            notify(text)
        await settled(lambda: len(receiver.got) == 6)
    assert [e["text"] for e in receiver.events] == ["one"] * 5 + ["two"]
    logged = "".join(capfd.readouterr())
    assert "a webhook could not be delivered" in logged
    assert '"tries": 5' in logged
    assert SECRET not in logged
    assert "/hook" not in logged, "the address may hold a secret too"


async def test_what_is_past_the_bound_is_dropped_and_told(monkeypatch, capfd) -> None:
    monkeypatch.setattr("turnout.rollout.reporting.webhook._WAITING", 3)
    receiver = Receiver(answer=None)
    async with listening(receiver) as url, webhook(url) as notify:
        notify("0")
        await settled(lambda: receiver.got)
        for number in range(1, 10):
            notify(str(number))
        receiver.answer = OK
        receiver.over.set()
        await settled(lambda: receiver.events[-1]["text"] == "3")
    assert {e["text"] for e in receiver.events} == {"0", "1", "2", "3"}
    logged = "".join(capfd.readouterr())
    assert logged.count("a webhook was dropped: too many wait") == 6


async def test_a_receiver_that_hangs_delays_no_tick_and_no_answer(pair, start_server, monkeypatch) -> None:
    monkeypatch.setattr("turnout.rollout.reporting.webhook._TIMEOUT_SECONDS", 100.0)  # a busy machine's ticks are slow
    receiver = Receiver(answer=None)
    async with listening(receiver) as url:
        server = await start_server(rollout=TICK | {"webhook_url": url})
        await start(server, "1.1.0", LONG)
        await settled(lambda: receiver.got)
        await until(server, in_state("soaking"))
        rollouts = server.parts.rollouts.engine
        for _ in range(3):
            before = rollouts.last_tick
            await settled(lambda before=before: rollouts.last_tick > before)
        assert len(receiver.got) == 1, "all of that while the first event was still on its way"
        receiver.answer = OK
        receiver.over.set()


async def test_a_receiver_that_talks_nonsense_does_not_stop_the_server(pair, start_server) -> None:
    receiver = Receiver(answer=NONSENSE)
    async with listening(receiver) as url:
        server = await start_server(rollout=TICK | {"webhook_url": url})
        await start(server, "1.1.0", LONG)
        await settled(lambda: len(receiver.got) >= 3)
        await until(server, in_state("soaking"))
        assert not server.failed.done()


async def test_cloud_events_are_what_their_own_sdk_reads() -> None:
    receiver = Receiver(answers=[BROKEN])
    async with listening(receiver) as url, webhook(url, webhook_format="cloudevents", webhook_source="/eu-1") as notify:
        for text in ("one", "two"):
            notify(text)
        await settled(lambda: len(receiver.got) == 3)
    events = [from_structured_event(HTTPMessage(headers, body)) for headers, body in receiver.got]
    first, again, second = events
    assert [event.get_specversion() for event in events] == ["1.0"] * 3
    assert first.get_id() == again.get_id() != second.get_id(), "a receiver knows what it has had"
    assert {(e.get_source(), e.get_subject(), e.get_type()) for e in events} == {
        ("/eu-1", "m", "dev.turnout.rollout.pause")
    }
    assert second.get_data()["text"] == "two"
    assert second.get_time().isoformat() == second.get_data()["time"]
    for headers, body in receiver.got:
        digest = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        assert headers["x-turnout-signature"] == f"sha256={digest}"
        assert headers["content-type"] == "application/cloudevents+json; charset=utf-8"


async def test_plain_events_are_as_they_were() -> None:
    receiver = Receiver()
    async with listening(receiver) as url, webhook(url) as notify:
        notify("one")
        await settled(lambda: receiver.got)
    assert "specversion" not in receiver.events[0]


async def test_a_redirect_is_not_followed_and_told(monkeypatch, capfd) -> None:
    monkeypatch.setattr("turnout.rollout.reporting.webhook._FIRST_PAUSE_SECONDS", 0.01)
    elsewhere = Receiver()
    async with listening(elsewhere) as there:
        moved = f"HTTP/1.1 307 Moved\r\nLocation: {there}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        receiver = Receiver(answers=[moved] * 5)
        async with listening(receiver) as url, webhook(url) as notify:
            for text in ("one", "two"):
                notify(text)
            await settled(lambda: len(receiver.got) == 6)
    assert elsewhere.got == []
    assert '"reason": "HTTP 307"' in "".join(capfd.readouterr())
