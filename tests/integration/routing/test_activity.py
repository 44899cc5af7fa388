"""`ControlService.GetActivity`: what versions do, in counters."""

import httpx
import numpy as np
from semver import Version

from onnx_models import scaled
from rollout_wire import TICK, start
from routing_wire import control_of, policy, put
from turnout_proto.v1 import activity_pb2 as pb
from turnout_proto.v1.catalog_pb2 import Standing, VersionState
from wire import X, refusal, request, stub_of


async def activity(server) -> pb.GetActivityResponse:
    async with control_of(server) as control:
        return await control.GetActivity(pb.GetActivityRequest())


def by_version(activity: pb.GetActivityResponse) -> dict[str, pb.VersionActivity]:
    return {version.version: version for version in activity.versions}


async def test_requests_failures_and_latencies_are_counted_by_version_and_role(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "2.0.0", scaled(2))
    server = await start_server()
    async with stub_of(server) as stub:
        for _ in range(3):
            await stub.Predict(request("m", x=X))
        await stub.Predict(request("m", "1.0.0", x=X))
        await refusal(stub.Predict(request("m", x=X.astype(np.float64))))
        await refusal(stub.Predict(request("nobody", x=X)))
    answer = await activity(server)

    versions = by_version(answer)
    (default,) = versions["2.0.0"].roles
    (pinned,) = versions["1.0.0"].roles
    assert (default.role, default.requests, default.failures, default.weight) == ("baseline", 4, 1, 1.0)
    assert (pinned.role, pinned.requests, pinned.failures, pinned.weight) == ("pinned", 1, 0, 0.0)
    assert sum(default.latency) == 4
    assert len(default.latency) == len(answer.latency_bounds) + 1
    assert answer.unrouted == 1
    assert not answer.draining


async def test_weights_states_and_shadows_are_told(publish_model, start_server) -> None:
    for number in ("1.0.0", "1.1.0", "1.2.0", "1.3.0"):
        publish_model("m", number, scaled(1), release=number == "1.0.0")
    server = await start_server()
    await server.parts.serving.manager.unload("m", Version.parse("1.3.0"))
    await put(server, policy("1.0.0", {"1.2.0": 0.5}, v1_1_0=0.25))

    versions = by_version(await activity(server))

    weights = {v: {r.role: round(r.weight, 3) for r in versions[v].roles} for v in versions}
    assert weights == {
        "1.0.0": {"baseline": 0.75},
        "1.1.0": {"canary": 0.25},
        "1.2.0": {"shadow": 0.5},
        "1.3.0": {},
    }
    assert versions["1.3.0"].state == VersionState.VERSION_STATE_UNLOADED
    assert (versions["1.1.0"].standing, versions["1.0.0"].standing) == (
        Standing.STANDING_CANDIDATE,
        Standing.STANDING_RELEASED,
    )


async def test_rollouts_that_run_are_told(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "1.1.0", scaled(1), release=False)
    server = await start_server(rollout=TICK)
    await start(server, "1.1.0", {"steps": [{"weight": 0.4, "soak_s": 600.0}], "step_deadline_s": 1000.0})

    (rollout,) = (await activity(server)).rollouts

    assert (rollout.model, rollout.candidate, rollout.previous) == ("m", "1.1.0", "1.0.0")
    assert rollout.threshold > 1


async def test_asking_is_no_scrape_and_leaves_prometheus_its_grace(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "2.0.0", scaled(2))
    server = await start_server()
    async with stub_of(server) as stub:
        await stub.Predict(request("m", x=X))
    await server.parts.serving.manager.unload("m", Version(2))
    first = await activity(server)
    for _ in range(5):
        later = await activity(server)
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"http://{server.http}/metrics")).text

    assert 'turnout_requests_total{code="OK",model="m",role="baseline",version="2.0.0"}' in text
    assert first.process == later.process
    assert first.seconds < later.seconds
