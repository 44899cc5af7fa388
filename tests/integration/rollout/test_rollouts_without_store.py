"""A server whose state store is away for many ticks."""

import json
from collections import Counter

from onnx_models import scaled
from rollout_wire import TICK
from turnout.errors import UnavailableError
from turnout.state.database.engine import Database


def refuse(self, **named):
    raise UnavailableError("the state store cannot be used: it does not answer")


async def test_an_outage_is_logged_once_and_not_at_every_tick(publish_model, start_server, monkeypatch, capsys) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server(rollout=TICK)
    for _ in range(2):
        capsys.readouterr()
        with monkeypatch.context() as patch:
            for access in ("reading", "writing"):
                patch.setattr(Database, access, refuse)
            for _ in range(30):  # the servers' reports are due every half second
                await server.parts.rollouts.engine.wait(10)
        events = Counter(json.loads(line)["event"] for line in capsys.readouterr().err.splitlines())
        assert events["rollouts continue from memory"] == 1, events
        assert events["counts could not be reported, and are reported later"] == 1, events
        for _ in range(15):
            await server.parts.rollouts.engine.wait(10)
