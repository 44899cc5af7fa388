"""`rollout plan` forecasts from the traffic of all workers and servers, whichever of them has it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import numpy as np

from onnx_models import look_up_safely
from rollout_wire import Lookups, clients, settled
from turnout.rpc.control.rollouts import RolloutMethods
from turnout_proto.v1 import rollout_pb2 as pb


class LinkedWorkers:
    """Connects two servers in this process as `turnout.workers.peers.Peers` connects workers."""

    def __init__(self) -> None:
        self.topics: dict[str, list[Callable[[bytes], Awaitable[bytes]]]] = {}

    def answers(self, topic: str, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        self.topics.setdefault(topic, []).append(answer)

    async def ask(self, topic: str, body: bytes = b"") -> Mapping[int, bytes]:
        _, *others = self.topics[topic]
        return {number: await answer(body) for number, answer in enumerate(others, start=1)}


def methods(server, peers: LinkedWorkers | None) -> RolloutMethods:
    parts = server.parts.rollouts
    return RolloutMethods(parts.engine, parts.releases, parts.log, parts.previews, parts.analyses, peers)


REQUEST = pb.PlanRolloutRequest(model="m", version="1.1.0", plan_json='{"steps": [{"weight": 0.5, "soak_s": 3600}]}')


def foreseen(planned: pb.PlanRolloutResponse) -> set[str]:
    """Returns the effects that some step would detect."""
    return {one.effect for power in planned.power for one in power.detections if np.isfinite(one.seconds)}


async def test_a_worker_without_clients_forecasts_from_the_traffic_of_the_others(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", look_up_safely())
    publish_model("m", "1.1.0", look_up_safely(), release=False)
    asked = await start_server(rollout={"tick_s": 0.1})
    busy = await start_server(rollout={"tick_s": 0.1})
    peers = LinkedWorkers()
    first, _ = methods(asked, peers), methods(busy, peers)
    async with clients(busy, Lookups()), asyncio.timeout(120):
        # On a busy machine, as many latencies may be over the threshold as would be if all rose by 20 %.
        while "latency +20 %" not in foreseen(planned := await first.PlanRollout(REQUEST)):
            await asyncio.sleep(0.2)
        assert planned.requests_per_second > 0
    assert "latency +20 %" not in foreseen(await methods(asked, None).PlanRollout(REQUEST)), "others have the latencies"


async def test_a_server_forecasts_from_the_requests_of_every_server_once(publish_model, start_server) -> None:
    """The two that are linked report themselves in the state store, too, as workers do."""
    publish_model("m", "1.0.0", look_up_safely())
    publish_model("m", "1.1.0", look_up_safely(), release=False)
    asked, worker, other = [await start_server(rollout={"tick_s": 0.1}, server_name=name) for name in ("a", "b", "c")]
    peers = LinkedWorkers()
    linked, _ = methods(asked, peers), methods(worker, peers)

    def reported() -> dict[str, float]:
        return {one.name: one.rates.get("m", 0.0) for one in asked.parts.rollouts.engine.servers}

    def measured() -> dict[str, float]:
        found = {"b": worker, "c": other}
        return {name: one.parts.rollouts.previews.measured("m").rate for name, one in found.items()}

    async with clients(worker, Lookups()) as first, clients(other, Lookups()) as second:
        await settled(lambda: min(first.answers.total(), second.answers.total()) > 100 and len(reported()) == 3)
    # Without requests, rates only fall, so that a report is at least what is measured after it.
    most = sum(measured().values())
    await settled(lambda: all(0 < rate <= 1.01 * reported()[name] for name, rate in measured().items()))
    # A report from before `most` was measured may be higher by a tick or two; a server counted twice adds half.
    planned = [await methods(asked, None).PlanRollout(REQUEST), await linked.PlanRollout(REQUEST)]
    least = sum(measured().values())
    for plan in planned:
        assert 0.99 * least < plan.requests_per_second < 1.25 * most
