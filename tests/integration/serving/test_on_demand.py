"""Versions that requests have loaded: `load = "on_demand"`, and the memory budget that has them leave again."""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from semver import Version

from onnx_models import matmul, scaled
from routing_wire import policy, put
from turnout.config import Loading
from turnout.errors import ModelFailure
from turnout.serving.loading.loader import Loader
from turnout.serving.versions import manager as manager_module
from turnout.serving.versions.lifecycle import LifecycleState
from turnout_proto.oip import inference_pb2 as oip
from wire import X, channel_of, refusal, request, stub_of

S = LifecycleState
ON_DEMAND = {"m": {"load": "on_demand"}}
COLD = "not in memory: the first request for it loads it"
WIDE = np.ones((1, 256), np.float32)
SIZE = 256 * 1024
"""Bytes of the weights of `matmul(256)`, and a little less than its file has."""


def _states(server, model: str = "m") -> dict[str, str]:
    return {str(v): str(e.state) for v, e in server.services.catalog.snapshot.models[model].versions.items()}


def _in_memory(server, model: str = "m") -> set[str]:
    return {version for version, state in _states(server, model).items() if state == S.READY}


async def _until(server, condition) -> None:
    async with asyncio.timeout(120):
        await server.services.catalog.wait_for(lambda _: condition())


async def _answering(server, selector: str, x=X) -> str:
    async with stub_of(server) as stub:
        return (await stub.Predict(request("m", selector, x=x), timeout=60)).route.version


async def _metrics(server, name: str) -> dict[str, float]:
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"http://{server.http}/metrics")).text
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(name + "{")]
    return {labels.removeprefix(name): float(value) for labels, value in lines}


def _oip(channel, method, response):
    path = f"/inference.GRPCInferenceService/{method}"
    return channel.unary_unary(path, lambda message: message.SerializeToString(), response.FromString)


class Loads:
    """Counts the loads of versions and can hold them up, or have them fail; what loads is the real thing."""

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()
        self.failures: dict[str, Exception] = {}
        self.go_on = threading.Event()
        self.go_on.set()
        self._load = Loader.load

    def __call__(self, loader, published, *rest):
        version = str(published.manifest.version)
        self.begun[version] += 1
        assert self.go_on.wait(200)
        if version in self.failures:
            raise self.failures[version]
        return self._load(loader, published, *rest)


@pytest.fixture
def loads(monkeypatch) -> Iterator[Loads]:
    counted = Loads()
    monkeypatch.setattr(Loader, "load", lambda *given: counted(*given))
    yield counted
    counted.go_on.set()  # a test that failed leaves no thread that waits


@pytest.fixture
def weighed_by_files(monkeypatch) -> None:
    """Has each version take what its files do: what the process takes besides depends on what ran in it before."""
    monkeypatch.setattr("turnout.serving.loading.memory_growth.used_bytes", lambda device: 0)


async def test_what_answers_by_default_and_what_tags_name_is_loaded_and_the_rest_by_requests(
    publish_model, start_server
) -> None:
    for version in ("0.9.0", "1.0.0", "1.1.0", "2.0.0"):
        publish_model("m", version, scaled(1))
    publish_model("m", "2.1.0", scaled(1), release=False)
    server = await start_server(loading=Loading(load="on_demand"))
    await asyncio.to_thread(
        server.parts.rollouts.release_writer.set_tag, "m", "old", Version(0, 9), actor="test", reason=""
    )
    await server.parts.serving.manager.refresh()
    await _until(server, lambda: _in_memory(server) == {"0.9.0", "2.0.0"})
    assert await _answering(server, "1.0.0") == "1.0.0"
    assert await _answering(server, "^1") == "1.1.0"  # not 1.0.0, which happened to be in memory
    assert await _answering(server, "2.1.0") == "2.1.0"
    assert await _answering(server, "") == "2.0.0"
    assert _in_memory(server) == {"0.9.0", "1.0.0", "1.1.0", "2.0.0", "2.1.0"}
    assert await _metrics(server, "turnout_version_on_demand_loads_total") == {'{model="m",outcome="ready"}': 3.0}


