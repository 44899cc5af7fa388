"""What the metrics say of the server as a whole: loads, epochs, queues, memory, rollouts that stand still."""

import asyncio
import time
from contextlib import AsyncExitStack

import httpx
import numpy as np
import pytest
from grpc import StatusCode
from semver import Version

import rollout_wire
from onnx_models import adds_count, matmul, scaled, slow
from ports import free_port
from routing_wire import policy, put, scrape
from turnout.config import Address, BatchingSettings, Limits, Loading, Runtime
from turnout.rollout.machine.attempt import RolloutState
from turnout.telemetry.metrics.server import LoadOutcome
from turnout_proto.v1 import rollout_pb2
from wire import X, request, stub_of


def samples(metrics, name: str) -> dict[tuple[str, ...], float]:
    """The samples of one family, by their labels."""
    return {key[1:]: value for key, value in metrics.items() if key[0] == name}


async def test_every_model_shows_its_epoch_and_each_change_of_traffic_moves_it(publish_model, start_server) -> None:
    for version in ("1.0.0", "1.1.0"):
        publish_model("m", version, scaled(1))
    publish_model("untouched", "1.0.0", scaled(1))
    server = await start_server()
    assert samples(await scrape(server), "turnout_policy_epoch") == {("model=m",): 0, ("model=untouched",): 0}
    await put(server, policy("1.0.0", v1_1_0=0.1))
    await put(server, policy("1.0.0", v1_1_0=0.2))
    assert samples(await scrape(server), "turnout_policy_epoch") == {("model=m",): 2, ("model=untouched",): 0}


async def test_outcomes_and_verdicts_are_at_zero_before_the_first_so_that_it_is_an_increase(
    publish_model, start_server
) -> None:
    publish_model("m", "1.0.0", scaled(1))
    metrics = await scrape(await start_server())
    assert samples(metrics, "turnout_version_loads_total") == {
        ("model=m", f"outcome={outcome}"): float(outcome is LoadOutcome.READY) for outcome in LoadOutcome
    }
    assert samples(metrics, "turnout_rollout_verdicts_total") == {
        ("model=m", f"verdict={state}"): 0 for state in RolloutState if state.final
    }


async def test_a_version_in_the_policy_shows_its_role_before_its_first_request(publish_model, start_server) -> None:
    for version in ("1.0.0", "1.1.0"):
        publish_model("m", version, scaled(1))
    server = await start_server()
    await put(server, policy("1.0.0", v1_1_0=0.1))
    counted = samples(await scrape(server), "turnout_requests_total")
    codes = ("OK", "INTERNAL", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")
    assert counted == {
        (f"code={code}", "model=m", f"role={role}", f"version={version}"): 0
        for role, version in (("baseline", "1.0.0"), ("canary", "1.1.0"))
        for code in codes
    }


async def test_a_version_whose_bytes_changed_is_shown_as_such_until_they_are_back(
    publish_model, start_server, models
) -> None:
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "2.0.0", scaled(2))
    file = models / "m" / "2.0.0" / "model.onnx"
    published = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(published[:-1] + b"!")
    server = await start_server()
    metrics = await scrape(server)
    assert samples(metrics, "turnout_version_failed") == {("model=m", "reason=digest_mismatch", "version=2.0.0"): 1}
    assert samples(metrics, "turnout_version_loads_total")["model=m", "outcome=digest_mismatch"] == 1
    file.write_bytes(published)
    await server.parts.serving.manager.load("m", Version(2))
    metrics = await scrape(server)
    assert samples(metrics, "turnout_version_failed") == {}
    assert samples(metrics, "turnout_version_loads_total")["model=m", "outcome=ready"] == 2


async def test_a_version_whose_manifest_is_damaged_is_shown_as_changed_too(publish_model, start_server, models) -> None:
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "2.0.0", scaled(2))
    manifest = models / "m" / "2.0.0" / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_bytes(manifest.read_bytes()[:-10])
    metrics = await scrape(await start_server())
    assert samples(metrics, "turnout_version_failed") == {("model=m", "reason=digest_mismatch", "version=2.0.0"): 1}


