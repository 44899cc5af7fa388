"""A version whose process dies, hangs or fills the memory: its request fails, and nobody else's."""

import asyncio
import os
import platform
import time
from collections import Counter

import grpc
import numpy as np
import psutil
import pytest
from onnx import TensorProto
from semver import Version

import onnx_models
from nested_models import CLAIMS
from onnx_models import scaled
from rollout_wire import CAREFREE, FINAL, TICK, clients, in_state, settled, start, until
from routing_wire import scrape
from rowwise_models import FLOAT, INT64, graph, node
from turnout.config import ModelOverrides, Runtime
from turnout.serving.isolation import backoff
from turnout.serving.versions.lifecycle import LifecycleState
from turnout_proto.v1 import catalog_pb2, catalog_pb2_grpc
from wire import X, outputs_of, refusal, request, stub_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="only x86 traps on an integer's overflow"),
]

ONE = Version(1, 0, 0)
INT64_MIN = -(2**63)
POISON = {"a": np.array([INT64_MIN]), "b": np.array([-1])}
GOOD = {"a": np.array([8]), "b": np.array([2])}


def zombies_of(pid: int) -> list[int]:
    """Returns the processes that `pid` started, that ended, and that it has not looked after."""
    return [child.pid for child in psutil.Process(pid).children() if child.status() == psutil.STATUS_ZOMBIE]


async def crash_message(stub, call) -> str:
    """Sends a request that ends the process which runs the model. Returns the message of the answer."""
    error = await refusal(stub.Predict(call))
    assert error.code is grpc.StatusCode.INTERNAL
    return error.message


def pool_of(server, model: str = "m"):
    entry = server.services.catalog.snapshot.models[model].versions[ONE]
    assert entry.handle is not None
    assert entry.handle.loaded is not None
    assert entry.handle.loaded.pool is not None
    return entry.handle.loaded.pool


@pytest.mark.parametrize(
    ("op_type", "element"),
    [
        ("Div", TensorProto.INT64),
        ("Div", TensorProto.INT32),
        ("Mod", TensorProto.INT64),
        ("Mod", TensorProto.INT32),
    ],
    ids=["Div-int64", "Div-int32", "Mod-int64", "Mod-int32"],
)
async def test_a_request_that_crashes_the_model_gets_an_error_and_the_next_an_answer(
    publish_model, start_server, op_type, element
) -> None:
    dtype = {TensorProto.INT64: np.int64, TensorProto.INT32: np.int32}[element]
    publish_model("m", "1.0.0", onnx_models.integer_division(op_type, element))
    server = await start_server()
    least = np.array([np.iinfo(dtype).min], dtype)
    async with stub_of(server) as stub:
        message = await crash_message(stub, request("m", request_id="bad-1", a=least, b=np.array([-1], dtype)))
        assert "SIGFPE" in message
        assert "bad-1" in message
        answer = await stub.Predict(request("m", a=np.array([9], dtype), b=np.array([4], dtype)))
    assert outputs_of(answer)["y"].tolist() == [2 if op_type == "Div" else 1]


@pytest.mark.parametrize("op_type", ["LSTM", "GRU"])
async def test_no_rows_for_a_recurrent_model_end_no_server(publish_model, start_server, op_type) -> None:
    publish_model("m", "1.0.0", onnx_models.recurrent(op_type))
    server = await start_server()
    async with stub_of(server) as stub:
        assert "SIGABRT" in await crash_message(stub, request("m", x=np.empty((3, 0, 2), np.float32)))
        answer = await stub.Predict(request("m", x=np.ones((3, 1, 2), np.float32)))
    assert outputs_of(answer)["y"].shape == (3, 1, 1, 2)


async def test_a_position_that_a_request_leaves_empty_ends_no_server(publish_model, start_server) -> None:
    steps = [
        node("NonZero", "x", "places"),
        node("Gather", "places first", "place", axis=0),
        node("SequenceConstruct", "x x", "both"),
        node("SequenceAt", "both place", "y"),
    ]
    proto = graph(steps, {"x": (FLOAT, [1, 1])}, {"y": (FLOAT, 2)}, {"first": np.array(0)})
    publish_model("m", "1.0.0", proto)
    server = await start_server()
    async with stub_of(server) as stub:
        error = await refusal(stub.Predict(request("m", x=np.zeros((1, 1), np.float32))))
        assert error.code is grpc.StatusCode.INTERNAL
        answer = await stub.Predict(request("m", x=np.ones((1, 1), np.float32)))
    np.testing.assert_array_equal(outputs_of(answer)["y"], np.ones((1, 1), np.float32))