async def test_many_first_requests_load_once_and_the_others_are_answered_meanwhile(
    publish_model, start_server, loads
) -> None:
    for version in ("1.0.0", "2.0.0"):
        publish_model("m", version, scaled(1))
    server = await start_server(model=ON_DEMAND)
    loads.go_on.clear()
    async with stub_of(server) as stub:
        first = [asyncio.ensure_future(stub.Predict(request("m", "1.0.0", x=X), timeout=60)) for _ in range(40)]
        await _until(server, lambda: _states(server)["1.0.0"] == S.LOADING)
        assert (await stub.Predict(request("m", "", x=X), timeout=60)).route.version == "2.0.0"
        async with asyncio.timeout(120):
            while (await _metrics(server, "turnout_version_waiting_requests")) != {'{model="m"}': 40.0}:
                pass
        loads.go_on.set()
        answers = await asyncio.gather(*first)
    assert {answer.route.version for answer in answers} == {"1.0.0"}
    assert loads.begun["1.0.0"] == 1


async def test_a_deadline_that_ends_first_is_told_and_the_load_goes_on(publish_model, start_server, loads) -> None:
    for version in ("1.0.0", "2.0.0"):
        publish_model("m", version, scaled(1))
    server = await start_server(model=ON_DEMAND)
    loads.go_on.clear()
    async with stub_of(server) as stub:
        for seconds in (0.3, 3, 30):
            refused = await refusal(stub.Predict(request("m", "1.0.0", x=X), timeout=seconds))
            assert refused.code is grpc.StatusCode.DEADLINE_EXCEEDED
            if loads.begun["1.0.0"]:
                break  # or the time was over before the server had the request
        loads.go_on.set()
        await _until(server, lambda: _states(server)["1.0.0"] == S.READY)  # nobody waits for it any more
        assert (await stub.Predict(request("m", "1.0.0", x=X), timeout=60)).route.version == "1.0.0"
    assert loads.begun["1.0.0"] == 1


async def test_no_more_wait_for_a_load_than_for_a_runner(publish_model, start_server, loads) -> None:
    for version in ("1.0.0", "2.0.0"):
        publish_model("m", version, scaled(1))
    server = await start_server(model={"m": {"load": "on_demand", "limits": {"max_queue_requests": 2}}})
    loads.go_on.clear()
    async with stub_of(server) as stub:
        calls = [asyncio.ensure_future(stub.Predict(request("m", "1.0.0", x=X), timeout=60)) for _ in range(3)]
        done, waiting = await asyncio.wait(calls, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        (refused,) = [await refusal(call) for call in done]
        loads.go_on.set()
        await asyncio.gather(*waiting)
    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.retry_after == 1.0
    assert "2 requests" in refused.message


async def test_a_request_larger_than_the_queue_is_let_in_if_nothing_else_waits(
    publish_model, start_server, loads
) -> None:
    for version in ("1.0.0", "2.0.0"):
        publish_model("m", version, scaled(1))
    server = await start_server(model={"m": {"load": "on_demand", "limits": {"max_queue_bytes": 1}}})
    loads.go_on.clear()
    async with stub_of(server) as stub:
        calls = [asyncio.ensure_future(stub.Predict(request("m", "1.0.0", x=X), timeout=60)) for _ in range(2)]
        done, waiting = await asyncio.wait(calls, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        (refused,) = [await refusal(call) for call in done]
        loads.go_on.set()
        (answered,) = await asyncio.gather(*waiting)
    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert answered.route.version == "1.0.0"


@pytest.mark.parametrize("tampered", [True, False], ids=["changed bytes", "cannot be loaded"])
async def test_a_load_that_fails_answers_with_its_reason_and_is_not_tried_at_once(
    publish_model, start_server, loads, models, tampered, monkeypatch
) -> None:
    for version in ("1.0.0", "2.0.0"):
        publish_model("m", version, scaled(1))
    server = await start_server(model=ON_DEMAND)
    path = models / "m" / "1.0.0" / "model.onnx"
    if tampered:
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-1])
    else:
        loads.failures["1.0.0"] = ModelFailure("no kernel for it")
    async with stub_of(server) as stub:
        calls = [stub.Predict(request("m", "1.0.0", x=X), timeout=60) for _ in range(8)]
        refused = [await refusal(call) for call in calls]
        refused.append(await refusal(stub.Predict(request("m", "1.0.0", x=X), timeout=60)))
        code = grpc.StatusCode.DATA_LOSS if tampered else grpc.StatusCode.FAILED_PRECONDITION
        assert {one.code for one in refused} == {code}
        assert all(("1.0.0" if tampered else "no kernel for it") in one.message for one in refused)
        await server.parts.serving.manager.refresh()
        assert loads.begun["1.0.0"] == 1
        assert server.services.ready
        monkeypatch.setattr("turnout.serving.versions.inventory._ON_DEMAND_RETRY_SECONDS", 0.0)
        loads.failures.clear()
        await server.parts.serving.manager.refresh()
        if tampered:  # no time mends that
            await refusal(stub.Predict(request("m", "1.0.0", x=X), timeout=60))
            assert loads.begun["1.0.0"] == 1
        else:
            assert await _answering(server, "1.0.0") == "1.0.0"


