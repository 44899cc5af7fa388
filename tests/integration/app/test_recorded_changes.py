"""A change is answered as made once it is recorded, even if the state store fails before the server has followed it."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from onnx_models import scaled
from rollout_wire import CAREFREE, TICK, settled
from routing_wire import control_of, policy, put
from turnout.app.server import Running
from turnout.errors import UnavailableError
from turnout.state.change import StateChange
from turnout.state.database.engine import Database
from turnout_proto.v1 import control_pb2, traffic_pb2
from turnout_proto.v1 import rollout_pb2 as pb


@pytest.fixture
def fails_once_changed(monkeypatch) -> Callable[[], Iterator[None]]:
    """Lets the state store answer until the next change is recorded, and then no more until the context is left."""

    @contextmanager
    def failing() -> Iterator[None]:
        changed: list[object] = []
        record, reading = StateChange.record, Database.reading

        def recording(self, *arguments):
            changed.append(arguments)
            return record(self, *arguments)

        def refusing(self, **named):
            if changed:
                raise UnavailableError("the state store cannot be used: it does not answer")
            return reading(self, **named)

        with monkeypatch.context() as patch:
            patch.setattr(StateChange, "record", recording)
            patch.setattr(Database, "reading", refusing)
            yield
        assert changed, "nothing was recorded"

    return failing


def named(version: str, **more: object) -> dict[str, object]:
    return {"model": "m", "version": version, "actor": "ada", "reason": "it is time"} | more


CHANGE = pb.RolloutChange(actor="ada", reason="it is time")
PLAN = json.dumps(dict(CAREFREE) | {"steps": [{"weight": 0.25, "soak_s": 600.0}]})
START = ("StartRollout", pb.StartRolloutRequest(model="m", version="1.1.0", plan_json=PLAN, change=CHANGE))
TAG = ("SetTag", control_pb2.SetTagRequest(**named("1.0.0", tag="stable")))
YANK = ("YankVersion", control_pb2.YankVersionRequest(**named("1.2.0")))


def commanded(command: int) -> tuple[str, object]:
    return "CommandRollout", pb.CommandRolloutRequest(model="m", command=command, change=CHANGE)


CHANGES = {
    "release": (("ReleaseVersion", control_pb2.ReleaseVersionRequest(**named("1.1.0", no_traffic=True))),),
    "withdraw": (("WithdrawVersion", control_pb2.WithdrawVersionRequest(**named("1.2.0"))),),
    "tag": (TAG,),
    "untag": (TAG, ("DeleteTag", control_pb2.DeleteTagRequest(model="m", tag="stable", actor="ada"))),
    "yank": (YANK,),
    "unyank": (YANK, ("UnyankVersion", control_pb2.UnyankVersionRequest(**named("1.2.0", i_know_why=True)))),
    "policy": (
        (
            "SetTraffic",
            traffic_pb2.SetTrafficRequest(
                model="m", policy=policy("1.0.0", v1_1_0=0.1), change=traffic_pb2.TrafficChange(actor="ada")
            ),
        ),
    ),
    "freeze": (
        (
            "FreezeTraffic",
            traffic_pb2.FreezeTrafficRequest(model="m", frozen=True, change=traffic_pb2.TrafficChange(actor="ada")),
        ),
    ),
    "rollback": (("RollBack", pb.RollBackRequest(model="m", version="1.2.0", keep_released=True, change=CHANGE)),),
    "start": (START,),
    "pause": (START, commanded(pb.ROLLOUT_COMMAND_PAUSE)),
    "abort": (START, commanded(pb.ROLLOUT_COMMAND_ABORT)),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_a_recorded_change_does_not_fail_because_the_store_fails_after_it(
    publish_model, start_server, fails_once_changed, name: str
) -> None:
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        publish_model("m", version, scaled(2), release=version != "1.1.0")
    server = await start_server(rollout=TICK)
    await put(server, policy("1.0.0"))
    *before, (method, request) = CHANGES[name]
    async with control_of(server) as control:
        for earlier, its_request in before:
            await getattr(control, earlier)(its_request)
        with fails_once_changed():
            await getattr(control, method)(request)
    await settled(lambda: follows(server), lambda: name)


def follows(server: Running) -> bool:
    """Returns whether a server has put in force what is recorded about the model."""
    store, known = server.parts.base.store, server.services.catalog.snapshot.model("m")
    recorded = store.release_state().of("m")
    statuses = {version: entry.release_status for version, entry in known.versions.items()}
    return (
        statuses == {version: recorded.release_status(version) for version in statuses}
        and known.model_releases.tags == recorded.tags
        and server.parts.serving.policies.current["m"].epoch == store.policies()["m"].epoch
    )
