"""A webhook that confirms or vetoes steps, on a real server: yes, no, neither, and restarts in between."""

import hashlib
import hmac
import re
from collections import deque

import httpx
import numpy as np
import pytest

from http_endpoint import HANGS, Asked, Endpoint, answer, listening
from onnx_models import scaled
from ports import free_port
from rollout_wire import CAREFREE, FINAL, TICK, clients, command, in_state, reached, settled, start, until
from started_servers import make_settings
from turnout.app.server import running
from turnout.telemetry.logging import make_logger
from turnout_proto.v1 import rollout_pb2 as pb
from wire import request

pytestmark = pytest.mark.slow

SECRET = "correct-horse-battery"
GO = answer(204)

TWO_STEPS = CAREFREE | {
    "steps": [{"weight": 0.25, "soak_s": 0.2}, {"weight": 0.5, "soak_s": 0.2}],
    "watch_s": 0.2,
    "min_requests": 1,
}
"""Asks three times: for each step, and for promotion."""


def ask(number: int):
    return request("m", x=np.full((1, 4), number, np.float32))


@pytest.fixture
def pair(publish_model):
    publish_model("m", "1.0.0", scaled(2))
    publish_model("m", "1.1.0", scaled(2), release=False)


@pytest.fixture
def soon(monkeypatch):
    """What said neither yes nor no is asked again at the next tick."""
    monkeypatch.setattr("turnout.rollout.analysis.analyses._FIRST_PAUSE", 0.01)


def confirmed_by(endpoint: Endpoint, **more: object) -> dict[str, object]:
    return TICK | {"confirm_url": endpoint.url + "/confirm", "confirm_timeout_s": 30} | more


def asked_about(endpoint: Endpoint) -> list[tuple[str, int]]:
    return [(one.json["action"], one.json["step"]) for one in endpoint.asked]


ASKED_AGAIN = re.compile(r", asked ([2-9]|\d\d+) times: ")
EACH_ONCE = [("step", 1), ("step", 2), ("promote", 2)]


async def test_each_step_and_the_promotion_are_confirmed_once_and_signed(pair, start_server, capfd) -> None:
    async with listening(Endpoint(GO)) as endpoint:
        server = await start_server(rollout=confirmed_by(endpoint, webhook_secret=SECRET))
        async with clients(server, ask):
            await start(server, "1.1.0", TWO_STEPS, actor="ann", reason="better")
            last = (await until(server, in_state(*FINAL)))[-1]
        assert last.state == "succeeded", last
    assert asked_about(endpoint) == EACH_ONCE
    for one in endpoint.asked:
        digest = hmac.new(SECRET.encode(), one.body, hashlib.sha256).hexdigest()
        assert one.headers["x-turnout-signature"] == f"sha256={digest}"
    second = endpoint.asked[1].json
    assert {key: second[key] for key in ("event", "model", "attempt", "candidate", "baseline", "steps", "weight")} == {
        "event": "confirm", "model": "m", "attempt": 1, "candidate": "1.1.0", "baseline": "1.0.0", "steps": 2,
        "weight": 0.5,
    }  # fmt: skip
    assert second["evidence"]["metrics"]["errors"]["canary_bad"] == 0
    assert second["evidence"]["metrics"]["errors"]["canary_requests"] > 0
    assert [e.text for e in last.events if e.kind == "confirm"][:2] == [
        "asks the confirm webhook whether step 1 of 2 (25%) may begin",
        "the confirm webhook lets step 1 of 2 (25%) begin",
    ]
    assert SECRET not in "".join(capfd.readouterr())


async def test_a_veto_holds_the_rollout_with_its_reason_until_somebody_resumes(pair, start_server) -> None:
    veto = answer(403, {"reason": "the table is not\nsigned off"})
    async with listening(Endpoint(GO, first=deque([GO, veto]))) as endpoint:
        server = await start_server(rollout=confirmed_by(endpoint))
        async with clients(server, ask):
            await start(server, "1.1.0", TWO_STEPS)
            held = (await until(server, lambda r: bool(r.pauses) or r.state in FINAL))[-1]
            assert held.pauses == ["the confirm webhook vetoes step 2 of 2 (50%): the table is not signed off"], held
            assert (held.state, held.weight) == ("deciding", 0.25)
            ticks = server.parts.rollouts.engine
            for _ in range(3):
                before = ticks.last_tick
                await settled(lambda before=before: ticks.last_tick > before)
            assert asked_about(endpoint) == [("step", 1), ("step", 2)], "no is an answer, and is asked for once"
            await command(server, pb.ROLLOUT_COMMAND_RESUME)
            assert (await until(server, in_state(*FINAL)))[-1].state == "succeeded"
    assert asked_about(endpoint) == [("step", 1), ("step", 2), ("step", 2), ("promote", 2)]