async def test_a_range_is_answered_by_another_version_if_the_one_that_it_waited_for_cannot_be_loaded(
    publish_model, start_server, loads
) -> None:
    for version in ("1.0.0", "1.1.0", "1.2.0", "2.0.0"):
        publish_model("m", version, scaled(1))
    loads.failures |= {"1.2.0": ModelFailure("no kernel for it"), "1.1.0": ModelFailure("no kernel either")}
    server = await start_server(model=ON_DEMAND)
    async with stub_of(server) as stub:
        answers = await asyncio.gather(*(stub.Predict(request("m", "^1", x=X), timeout=60) for _ in range(4)))
    assert {answer.route.version for answer in answers} == {"1.0.0"}
    assert loads.begun["1.2.0"] == loads.begun["1.1.0"] == loads.begun["1.0.0"] == 1


async def test_a_version_that_an_operator_loads_is_waited_for_like_any_other(
    publish_model, start_server, loads
) -> None:
    for version in ("1.0.0", "1.1.0", "2.0.0"):
        publish_model("m", version, scaled(1))
    server = await start_server(model=ON_DEMAND)
    loads.go_on.clear()
    operator = asyncio.create_task(server.parts.serving.manager.load("m", Version(1, 1)))
    await _until(server, lambda: _states(server)["1.1.0"] == S.LOADING)
    answers = [asyncio.create_task(_answering(server, selector)) for selector in ("1.1.0", "^1")]
    async with asyncio.timeout(120):
        while (await _metrics(server, "turnout_version_waiting_requests")) != {'{model="m"}': 2.0}:
            assert not any(answer.done() for answer in answers)
    loads.go_on.set()
    assert await asyncio.gather(*answers) == ["1.1.0", "1.1.0"]
    await operator
    assert _in_memory(server) == {"1.1.0", "2.0.0"}


async def test_requests_that_wait_for_a_version_that_is_yanked_get_what_later_ones_get(
    publish_model, start_server, loads
) -> None:
    for version in ("1.0.0", "1.1.0", "2.0.0"):
        publish_model("m", version, scaled(1))
    server = await start_server(model=ON_DEMAND)
    loads.go_on.clear()
    async with stub_of(server) as stub:
        ranges, pin = (asyncio.ensure_future(stub.Predict(request("m", of, x=X), timeout=60)) for of in ("^1", "1.1.0"))
        await _until(server, lambda: _states(server)["1.1.0"] == S.LOADING)
        yanked = server.parts.rollouts.release_writer.yank
        await asyncio.to_thread(yanked, "m", Version(1, 1), actor="test", reason="it leaks")
        await server.parts.serving.manager.refresh()
        loads.go_on.set()
        assert (await ranges).route.version == "1.0.0"
        assert (await refusal(pin)).message == "m 1.1.0 was yanked (it leaks); pins to it are refused"
    assert _in_memory(server) == {"1.0.0", "2.0.0"}


async def test_the_least_recently_used_leaves_where_the_budget_asks(
    publish_model, start_server, weighed_by_files
) -> None:
    for version in ("1.0.0", "1.1.0", "1.2.0", "2.0.0"):
        publish_model("m", version, matmul(256))
    loading = Loading(load="on_demand", memory_budget_bytes=int(3.5 * SIZE))
    server = await start_server(loading=loading)
    for version in ("1.0.0", "1.1.0", "1.0.0", "1.2.0"):
        assert await _answering(server, version, WIDE) == version
    assert _in_memory(server) == {"1.0.0", "1.2.0", "2.0.0"}
    assert await _answering(server, "1.1.0", WIDE) == "1.1.0"
    assert _in_memory(server) == {"1.1.0", "1.2.0", "2.0.0"}
    assert await _metrics(server, "turnout_version_evictions_total") == {'{model="m"}': 2.0}
    assert await _metrics(server, "turnout_version_memory_budget_bytes") == {'{device="cpu"}': int(3.5 * SIZE)}