@pytest.mark.parametrize("claim", CLAIMS)
async def test_rows_that_a_model_only_says_it_has_are_not_counted_on(publish_model, start_server, claim) -> None:
    publish_model("m", "1.0.0", CLAIMS[claim]())
    server = await start_server()
    async with stub_of(server) as stub:
        error = await refusal(stub.Predict(request("m", x=np.zeros((1, 0, 2), np.float32))))
        assert error.code is grpc.StatusCode.INTERNAL
        answer = await stub.Predict(request("m", x=np.ones((1, 3, 2), np.float32)))
    assert outputs_of(answer)["y"].shape == (1, 1, 3, 2)


async def test_a_rank_that_a_request_decides_ends_no_server(publish_model, start_server) -> None:
    steps = [node("Reshape", "x shape", "r", allowzero=1), node("Concat", "r z", axis=0)]
    takes = {"x": (FLOAT, ["n"]), "shape": (INT64, ["rank"]), "z": (FLOAT, ["m", 1, 1])}
    publish_model("m", "1.0.0", graph(steps, takes, {"y": (FLOAT, 3)}))
    server = await start_server()
    one = np.ones((1, 1, 1), np.float32)
    async with stub_of(server) as stub:
        assert "SIGABRT" in await crash_message(
            stub, request("m", x=np.empty(0, np.float32), shape=np.array([0]), z=one)
        )
        answer = await stub.Predict(request("m", x=np.ones(1, np.float32), shape=np.array([1, 1, 1]), z=one))
    assert outputs_of(answer)["y"].shape == (2, 1, 1)


async def test_an_empty_picture_that_is_normalised_ends_no_server(publish_model, start_server) -> None:
    """ONNX Runtime reads its first element, which has an address only if it comes from a request."""
    steps = [node("Relu", "x", "r"), node("InstanceNormalization", "r s b")]
    numbers = {"s": np.ones(2), "b": np.zeros(2)}
    publish_model("m", "1.0.0", graph(steps, {"x": (FLOAT, ["n", 2, "t"])}, {"y": (FLOAT, 3)}, numbers))
    server = await start_server()
    async with stub_of(server) as stub:
        error = await refusal(stub.Predict(request("m", x=np.empty((1, 2, 0), np.float32))))
        assert error.code is grpc.StatusCode.INTERNAL
        answer = await stub.Predict(request("m", x=np.ones((1, 2, 3), np.float32)))
    assert outputs_of(answer)["y"].tolist() == np.zeros((1, 2, 3)).tolist()


async def test_a_picture_smaller_than_a_window_ends_no_server(publish_model, start_server) -> None:
    """Nor does loading the version, which tries pictures of one pixel first."""
    publish_model("m", "1.0.0", onnx_models.pooled())
    server = await start_server()
    async with stub_of(server) as stub:
        assert "SIGFPE" in await crash_message(stub, request("m", x=np.ones((1, 3, 1, 8), np.float32)))
        answer = await stub.Predict(request("m", x=np.ones((1, 3, 8, 8), np.float32)))
    assert outputs_of(answer)["y"].shape == (1, 16, 3, 3)


@pytest.mark.parametrize("axes", [{"scan_input_axes": [1]}, {"scan_output_axes": [1]}], ids=["input", "output"])
async def test_an_empty_tensor_that_is_scanned_along_an_inner_axis_ends_no_server(
    publish_model, start_server, axes
) -> None:
    body = graph([node("Relu", "slice", "changed")], {"slice": (FLOAT, [None, None])}, {"changed": (FLOAT, 2)}).graph
    scan = node("Scan", "x", "y", body=body, num_scan_inputs=1, **axes)
    publish_model("m", "1.0.0", graph([scan], {"x": (FLOAT, ["n", 2, "t"])}, {"y": (FLOAT, 3)}))
    server = await start_server()
    async with stub_of(server) as stub:
        assert "SIGFPE" in await crash_message(stub, request("m", x=np.ones((2, 2, 0), np.float32)))
        answer = await stub.Predict(request("m", x=np.ones((1, 2, 3), np.float32)))
    assert outputs_of(answer)["y"].size == 6


