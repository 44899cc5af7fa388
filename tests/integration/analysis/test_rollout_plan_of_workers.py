"""`rollout plan` forecasts from the traffic of all workers, whichever of them has it."""

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


async def test_a_worker_without_clients_forecasts_from_the_traffic_of_the_others(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", look_up_safely())
    publish_model("m", "1.1.0", look_up_safely(), release=False)
    asked = await start_server(rollout={"tick_s": 0.1})
    busy = await start_server(rollout={"tick_s": 0.1})
    peers = LinkedWorkers()
    first, _ = methods(asked, peers), methods(busy, peers)
    request = pb.PlanRolloutRequest(model="m", version="1.1.0", plan_json="{}")
    async with clients(busy, Lookups()) as seen:
        await settled(lambda: seen.answers.total() > 200 and busy.parts.rollouts.previews.measured("m").rate)
        planned = await first.PlanRollout(request)
        alone = await methods(asked, None).PlanRollout(request)
    assert alone.requests_per_second == 0
    assert planned.requests_per_second > 0
    effects = {one.effect for power in planned.power for one in power.detections if np.isfinite(one.seconds)}
    assert any("latency" in effect for effect in effects), "the baseline's latency is known too"