async def test_what_does_not_fit_is_told_before_it_is_loaded(
    publish_model, start_server, loads, weighed_by_files
) -> None:
    publish_model("m", "1.0.0", matmul(512))
    publish_model("m", "2.0.0", matmul(256))
    server = await start_server(loading=Loading(load="on_demand", memory_budget_bytes=2 * SIZE))
    async with stub_of(server) as stub:
        wide = np.ones((1, 512), np.float32)
        refused = await refusal(stub.Predict(request("m", "1.0.0", x=wide), timeout=60))
        assert (await stub.Predict(request("m", "", x=WIDE), timeout=60)).route.version == "2.0.0"
    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.retry_after == 30.0
    assert "[loading] memory_budget_bytes = 524,288" in refused.message
    assert "m 2.0.0 has 262," in refused.message
    assert "the other loaded versions have to stay" in refused.message
    assert loads.begun["1.0.0"] == 0
    assert await _metrics(server, "turnout_version_evictions_total") == {}


async def test_what_operators_tags_policies_and_rollbacks_need_stays(
    publish_model, start_server, weighed_by_files
) -> None:
    for version in ("0.8.0", "0.9.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0", "2.0.0"):
        publish_model("m", version, matmul(256))
    server = await start_server(loading=Loading(load="on_demand", memory_budget_bytes=int(6.5 * SIZE)))
    manager, release_writer = server.parts.serving.manager, server.parts.rollouts.release_writer
    await manager.load("m", Version(1, 1))
    await asyncio.to_thread(release_writer.set_tag, "m", "old", Version(1, 2), actor="test", reason="")
    await manager.refresh()
    await _until(server, lambda: _in_memory(server) == {"1.1.0", "1.2.0", "2.0.0"})
    assert await _answering(server, "1.3.0", WIDE) == "1.3.0"
    await put(server, policy("2.0.0", v1_3_0=0.1))  # it was loaded on demand, and is a canary now
    await manager.refresh()
    needed = {"1.1.0", "1.2.0", "1.3.0", "1.4.0", "2.0.0"}  # a rollback would go back to 1.4.0
    await _until(server, lambda: _in_memory(server) == needed)
    for version in ("0.8.0", "0.9.0", "0.8.0"):
        assert await _answering(server, version, WIDE) == version
        assert _in_memory(server) == {*needed, version}


async def test_requests_and_evictions_race_and_no_request_fails(publish_model, start_server, weighed_by_files) -> None:
    cold = ("1.0.0", "1.1.0")
    for version in (*cold, "1.9.0", "2.0.0"):  # 1.9.0 is what a rollback would go back to: it stays once it is loaded
        publish_model("m", version, matmul(256))
    loading = Loading(load="on_demand", memory_budget_bytes=int(2.5 * SIZE), warmup_runs=0)
    server = await start_server(loading=loading, runtime={"inline_threshold_us": 0})
    answered: Counter[str] = Counter()

    async def ask(offset: int) -> None:
        for number in range(6):
            wanted = (*cold, "")[(number + offset) % 3]
            answered[await _answering(server, wanted, WIDE)] += 1

    await asyncio.gather(*map(ask, range(6)))
    assert answered == {"1.0.0": 12, "1.1.0": 12, "2.0.0": 12}
    (evictions,) = (await _metrics(server, "turnout_version_evictions_total")).values()
    assert evictions >= 2
    assert len(_in_memory(server)) <= 2


async def test_what_an_operator_unloads_stays_out_until_it_is_loaded(publish_model, start_server) -> None:
    for version in ("1.0.0", "2.0.0"):
        publish_model("m", version, scaled(1))
    server = await start_server(model=ON_DEMAND)
    assert await _answering(server, "1.0.0") == "1.0.0"
    await server.parts.serving.manager.unload("m", Version(1))
    async with stub_of(server) as stub:
        refused = await refusal(stub.Predict(request("m", "1.0.0", x=X), timeout=60))
    assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
    assert refused.message == "m 1.0.0 was unloaded"
    await server.parts.serving.manager.load("m", Version(1))
    assert await _answering(server, "1.0.0") == "1.0.0"


