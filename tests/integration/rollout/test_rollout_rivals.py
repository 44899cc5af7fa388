"""Several rollouts at once: of one model, by what the plan says about a newer one, and of several models."""

import asyncio

import grpc
import pytest

from onnx_models import scaled
from rollout_wire import CAREFREE, FINAL, LONG, TICK, WATCHED, command, in_state, settled, start, until
from routing_wire import ask, control_of
from turnout_proto.v1 import rollout_pb2 as pb
from turnout_proto.v1 import traffic_pb2

pytestmark = pytest.mark.slow

SMALL = LONG | {"steps": [{"weight": 0.1, "soak_s": 600.0}]}
SOON = CAREFREE | {"steps": [{"weight": 0.3, "soak_s": 0.3}], "min_requests": 1}


@pytest.fixture
async def server(publish_model, start_server):
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        publish_model("m", version, scaled(2), release=version == "1.0.0")
    return await start_server(rollout=TICK)


async def attempts(server, model: str = "m") -> dict[int, pb.Rollout]:
    async with control_of(server) as control:
        listed = await control.ListRollouts(pb.ListRolloutsRequest(model=model))
    return {rollout.attempt: rollout for rollout in listed.rollouts}


async def attempt_until(server, number: int, *states: str) -> pb.Rollout:
    for _ in range(600):
        found = (await attempts(server)).get(number)
        if found is not None and found.state in states:
            return found
        await server.parts.rollouts.engine.wait(1)
    raise AssertionError(found)


def canaries(server, model: str = "m") -> dict[str, int]:
    policy = server.parts.serving.policies.current[model].state.policy
    return {str(c.version): c.weight for c in policy.canaries}


async def test_a_newer_one_is_refused_unless_its_plan_says_otherwise(server) -> None:
    await start(server, "1.1.0", LONG)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await start(server, "1.2.0", LONG)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "1.1.0 is being rolled out (attempt 1" in refused.value.details()


async def test_a_newer_one_takes_the_place_of_the_other(server) -> None:
    await start(server, "1.1.0", LONG)
    await until(server, in_state("soaking"))
    await start(server, "1.2.0", LONG | {"on_newer": "replace"})
    first = await attempt_until(server, 1, *FINAL)
    assert first.state == "superseded"
    assert "1.2.0 is rolled out in its place" in first.verdict
    await attempt_until(server, 2, "soaking")
    assert canaries(server) == {"1.2.0": 2500}


async def test_a_queued_one_waits_for_the_other_and_compares_with_what_that_left(server) -> None:
    await start(server, "1.1.0", SOON | {"watch_s": 0.3})
    await start(server, "1.2.0", LONG | {"on_newer": "queue"})
    assert (await attempts(server))[2].state == "pending"
    await until_asked(server, 1, "succeeded")
    second = await attempt_until(server, 2, "soaking")
    assert second.previous == "1.1.0"
    assert canaries(server) == {"1.2.0": 2500}


async def until_asked(server, number: int, *states: str) -> None:
    """As `attempt_until`, with requests meanwhile."""
    for _ in range(300):
        await ask(server, [""] * 20)
        if (await attempts(server))[number].state in states:
            return
        await server.parts.rollouts.engine.wait(1)
    raise AssertionError((await attempts(server))[number])


async def test_a_queued_one_that_is_aborted_ends_at_once_and_leaves_the_others_traffic_alone(server) -> None:
    await start(server, "1.1.0", WATCHED | {"min_requests": 1})
    await until_asked(server, 1, "watching")
    await start(server, "1.2.0", LONG | {"on_newer": "queue"})
    before = server.parts.serving.policies.current["m"].epoch
    async with control_of(server) as control:
        await control.CommandRollout(pb.CommandRolloutRequest(model="m", attempt=2, command=pb.ROLLOUT_COMMAND_ABORT))
    assert (await attempts(server))[2].state == "rolled_back"
    for _ in range(5):
        await server.parts.rollouts.engine.wait(5)
    assert server.parts.serving.policies.current["m"].epoch == before
    assert canaries(server) == {"1.0.0": 500}


async def test_two_beside_one_another_both_get_their_share_and_half_the_alpha(server) -> None:
    await start(server, "1.1.0", SMALL)
    await attempt_until(server, 1, "soaking")
    await start(server, "1.2.0", SMALL | {"on_newer": "beside"})
    await attempt_until(server, 2, "soaking")
    assert canaries(server) == {"1.1.0": 1000, "1.2.0": 1000}
    await settled(lambda: {d.rollout.alpha for d in server.parts.rollouts.engine.active} == {0.005})
    epoch = server.parts.serving.policies.current["m"].epoch
    for _ in range(8):
        await server.parts.rollouts.engine.wait(5)
    assert server.parts.serving.policies.current["m"].epoch == epoch, "they do not undo one another"
    async with control_of(server) as control:
        change = traffic_pb2.TrafficChange(actor="bob")
        for frozen in (True, False):
            await control.FreezeTraffic(traffic_pb2.FreezeTrafficRequest(model="m", frozen=frozen, change=change))
            for _ in range(3):
                await server.parts.rollouts.engine.wait(5)
    assert not [p for r in (await attempts(server)).values() for p in r.pauses], "a freeze changes nobody's traffic"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await command(server, pb.ROLLOUT_COMMAND_PAUSE)
    assert "say which attempt, 1 (1.1.0), 2 (1.2.0)" in refused.value.details()


async def test_one_that_is_promoted_supersedes_those_beside_it_and_keeps_its_holdback(server) -> None:
    await start(server, "1.1.0", SMALL)
    await attempt_until(server, 1, "soaking")
    await start(server, "1.2.0", SMALL | {"on_newer": "beside", "watch_s": 600.0})
    await attempt_until(server, 2, "soaking")
    async with control_of(server) as control:
        await control.CommandRollout(
            pb.CommandRolloutRequest(model="m", attempt=2, command=pb.ROLLOUT_COMMAND_PROMOTE_FULL)
        )
    first = await attempt_until(server, 1, *FINAL)
    assert first.state == "superseded"
    assert "another rollout made 1.2.0 the baseline" in first.verdict
    await attempt_until(server, 2, "watching")
    assert canaries(server) == {"1.0.0": 500}
    assert (await attempts(server))[2].alpha == pytest.approx(0.005), "a share never grows back"


async def test_rollouts_of_several_models_go_on_side_by_side(publish_model, start_server) -> None:
    for model in ("m", "n", "o"):
        for version in ("1.0.0", "1.1.0"):
            publish_model(model, version, scaled(2), release=version == "1.0.0")
    server = await start_server(rollout=TICK)
    for model in ("m", "n", "o"):
        await start(server, "1.1.0", SOON | {"watch_s": 0.3}, model=model)
    over = asyncio.Event()

    async def asking(model: str) -> None:
        while not over.is_set():
            await ask(server, [""] * 10, model=model)
            await server.parts.rollouts.engine.wait(1)

    tasks = [asyncio.create_task(asking(model)) for model in ("m", "n", "o")]
    for model in ("m", "n", "o"):
        last = (await until(server, in_state(*FINAL), model=model))[-1]
        assert (last.state, last.alpha) == ("succeeded", 0.01)
    over.set()
    await asyncio.gather(*tasks)