async def test_a_load_that_a_setting_forbids_is_told_from_a_changed_file(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await start_server(runtime=Runtime(providers=["tensorrt"]))
    metrics = await scrape(server)
    assert samples(metrics, "turnout_version_failed") == {("model=m", "reason=config", "version=1.0.0"): 1}


async def test_a_full_queue_is_shown_as_full(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", slow())
    server = await start_server(limits=Limits(max_queue_requests=2), runtime=Runtime(runners=1))
    long = {"x": X, "n": np.array(300_000)}
    async with stub_of(server) as stub:
        calls = []

        async def refused_while_full() -> None:
            """Sends one more than there is room for, time and again: where a scrape takes long, another has ended."""
            full = False
            while not full or not [c for c in calls if c.done() and await c.code() is StatusCode.RESOURCE_EXHAUSTED]:
                full |= samples(await scrape(server), "turnout_queue_fill_ratio")["model=m", "version=1.0.0"] == 1
                under_way = sum(not call.done() for call in calls)
                calls.extend(stub.Predict(request("m", **long)) for _ in range(3 + full - under_way))
                await asyncio.sleep(0.01)

        await asyncio.wait_for(refused_while_full(), 60)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def test_memory_is_shown_beside_its_limit(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    metrics = await scrape(await start_server())
    used, limit = (metrics[f"turnout_memory_{what}_bytes", "device=cpu"] for what in ("used", "limit"))
    assert 2**20 < used < limit


async def test_a_rollout_that_stands_still_shows_why(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", adds_count())
    publish_model("m", "1.1.0", adds_count(), release=False)
    server = await start_server(rollout=rollout_wire.TICK)
    await rollout_wire.start(server, "1.1.0")
    assert samples(await scrape(server), "turnout_rollout_paused") == {}
    await rollout_wire.command(server, rollout_pb2.ROLLOUT_COMMAND_PAUSE, actor="ann", reason="lunch")
    paused = samples(await scrape(server), "turnout_rollout_paused")
    assert paused == {("model=m", "reason_kind=operator", "version=1.1.0"): 1}
    assert "lunch" not in str(paused)
    await rollout_wire.command(server, rollout_pb2.ROLLOUT_COMMAND_RESUME, actor="ann")
    assert samples(await scrape(server), "turnout_rollout_paused") == {}


@pytest.mark.slow
async def test_a_scrape_of_100_versions_is_under_5_mb_and_250_ms_and_shrinks_when_they_are_unloaded(
    publish_model, start_server
) -> None:
    for number in range(100):
        publish_model("m", f"1.{number}.0", matmul(4, seed=number), release=number == 99)
    server = await start_server(batching=BatchingSettings(enabled=False), loading=Loading(warmup_runs=0))
    x = np.ones((1, 4), np.float32)
    async with stub_of(server) as stub:
        for number in range(100):
            await stub.Predict(request("m", f"1.{number}.0", x=x))
        await stub.Predict(request("m", x=x))
    text = await server_text(server)
    assert text.count(b'turnout_request_duration_seconds_count{model="m"') == 101  # pinned, and one as the baseline too
    assert len(text) < 5_000_000
    took = []
    while len(took) < 5 and (not took or min(took) >= 0.25):
        begun = time.process_time()
        await server_text(server)
        took.append(time.process_time() - begun)
    assert min(took) < 0.25  # of a core, whatever runs beside it; benchmarks/tables/scrape.py has the time by the clock
    for number in range(99):
        await server.parts.serving.manager.unload("m", Version(1, number))
    grace = [await server_text(server) for _ in range(3)]
    assert [scraped.count(b'turnout_request_duration_seconds_count{model="m"') for scraped in grace] == [101, 101, 2]
    assert grace[-1].count(b'version="1.0.0"') == 1  # what is left says that it is known: turnout_version_info
    assert len(grace[-1]) < len(text) / 10


async def server_text(server) -> bytes:
    async with httpx.AsyncClient() as client:
        return (await client.get(f"http://{server.http}/metrics", timeout=100)).content


@pytest.mark.parametrize("one_port", [False, True])
async def test_connections_are_counted_beside_their_limit(start_server, one_port) -> None:
    address = Address("127.0.0.1", free_port())
    ports = {"grpc": address, "http": address} if one_port else {}
    server = await start_server(limits=Limits(max_connections=7), transport={"data": "h2corn"}, **ports)
    async with AsyncExitStack() as stack:
        for listener, count in ((server.grpc, 3), (server.control, 1)):
            for _ in range(count):
                _, writer = await asyncio.open_connection(listener.host, listener.port)
                stack.callback(writer.close)
        async with asyncio.timeout(60):
            while samples(metrics := await scrape(server), "turnout_connections") != (
                {("listener=grpc",): 4, ("listener=control",): 1}
                if one_port
                else {("listener=grpc",): 3, ("listener=http",): 1, ("listener=control",): 1}
            ):
                await asyncio.sleep(0.01)
    named = ("grpc",) if one_port else ("grpc", "http")
    assert samples(metrics, "turnout_connections_limit") == {(f"listener={name}",): 7 for name in named}