async def test_a_version_that_is_not_in_memory_is_told_as_such_and_counts_as_ready(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1), release=False)
    server = await start_server(model=ON_DEMAND)
    assert _states(server) == {"1.0.0": S.NEW}
    async with channel_of(server) as channel, httpx.AsyncClient(base_url=f"http://{server.http}") as http:
        ask_ready = _oip(channel, "ModelReady", oip.ModelReadyResponse)
        assert (await ask_ready(oip.ModelReadyRequest(name="m", version="1.0.0"))).ready
        ask_index = _oip(channel, "RepositoryIndex", oip.RepositoryIndexResponse)
        (listed,) = (await ask_index(oip.RepositoryIndexRequest())).models
        assert (listed.state, listed.reason) == ("UNAVAILABLE", COLD)
        health = health_pb2_grpc.HealthStub(channel)
        checked = await health.Check(health_pb2.HealthCheckRequest(service="model:m@1.0.0"))
        assert checked.status == health_pb2.HealthCheckResponse.SERVING
        assert (await http.get("/readyz")).status_code == 200
        assert (await http.get("/v2/models/m/versions/1.0.0/ready")).status_code == 200
        assert COLD in (await http.get("/console/models/m")).text
    (sample,) = await _metrics(server, "turnout_version_info")
    assert 'state="new"' in sample
    assert await _answering(server, "1.0.0") == "1.0.0"
    assert not server.services.catalog.snapshot.models["m"].versions[Version(1)].reason


async def test_a_server_that_was_started_anew_loads_on_demand_anew(publish_model, start_server) -> None:
    for version in ("1.0.0", "2.0.0"):
        publish_model("m", version, scaled(1))
    for _ in range(2):
        server = await start_server(model=ON_DEMAND)
        assert _in_memory(server) == {"2.0.0"}
        assert await _answering(server, "1.0.0") == "1.0.0"


async def test_a_version_is_loaded_on_the_gpu_with_least_in_memory(
    publish_model, start_server, monkeypatch, weighed_by_files
) -> None:
    """Which GPUs there are is told; what is loaded for them is loaded on the CPU here, and its settings looked at."""
    sizes = {"1.0.0": 512, "2.0.0": 256, "2.1.0": 256, "3.0.0": 64}
    for version, size in sizes.items():
        publish_model("m", version, matmul(size))
    placed: dict[str, tuple[int, ...]] = {}

    def devices_of(runtime):
        return [f"cuda:{number}" for number in runtime.device_ids]

    def load(loader, published, settings, *rest):
        placed[str(published.manifest.version)] = settings.runtime.device_ids
        loaded = load_on_cpu(loader, published, settings, *rest)
        memory = dict.fromkeys(devices_of(settings.runtime), published.manifest.size)
        return replace(loaded, memory_bytes=memory)

    load_on_cpu = Loader.load
    monkeypatch.setattr(manager_module, "devices_of", devices_of)
    monkeypatch.setattr(Loader, "load", load)
    runtime = {"device_ids": [0, 1], "gpus_per_version": 1}
    budget = 4 * SIZE + SIZE // 2
    loading = Loading(load="on_demand", gpu_memory_budget_bytes=budget)
    server = await start_server(runtime=runtime, loading=loading)
    for version in ("1.0.0", "2.0.0", "2.1.0"):
        assert await _answering(server, version, np.ones((1, sizes[version]), np.float32)) == version
    # 3.0.0 answers by default; 1.0.0 is larger than the others together.
    assert placed == {"3.0.0": (0,), "1.0.0": (1,), "2.0.0": (0,), "2.1.0": (0,)}
    assert await _metrics(server, "turnout_version_memory_budget_bytes") == {
        '{device="cuda:0"}': budget,
        '{device="cuda:1"}': budget,
    }


async def test_what_is_in_use_is_waited_for_and_for_no_longer_than_is_said(
    publish_model, start_server, weighed_by_files, monkeypatch
) -> None:
    for version in ("1.0.0", "1.1.0", "1.9.0", "2.0.0"):
        publish_model("m", version, matmul(256))
    server = await start_server(loading=Loading(load="on_demand", memory_budget_bytes=int(2.5 * SIZE)))
    assert await _answering(server, "1.0.0", WIDE) == "1.0.0"
    handle = server.services.catalog.snapshot.models["m"].versions[Version(1)].handle
    with handle.lease():
        waiting = asyncio.create_task(_answering(server, "1.1.0", WIDE))
        await _until(server, lambda: _states(server)["1.1.0"] == S.LOADING)
        assert _states(server)["1.0.0"] == S.READY
    assert await waiting == "1.1.0"
    assert _states(server)["1.0.0"] == S.UNLOADED
    monkeypatch.setattr("turnout.serving.loading.memory_room.WAIT_SECONDS", 0.0)
    handle = server.services.catalog.snapshot.models["m"].versions[Version(1, 1)].handle
    with handle.lease():
        async with stub_of(server) as stub:
            refused = await refusal(stub.Predict(request("m", "1.0.0", x=WIDE), timeout=60))
    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "the versions that could be evicted are in use" in refused.message
    assert _in_memory(server) == {"1.1.0", "2.0.0"}
