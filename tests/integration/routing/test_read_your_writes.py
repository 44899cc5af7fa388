"""Changes right after others: what was published or changed elsewhere a moment ago holds before a server follows it."""

import grpc
import httpx
import pytest

from onnx_models import scaled
from routing_wire import control_of, policy, put
from turnout.app.server import Running
from turnout.routing.policy import PolicyState
from turnout_proto.v1 import control_pb2, rollout_pb2
from turnout_proto.v1 import traffic_pb2 as pb

SELDOM = {"poll_interval_s": 60.0, "watch": False}
"""A server that follows nothing by itself during a test, but for its first look right after it has started."""


@pytest.fixture
def pair(publish_model):
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "1.1.0", scaled(2))


@pytest.fixture
async def two(pair, start_server) -> tuple[Running, Running]:
    """Two servers on one state store, at the same epoch of the policy."""
    first = await start_server(repository=SELDOM)
    await put(first, policy("1.0.0", v1_1_0=0.5))
    return first, await start_server(repository=SELDOM)


def recorded(server: Running) -> PolicyState:
    """Returns the recorded policy."""
    return PolicyState.from_json(server.parts.serving.traffic._store.policies()["m"].document)


async def call(server: Running, method: str, request: object) -> object:
    async with control_of(server) as control:
        return await getattr(control, method)(request)


async def freeze(server: Running, frozen: bool) -> None:
    await call(server, "FreezeTraffic", pb.FreezeTrafficRequest(model="m", frozen=frozen))


async def test_the_same_policy_again_is_a_change_if_another_server_has_replaced_it(two) -> None:
    first, second = two
    await put(first, policy("1.0.0"))
    await put(second, policy("1.0.0", v1_1_0=0.5))
    assert [str(canary.version) for canary in recorded(second).policy.canaries] == ["1.1.0"]
    await put(first, policy("1.0.0"))  # takes the canary back, although its own policy has none
    assert recorded(first).policy.canaries == ()


async def test_traffic_that_another_server_has_frozen_is_unfrozen(two) -> None:
    first, second = two
    await freeze(first, True)
    await freeze(second, False)
    assert not recorded(second).frozen
    await freeze(first, True)
    with pytest.raises(grpc.aio.AioRpcError, match="frozen"):
        await put(second, policy("1.1.0"))


async def test_a_policy_that_another_server_has_set_or_removed_is_ramped_cleared_and_reverted(two) -> None:
    first, second = two
    await call(first, "ClearTraffic", pb.ClearTrafficRequest(model="m"))
    ramp = pb.RampTrafficRequest(model="m", canary=pb.Canary(version="1.1.0", weight=0.2))
    with pytest.raises(grpc.aio.AioRpcError, match="no policy to ramp in"):
        await call(second, "RampTraffic", ramp)
    await put(first, policy("1.0.0"))
    await call(second, "RampTraffic", ramp)
    assert recorded(second).policy.canaries[0].weight == 2000
    await call(first, "RevertTraffic", pb.RevertTrafficRequest(model="m", epoch=1))
    assert recorded(first).policy.canaries[0].weight == 5000
    await call(second, "ClearTraffic", pb.ClearTrafficRequest(model="m"))
    assert recorded(second).policy is None


async def test_what_another_server_has_withdrawn_cannot_become_the_baseline(two) -> None:
    first, second = two
    await call(first, "ClearTraffic", pb.ClearTrafficRequest(model="m"))
    await call(
        first, "WithdrawVersion", control_pb2.WithdrawVersionRequest(model="m", version="1.0.0", reason="too old")
    )
    with pytest.raises(grpc.aio.AioRpcError, match=r"1\.0\.0 is a candidate: release it"):
        await put(second, policy("1.0.0"))


async def roll_back(server: Running) -> rollout_pb2.RollBackResponse:
    return await call(server, "RollBack", rollout_pb2.RollBackRequest(model="m"))


async def test_a_release_is_rolled_back_before_the_server_knows_the_version(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await start_server(repository=SELDOM)
    publish_model("m", "1.1.0", scaled(2))
    assert "1.1.0 is no longer released" in (await roll_back(server)).sentence


async def test_a_rollback_takes_back_the_release_and_not_the_one_before_it(pair, publish_model, start_server) -> None:
    server = await start_server(repository=SELDOM)
    publish_model("m", "1.2.0", scaled(3))
    assert (await roll_back(server)).baseline == "1.1.0"
    statuses = server.parts.serving.traffic._store.release_state().of("m").release_statuses
    assert {str(version): str(status) for version, status in statuses.items() if status == "released"} == {
        "1.0.0": "released",
        "1.1.0": "released",
    }


async def test_traffic_may_name_what_was_published_just_now(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await start_server(repository=SELDOM, loading={"load": ["latest"]})
    publish_model("m", "1.1.0", scaled(2), release=False)
    with pytest.raises(grpc.aio.AioRpcError, match=r"1\.1\.0 is not ready: load it first"):
        await put(server, policy("1.0.0", v1_1_0=0.5))
    publish_model("n", "1.0.0", scaled(1))
    await call(server, "FreezeTraffic", pb.FreezeTrafficRequest(model="n", frozen=True))
    with pytest.raises(grpc.aio.AioRpcError, match="no model is named 'o'"):
        await call(server, "FreezeTraffic", pb.FreezeTrafficRequest(model="o", frozen=True))


async def test_model_control_loads_what_was_published_just_now(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await start_server(repository=SELDOM, loading={"load": ["latest"]}, oip={"allow_repository_control": True})

    def loaded() -> list[str]:
        models = server.services.catalog.snapshot.models.values()
        return [f"{e.model} {e.version}" for m in models for e in m.versions.values() if e.state == "ready"]

    async with httpx.AsyncClient(base_url=f"http://{server.http}") as client:
        publish_model("m", "1.1.0", scaled(2), release=False)
        assert (await client.post("/v2/repository/models/m@1.1.0/load")).status_code == 200
        assert loaded() == ["m 1.1.0", "m 1.0.0"]
        publish_model("n", "1.0.0", scaled(1))
        assert (await client.post("/v2/repository/models/n/load")).status_code == 200
        assert loaded() == ["m 1.1.0", "m 1.0.0", "n 1.0.0"]
        publish_model("m", "1.2.0", scaled(3))
        assert (await client.post("/v2/repository/models/m/load")).status_code == 200
        assert loaded() == ["m 1.2.0", "m 1.1.0", "m 1.0.0", "n 1.0.0"], "and not what was the default before"