async def test_no_rows_for_an_einsum_end_no_server(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", onnx_models.similarities())
    server = await start_server()
    q = np.ones((1, 2, 4), np.float32)
    async with stub_of(server) as stub:
        assert "SIGFPE" in await crash_message(stub, request("m", q=q[:0], k=np.ones((0, 3, 4), np.float32)))
        answer = await stub.Predict(request("m", q=q, k=q))
    np.testing.assert_array_equal(outputs_of(answer)["y"], np.full((1, 2, 2), 4, np.float32))


async def test_half_empty_inputs_of_an_operator_that_onnx_runtime_makes_end_no_server(
    publish_model, start_server
) -> None:
    publish_model("m", "1.0.0", onnx_models.normalized_sum())
    server = await start_server()
    full, none = np.ones((2, 3), np.int64), np.ones((0, 3), np.int64)
    async with stub_of(server) as stub:
        error = await refusal(stub.Predict(request("m", words=full, kinds=none)))
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert "inputs.words: expected 0 along axis 0, as inputs.kinds has, got 2" in error.message
        for size in (full, none):
            answer = await stub.Predict(request("m", words=size, kinds=size))
            assert outputs_of(answer)["y"].shape == (*size.shape, 8)


async def test_crashes_again_and_again_fail_no_other_request_of_any_version(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", onnx_models.integer_division())
    publish_model("other", "1.0.0", scaled(3))
    server = await start_server()

    def one(number: int):
        if number % 2:
            return request("other", x=X)
        return request("m", a=np.array([number]), b=np.array([2]))

    async with clients(server, one, count=8, pause=0.0) as seen, stub_of(server) as stub:
        errors = [
            await refusal(stub.Predict(request("m", request_id=f"bad-{number}", **POISON), timeout=30))
            for number in range(4)
        ]
    assert [t.code for t in errors] == [grpc.StatusCode.INTERNAL] * 4
    assert seen.codes == Counter()
    assert seen.answers["1.0.0"] > 30
    found = await scrape(server)
    assert found["turnout_isolated_restarts_total", "model=m", "version=1.0.0"] >= 4
    assert sum(v for k, v in found.items() if k[0] == "turnout_requests_total" and "code=INTERNAL" in k) == 4


async def test_what_shared_a_run_with_the_request_that_crashed_is_answered(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", onnx_models.integer_division())
    server = await start_server(
        batching={"max_delay_ms": 300, "only_where_it_pays": False}, runtime={"runners": 1, "processes": 1}
    )
    async with stub_of(server) as stub:
        calls = [stub.Predict(request("m", **(POISON if n == 3 else GOOD)), timeout=30) for n in range(8)]
        results = await asyncio.gather(*calls, return_exceptions=True)
    codes = [r.code() if isinstance(r, grpc.aio.AioRpcError) else grpc.StatusCode.OK for r in results]
    assert codes == [grpc.StatusCode.INTERNAL if n == 3 else grpc.StatusCode.OK for n in range(8)]


async def test_a_version_that_only_crashes_is_refused_while_it_backs_off(
    publish_model, start_server, monkeypatch
) -> None:
    monkeypatch.setattr(backoff, "_AT_ONCE", 0)
    monkeypatch.setattr(backoff, "_FIRST_SECONDS", 2.0)
    monkeypatch.setattr(backoff, "_MOST_ONCE_LOADED_SECONDS", 30.0)
    publish_model("m", "1.0.0", onnx_models.integer_division())
    server = await start_server(runtime={"processes": 1})
    async with stub_of(server) as stub:
        assert (await refusal(stub.Predict(request("m", **POISON)))).code is grpc.StatusCode.INTERNAL
        while (error := await refusal(stub.Predict(request("m", **POISON)))).code is not grpc.StatusCode.UNAVAILABLE:
            assert error.code is grpc.StatusCode.INTERNAL
        assert error.retry_after is not None
        assert 0 < error.retry_after <= 4.0
        async with asyncio.timeout(100):
            while True:
                try:
                    answer = await stub.Predict(request("m", **GOOD))
                    break
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017
                    await asyncio.sleep(0.05)
    assert outputs_of(answer)["y"].tolist() == [4]


async def test_a_run_that_hangs_is_ended_once_nobody_waits_for_it(publish_model, start_server, capsys) -> None:
    publish_model("m", "1.0.0", onnx_models.slow())
    server = await start_server(runtime={"processes": 1, "kill_after_s": 0.2})
    x = np.ones((1, 4), np.float32)
    key = ("turnout_isolated_restarts_total", "model=m", "version=1.0.0")
    async with stub_of(server) as stub:
        for seconds in (0.5, 5, 30):
            error = await refusal(stub.Predict(request("m", x=x, n=np.array(10**9)), timeout=seconds))
            assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
            answer = await stub.Predict(request("m", x=x, n=np.array(0)), timeout=60)
            assert outputs_of(answer)["y"].tolist() == [[1.0] * 4]
            if (await scrape(server))[key]:
                break  # or its time was over before it ran
        (pid,) = pool_of(server).pids
        before = sum(psutil.Process(pid).cpu_times()[:2])
        hanging = stub.Predict(request("m", x=x, n=np.array(10**9)))
        await settled(lambda: sum(psutil.Process(pid).cpu_times()[:2]) > before + 0.1)  # it runs
        hanging.cancel()
        answer = await stub.Predict(request("m", x=x, n=np.array(0)), timeout=30)
    assert outputs_of(answer)["y"].tolist() == [[1.0] * 4]
    assert (await scrape(server))[key] == 2
    logged = capsys.readouterr().err
    assert logged.count('"event": "child process ended"') == 2
    assert '"level": "error"' not in logged


async def test_a_run_that_meets_the_memory_limit_is_refused_and_the_next_answered(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", onnx_models.grows())
    server = await start_server(runtime={"memory_limit_bytes": "256MiB"})
    async with stub_of(server) as stub:
        error = await refusal(stub.Predict(request("m", x=X, n=np.array(2**28))))
        assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        answer = await stub.Predict(request("m", x=X, n=np.array(5)))
    assert outputs_of(answer)["y"].tolist() == X.tolist()
    assert pool_of(server).deaths == 0


async def test_a_version_that_crashes_on_all_made_up_inputs_harms_no_server_while_it_loads(
    publish_model, start_server
) -> None:
    publish_model("m", "1.0.0", onnx_models.always_crashes())
    publish_model("other", "1.0.0", scaled(3))
    began = time.monotonic()
    server = await start_server()
    assert time.monotonic() - began < 60
    entry = server.services.catalog.snapshot.models["m"].versions[ONE]
    assert entry.state is LifecycleState.READY
    assert entry.max_batch_rows == 0
    async with stub_of(server) as stub:
        assert (await refusal(stub.Predict(request("m", x=np.array([1]))))).code is grpc.StatusCode.INTERNAL
        assert outputs_of(await stub.Predict(request("other", x=X)))["y"].tolist() == (3 * X).tolist()


async def test_a_candidate_that_crashes_is_rolled_back_and_the_baseline_serves_on(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", onnx_models.divides_safely())
    publish_model("m", "1.1.0", onnx_models.divides(), release=False)
    server = await start_server(rollout=TICK)
    crash = {"x": np.array([[-(2**31)]], np.int32), "d": np.array([-1], np.int32)}
    async with clients(server, lambda _: request("m", **crash), timeout_s=300.0) as seen:
        await start(server, "1.1.0", CAREFREE | {"alpha": 0.4})  # each death counts once, and costs a process
        updates = await until(server, in_state(*FINAL))
    assert updates[-1].state == "rolled_back", updates[-1]
    assert "errors" in updates[-1].verdict
    assert set(seen.codes) <= {"INTERNAL", "UNAVAILABLE"}
    async with clients(server, lambda _: request("m", **crash)) as after:
        await settled(lambda: after.answers.total() > 20 or after.codes)
    assert set(after.answers) == {"1.0.0"}
    assert not after.codes


@pytest.mark.parametrize("how", ["written over", "replaced"])
async def test_no_process_is_started_of_files_that_are_not_what_was_published(
    publish_model, models, start_server, capsys, how
) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server(model={"m": ModelOverrides(runtime=Runtime(isolation="process"))})
    served = models / "m" / "1.0.0" / "model.onnx"
    async with stub_of(server) as stub:
        assert outputs_of(await stub.Predict(request("m", x=X)))["y"].tolist() == (2 * X).tolist()
        served.chmod(0o644)
        if how == "replaced":
            served.rename(served.with_suffix(".before"))
        served.write_bytes(scaled(3).SerializeToString())
        assert outputs_of(await stub.Predict(request("m", x=X)))["y"].tolist() == (2 * X).tolist(), "as it was loaded"
        for pid in pool_of(server).pids:
            psutil.Process(pid).kill()
        refused = None
        async with asyncio.timeout(100):
            while refused is None or refused.code is not grpc.StatusCode.DATA_LOSS:
                refused = await refusal(stub.Predict(request("m", x=X)))
        assert "model.onnx is not what was published" in refused.message
    assert pool_of(server).pids == []
    assert "it changed since the version was loaded" in capsys.readouterr().err


async def test_unloading_ends_the_processes_and_loading_starts_others(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", onnx_models.integer_division())
    server = await start_server()
    first = set(pool_of(server).pids)
    assert first
    assert all(map(psutil.pid_exists, first))
    manager = server.parts.serving.manager
    await manager.unload("m", ONE)
    assert not any(map(psutil.pid_exists, first))
    assert (await scrape(server)).get(("turnout_isolated_processes", "model=m", "version=1.0.0")) is None
    await manager.load("m", ONE)
    second = set(pool_of(server).pids)
    assert second
    assert not second & first
    async with stub_of(server) as stub:
        assert outputs_of(await stub.Predict(request("m", **GOOD)))["y"].tolist() == [4]


async def test_versions_come_and_go_beside_the_traffic_and_no_request_fails(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", onnx_models.integer_division())
    server = await start_server(runtime={"processes": 1})
    async with clients(server, lambda n: request("m", a=np.array([n]), b=np.array([2])), count=4) as seen:
        publish_model("m", "1.1.0", onnx_models.integer_division())
        async with asyncio.timeout(120):
            while not seen.answers["1.1.0"]:
                await asyncio.sleep(0.01)
            await server.parts.serving.manager.unload("m", ONE)
            before = seen.answers["1.1.0"]
            while seen.answers["1.1.0"] < before + 20:
                await asyncio.sleep(0.01)
    assert not seen.codes
    assert seen.answers["1.0.0"] > 0


async def test_no_descriptors_or_processes_are_left_of_children_that_died(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", onnx_models.integer_division())
    server = await start_server(runtime={"processes": 1})
    async with stub_of(server) as stub:
        for _ in range(2):
            await refusal(stub.Predict(request("m", **POISON)))
            await stub.Predict(request("m", **GOOD))
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            await refusal(stub.Predict(request("m", **POISON)))
            await stub.Predict(request("m", **GOOD))
        # Whatever else goes on in this process opens a file now and then.
        await settled(lambda: len(os.listdir("/proc/self/fd")) <= before, lambda: os.listdir("/proc/self/fd"), 20.0)
    pool = pool_of(server)
    assert pool.deaths == 5
    assert len(pool.pids) == 1
    await settled(lambda: not zombies_of(os.getpid()), lambda: zombies_of(os.getpid()), 20.0)


async def test_where_a_version_runs_and_why_is_told(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", onnx_models.integer_division())
    publish_model("plain", "1.0.0", scaled(1))
    publish_model("chosen", "1.0.0", scaled(1))
    publish_model("trusted", "1.0.0", onnx_models.integer_division())
    server = await start_server(
        model={
            "chosen": ModelOverrides(runtime=Runtime(isolation="process")),
            "trusted": ModelOverrides(runtime=Runtime(isolation="thread")),
        }
    )
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        listed = await catalog_pb2_grpc.CatalogServiceStub(channel).ListModels(catalog_pb2.ListModelsRequest())
    isolation = {model.name: model.versions[0].isolation for model in listed.models}
    assert isolation["m"].startswith("process (auto: Div (divide) is an integer division by b")
    assert isolation["plain"].startswith("thread (auto: ")
    assert isolation["chosen"] == "process (the configuration says so)"
    assert isolation["trusted"] == "thread (the configuration says so)"
    found = await scrape(server)
    assert found["turnout_isolated_restarts_total", "model=m", "version=1.0.0"] == 0
    assert found["turnout_isolated_processes", "model=m", "version=1.0.0"] >= 1
    assert ("turnout_isolated_restarts_total", "model=plain", "version=1.0.0") not in found
    memory = found["turnout_version_memory_bytes", "device=cpu", "model=m", "version=1.0.0"]
    assert memory > 20e6
    async with stub_of(server) as stub:
        assert outputs_of(await stub.Predict(request("chosen", x=X)))["y"].tolist() == X.tolist()


async def test_a_live_child_has_the_servers_own_priority(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", onnx_models.integer_division())
    server = await start_server()
    (pid,) = pool_of(server).pids
    assert os.sched_getscheduler(pid) == os.sched_getscheduler(0)
    assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0)


async def test_a_version_whose_process_cannot_load_it_leaves_nothing_behind(publish_model, start_server) -> None:
    unknown = graph(
        [node("Nope", "x", domain="nobody")], {"x": (FLOAT, ["n"])}, {"y": (FLOAT, 1)}, opset={"": 18, "nobody": 1}
    )
    publish_model("m", "1.0.0", unknown)
    server = await start_server()
    entry = server.services.catalog.snapshot.models["m"].versions[ONE]
    assert entry.state is LifecycleState.FAILED
    assert not server.parts.serving.manager._supervision.pools