async def test_an_operator_overrides_a_veto_by_promote(pair, start_server) -> None:
    async with listening(Endpoint(GO, first=deque([answer(403, b"no, says <b>ops</b>")]))) as endpoint:
        server = await start_server(rollout=confirmed_by(endpoint))
        async with clients(server, ask):
            await start(server, "1.1.0", TWO_STEPS)
            held = (await until(server, lambda r: bool(r.pauses) or r.state in FINAL))[-1]
            assert held.pauses == ["the confirm webhook vetoes step 1 of 2 (25%): no, says <b>ops</b>"]
            assert held.weight == 0
            await command(server, pb.ROLLOUT_COMMAND_PROMOTE, actor="bob", reason="it is signed off by phone")
            assert (await until(server, in_state(*FINAL)))[-1].state == "succeeded"
    assert asked_about(endpoint) == EACH_ONCE


async def test_a_veto_that_says_so_takes_the_candidate_back(pair, start_server) -> None:
    async with listening(Endpoint(answer(409, {"reason": "incident 7", "rollback": True}), deque([GO]))) as endpoint:
        server = await start_server(rollout=confirmed_by(endpoint))
        async with clients(server, ask):
            await start(server, "1.1.0", TWO_STEPS)
            last = (await until(server, in_state(*FINAL)))[-1]
        assert (last.state, last.verdict) == ("rolled_back", "the confirm webhook asked for a rollback: incident 7")
        async with httpx.AsyncClient() as client:
            scraped = (await client.get(f"http://{server.http}/metrics")).text
        assert 'turnout_rollout_rollbacks_total{model="m",reason_kind="webhook"} 1.0' in scraped
        assert 'turnout_rollout_confirmations_total{reply="rollback"} 1.0' in scraped


@pytest.mark.parametrize(
    "says",
    [HANGS, answer(500), answer(503), answer(429), answer(302, Location="/yes"), b"SSH-2.0\r\n\r\n"],
    ids=["hangs", "500", "503", "429", "redirect", "no HTTP"],
)
async def test_neither_yes_nor_no_is_asked_again_and_the_step_waits(pair, start_server, soon, says) -> None:
    async with listening(Endpoint(GO, first=deque([says, says]))) as endpoint:
        timeout = 0.5 if says is HANGS else 30
        server = await start_server(rollout=confirmed_by(endpoint, confirm_timeout_s=timeout))
        await start(server, "1.1.0", TWO_STEPS)
        updates = await until(server, reached("soaking"))
    asked = asked_about(endpoint)
    assert asked == [("step", 1)] * len(asked)
    assert len(asked) == 3 or (says is HANGS and len(asked) > 3), "half a second may be short for a yes, too"
    waits = [one for one in updates if any(ASKED_AGAIN.search(line) for line in one.lacking)]
    assert all((one.weight, one.pauses) == (0, []) for one in waits)
    message = [e.text for e in updates[-1].events if "neither yes nor no" in e.text]
    assert len(message) == 1, "told once, and not for each try"


async def test_nobody_who_listens_and_then_a_yes(pair, start_server, soon) -> None:
    port = free_port()
    server = await start_server(rollout=TICK | {"confirm_url": f"http://127.0.0.1:{port}/"})
    await start(server, "1.1.0", TWO_STEPS)
    waiting = (await until(server, lambda r: any(ASKED_AGAIN.search(one) for one in r.lacking)))[-1]
    assert (waiting.state, waiting.pauses) == ("validating", [])
    assert "times: it cannot be connected to, or is not trusted" in waiting.lacking[-1]
    async with listening(Endpoint(GO), port) as endpoint:
        await until(server, reached("soaking"))
    assert asked_about(endpoint) == [("step", 1)]


@pytest.mark.parametrize("on_insufficient", ["pause", "promote", "abort"])
async def test_a_webhook_that_never_answers_holds_the_rollout_whatever_the_plan_says_of_too_little(
    pair, start_server, soon, on_insufficient
) -> None:
    async with listening(Endpoint(answer(500))) as endpoint:
        server = await start_server(rollout=confirmed_by(endpoint))
        await start(server, "1.1.0", TWO_STEPS | {"validating_s": 0.6, "on_insufficient": on_insufficient})
        held = (await until(server, lambda r: bool(r.pauses) or r.state in FINAL))[-1]
        assert held.state == "validating", held
        assert held.pauses[0].startswith("the confirm webhook has not answered whether step 1 of 2 (25%) may begin")
        endpoint.says = GO
        await command(server, pb.ROLLOUT_COMMAND_RESUME)
        await until(server, reached("soaking"))


