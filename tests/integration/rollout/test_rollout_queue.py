"""A run that takes long holds up the requests that wait behind it, and is no reason to roll a version back."""

import grpc
import numpy as np

from onnx_models import slow
from rollout_wire import LONG, TICK, check_evidence, clients, in_state, latest, settled, start, until
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub
from wire import request

X = np.ones((1, 4), np.float32)
ROUNDS = 2
PLAN = LONG | {"metrics": ["p90"], "threshold_samples": 150}


def quick(_: int):
    return request("m", x=X, n=np.array(ROUNDS))


async def test_a_stall_of_a_queue_rolls_back_no_version_that_computes_the_same(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", slow())
    publish_model("m", "1.1.0", slow(), release=False)
    one = {"isolation": "thread", "runners": 1}
    server = await start_server(rollout=TICK, runtime=one, batching={"enabled": False})
    async with clients(server, quick, count=60, pause=0.3), grpc.aio.insecure_channel(str(server.grpc)) as channel:
        stub = PredictionServiceStub(channel)

        async def stall() -> None:
            """Has the candidate's runner taken for a second or so, while thirty requests come for it."""
            await stub.Predict(request("m", "1.1.0", x=X, n=np.array(150_000)), timeout=100)

        await start(server, "1.1.0", PLAN)
        await until(server, in_state("soaking"))
        (active,) = server.parts.rollouts.engine.active

        def seen():
            return active.rollout.evidence.accumulators["p90"]

        await settled(lambda: seen().canary.requests > 150, lambda: seen())
        await stall()
        requests = seen().canary.requests
        await settled(lambda: seen().canary.requests > requests + 100, lambda: seen())
        rollout = await latest(server)
        assert (rollout.state, rollout.verdict) == ("soaking", "")
        await check_evidence(server)
