"""A shadow that takes no more copies: its rollout says so, and tries again once somebody has it go on."""

import numpy as np

from onnx_models import adds_count, one_long_node
from rollout_wire import LONG, TICK, clients, command, latest, settled, start, until
from turnout.routing.shadow import runner
from turnout_proto.v1 import rollout_pb2 as pb
from wire import request

X = np.ones((1, 4), np.float32)
PLAN = LONG | {"shadow": {"rate": 1.0, "duration_s": 0.5, "agreement": 0.5, "min_samples": 20}, "metrics": ["errors"]}


async def test_a_rollout_whose_shadow_was_given_up_says_so_and_tries_again_when_resumed(
    publish_model, start_server, monkeypatch
) -> None:
    monkeypatch.setattr(runner, "_GRACE_SECONDS", 0.1)
    publish_model("m", "1.0.0", adds_count())
    publish_model("m", "1.1.0", one_long_node(), release=False)
    # By itself this version is isolated, and so are its copies then: a child process would be ended.
    shadow = {"isolation": "thread", "timeout_s": 0.5, "max_inflight": 1, "max_lag_s": 100, "noise_rate": 0.0}
    server = await start_server(
        rollout=TICK, shadow=shadow, runtime={"isolation": "thread"}, batching={"enabled": False}
    )
    rounds = [4000]
    async with clients(server, lambda _: request("m", x=X, n=np.array(rounds[0]))) as seen:
        await start(server, "1.1.0", PLAN)
        paused = (await until(server, lambda rollout: bool(rollout.pauses)))[-1]
        (pause,) = paused.pauses
        assert paused.state == "shadowing"
        assert "1.1.0 takes no more copies (a run hangs" in pause, pause
        (lane,) = server.parts.serving.shadows.of("m")
        await settled(lambda: lane.ledger.dropped["closed"] > 10, lambda: lane.ledger.dropped)
        rounds[0] = 1
        for _ in range(20):  # what hangs still has the processor, and may be the end of another copy
            if (await latest(server)).pauses:
                await command(server, pb.ROLLOUT_COMMAND_RESUME, reason="it was the machine")
            await until(server, lambda rollout: bool(rollout.pauses) or rollout.state != "shadowing")
            if lane.ledger.outcomes["agreed"]:
                break
        assert lane.ledger.outcomes["agreed"], (lane.closed, dict(lane.ledger.outcomes))
        assert not seen.codes