async def test_while_the_webhook_hangs_no_tick_waits_and_a_rollback_does_not_either(pair, start_server) -> None:
    async with listening(Endpoint(HANGS)) as endpoint:
        server = await start_server(rollout=confirmed_by(endpoint, confirm_timeout_s=60))
        await start(server, "1.1.0", TWO_STEPS)
        await settled(lambda: endpoint.asked)
        rollouts = server.parts.rollouts.engine
        for _ in range(5):
            before = rollouts.last_tick
            await settled(lambda before=before: rollouts.last_tick > before)
        await command(server, pb.ROLLOUT_COMMAND_ABORT)
        await until(server, in_state("rolled_back"))
    assert len(endpoint.asked) == 1


async def test_an_answer_that_comes_while_an_operator_has_paused_it_is_kept(pair, start_server) -> None:
    """The endpoint says yes once the pause is in force, and is not asked again after it."""
    async with listening(Endpoint(HANGS)) as endpoint:
        server = await start_server(rollout=confirmed_by(endpoint))
        await start(server, "1.1.0", TWO_STEPS)
        await settled(lambda: endpoint.asked)
        await command(server, pb.ROLLOUT_COMMAND_PAUSE)
        endpoint.says = GO
        endpoint.release()
        await until(server, lambda r: any("lets step 1 of 2" in e.text for e in r.events))
        held = await command(server, pb.ROLLOUT_COMMAND_RESUME)
        assert held.weight == 0
        await until(server, reached("soaking"))
    assert asked_about(endpoint) == [("step", 1)]


async def test_a_restart_while_it_is_asked_skips_no_step_and_repeats_no_answer(pair, start_server, models) -> None:
    """The first driver stops in the middle of the second question; the next asks that again, and not the first."""
    async with listening(Endpoint(GO, first=deque([GO, HANGS]))) as endpoint:
        settings = make_settings(models, rollout=confirmed_by(endpoint, confirm_timeout_s=60))
        async with running(settings, make_logger("json", "warning")) as server:
            await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
            async with clients(server, ask):
                await start(server, "1.1.0", TWO_STEPS)
                await settled(lambda: len(endpoint.asked) == 2, lambda: endpoint.asked)
        assert asked_about(endpoint) == [("step", 1), ("step", 2)]
        server = await start_server(rollout=confirmed_by(endpoint))
        async with clients(server, ask):
            updates = await until(server, in_state(*FINAL))
        assert updates[-1].state == "succeeded", updates[-1]
        ramps = [e.text for e in updates[-1].events if e.kind == "ramping"]
        assert ramps == ["step 1 of 2: 25%", "step 2 of 2: 50%"]
    assert asked_about(endpoint) == [("step", 1), ("step", 2), ("step", 2), ("promote", 2)]


async def test_a_restart_after_a_veto_asks_nobody_again(pair, start_server, models) -> None:
    async with listening(Endpoint(GO, first=deque([answer(403)]))) as endpoint:
        settings = make_settings(models, rollout=confirmed_by(endpoint))
        async with running(settings, make_logger("json", "warning")) as server:
            await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
            await start(server, "1.1.0", TWO_STEPS)
            await until(server, lambda r: bool(r.pauses))
        server = await start_server(rollout=confirmed_by(endpoint))
        rollouts = server.parts.rollouts.engine
        await settled(lambda: rollouts.active)
        for _ in range(3):
            before = rollouts.last_tick
            await settled(lambda before=before: rollouts.last_tick > before)
        held = (await until(server, lambda _: True))[-1]
        assert held.pauses == ["the confirm webhook vetoes step 1 of 2 (25%): it answered 403"]
        assert asked_about(endpoint) == [("step", 1)]


async def test_a_reason_that_echoes_the_secret_is_told_without_it(pair, start_server) -> None:
    def says(asked: Asked) -> bytes:
        return answer(403, {"reason": f"key {SECRET} is wrong\x1b[2J " + "x" * 2000})

    async with listening(Endpoint(says)) as endpoint:
        server = await start_server(rollout=confirmed_by(endpoint, webhook_secret=SECRET))
        await start(server, "1.1.0", TWO_STEPS)
        held = (await until(server, lambda r: bool(r.pauses)))[-1]
    assert SECRET not in str(held)
    assert "key *** is wrong" in held.pauses[0]
    assert held.pauses[0].isprintable()
    assert len(held.pauses[0]) < 700
