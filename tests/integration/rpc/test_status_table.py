"""Every row of the status table (docs/architecture.md), on a real server."""

import asyncio
import re

import grpc
import numpy as np
import pytest
import pytest_asyncio
from semver import Version

from held import held_loads, held_runs
from onnx_models import adds_two, gather, look_up, scaled, slow
from turnout.config import ModelOverrides, QueueLimits, Runtime
from turnout_proto.v1 import prediction_pb2 as pb
from wire import X, refusal, request, stub_of

pytestmark = pytest.mark.both_transports

Code = grpc.StatusCode
LONG = np.int64(2)
"""Rounds of the slow model, and the least of others: requests of one number would run together."""

one_server = pytest.mark.asyncio(loop_scope="module")
"""Of tests that change nothing on the server which they share."""

ONE_RUNNER = Runtime(runners=1, inline_threshold_us=0)


@pytest.fixture(scope="module")
def all_models(publish_for_module) -> None:
    publish_for_module("released", "1.0.0", scaled(1))
    publish_for_module("m", "1.0.0", scaled(1), release=False)
    publish_for_module("look-up", "1.0.0", look_up())
    publish_for_module("adds", "1.0.0", adds_two())
    publish_for_module("gather", "1.0.0", gather())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(all_models, start_server_for_module):
    server = await start_server_for_module()
    await asyncio.to_thread(
        server.parts.rollouts.release_writer.set_tag, "m", "stable", Version(1, 0, 0), actor="test", reason=""
    )
    await server.parts.serving.manager.refresh()
    return server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stub(server):
    async with stub_of(server) as stub:
        yield stub


@one_server
@pytest.mark.parametrize(
    "selector", ["^^1", "1.2.3.4", ">=", "sha256:12", "a b", "../x", "x" * 300, "Stable", "01.2.3"]
)
async def test_a_malformed_selector_is_invalid_and_the_field_is_named(stub, selector) -> None:
    refused = await refusal(stub.Predict(request("released", selector, x=X)))
    assert refused.code is Code.INVALID_ARGUMENT
    assert refused.fields == ("version",)


@one_server
@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        ({}, "inputs.x"),
        ({"x": X, "z": X}, "inputs.z"),
        ({"x": X.astype(np.float64)}, "inputs.x"),
        ({"x": X[0]}, "inputs.x"),
        ({"x": np.zeros((1, 5), np.float32)}, "inputs.x"),
    ],
    ids=["missing", "unknown", "dtype", "rank", "fixed dimension"],
)
async def test_an_input_that_does_not_fit_is_invalid_with_expected_and_got(stub, inputs, field) -> None:
    refused = await refusal(stub.Predict(request("released", **inputs)))
    assert refused.code is Code.INVALID_ARGUMENT
    assert field in refused.fields
    assert "expected" in refused.message


@one_server
async def test_a_wrong_byte_length_is_invalid(stub) -> None:
    broken = request("released", x=X)
    broken.inputs[0].raw = broken.inputs[0].raw[:-1]
    refused = await refusal(stub.Predict(broken))
    assert refused.code is Code.INVALID_ARGUMENT
    assert refused.fields == ("inputs[0].raw",)


@one_server
async def test_an_unknown_output_is_invalid(stub) -> None:
    refused = await refusal(stub.Predict(request("released", outputs=["q"], x=X)))
    assert (refused.code, refused.fields) == (Code.INVALID_ARGUMENT, ("outputs.q",))


@one_server
@pytest.mark.parametrize(
    ("model", "selector", "named"),
    [
        ("mm", "", "m"),
        ("m", "1.9.0", "1.0.0"),
        ("m", "^2", "1.0.0"),
        ("m", "stabel", "stable"),
        ("m", "latest", "1.0.0"),
    ],
    ids=["model", "version", "range", "tag", "latest"],
)
async def test_what_does_not_exist_is_not_found_and_the_nearest_is_named(stub, model, selector, named) -> None:
    refused = await refusal(stub.Predict(request(model, selector, x=X)))
    assert refused.code is Code.NOT_FOUND
    assert named in refused.message


async def test_a_known_version_that_is_not_loaded_is_a_failed_precondition(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "2.0.0", scaled(2))
    server = await start_server(model={"m": ModelOverrides(load="latest:1")})
    async with stub_of(server) as stub:
        refused = await refusal(stub.Predict(request("m", "1.0.0", x=X)))
        answer = await stub.Predict(request("m", x=X))
    assert refused.code is Code.FAILED_PRECONDITION
    assert answer.route.version == "2.0.0"


async def test_a_version_that_loads_is_unavailable_with_a_time_to_try_again(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    with held_loads():
        async with stub_of(await start_server(wait=False)) as stub:
            refused = await refusal(stub.Predict(request("m", "1.0.0", x=X)))
    assert refused.code is Code.UNAVAILABLE
    assert refused.retry_after


async def test_a_draining_server_is_unavailable_with_a_time_to_try_again(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await start_server()
    async with stub_of(server) as stub:
        server.admission.stop()
        refused = await refusal(stub.Predict(request("m", x=X)))
    assert refused.code is Code.UNAVAILABLE
    assert refused.retry_after


async def test_a_queue_full_by_requests_refuses_with_a_time_to_try_again(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", slow())
    limits = QueueLimits(max_queue_requests=2)
    server = await start_server(model={"m": ModelOverrides(runtime=ONE_RUNNER, limits=limits)})
    async with stub_of(server) as stub:
        with held_runs(server, "m"):
            calls = [asyncio.ensure_future(stub.Predict(request("m", x=X, n=LONG + i))) for i in range(6)]
            async with asyncio.timeout(100):
                while sum(call.done() for call in calls) < 3:
                    await asyncio.sleep(0.001)
        refused = [outcome for outcome in await asyncio.gather(*calls, return_exceptions=True) if _is_error(outcome)]
    assert 3 <= len(refused) <= 4  # one runs or is about to, two wait
    assert {error.code() for error in refused} == {Code.RESOURCE_EXHAUSTED}


async def test_a_queue_full_by_bytes_refuses(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", slow())
    limits = QueueLimits(max_queue_bytes=3000)
    server = await start_server(model={"m": ModelOverrides(runtime=ONE_RUNNER, limits=limits)})
    rows = np.zeros((100, 4), np.float32)
    async with stub_of(server) as stub:
        with held_runs(server, "m"):
            running = [stub.Predict(request("m", x=rows, n=LONG))]
            await _wait_until_it_runs(server)
            running.append(stub.Predict(request("m", x=rows, n=LONG + 1)))
            await _wait_for_queue(server, 1)
            refused = await refusal(stub.Predict(request("m", x=rows, n=LONG)))
        await asyncio.gather(*running)
    assert refused.code is Code.RESOURCE_EXHAUSTED
    assert "bytes" in refused.message
    assert refused.retry_after


async def test_a_deadline_that_passes_in_the_queue_is_never_computed(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", slow())
    server = await start_server(model={"m": ModelOverrides(runtime=ONE_RUNNER)})
    async with stub_of(server) as stub:
        with held_runs(server, "m"):
            busy = stub.Predict(request("m", x=X, n=LONG))
            await _wait_until_it_runs(server)
            late = await refusal(stub.Predict(request("m", x=X, n=np.int64(1)), timeout=0.5))
            await _wait_for_queue(server, 0)
        await busy
    assert late.code is Code.DEADLINE_EXCEEDED
    await _wait_for_inflight(server, 0)
    assert _handle(server).recorder.batches.runs == 1


async def test_a_cancelled_request_leaves_the_queue(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", slow())
    server = await start_server(model={"m": ModelOverrides(runtime=ONE_RUNNER)})
    async with stub_of(server) as stub:
        with held_runs(server, "m"):
            busy = stub.Predict(request("m", x=X, n=LONG))
            await _wait_until_it_runs(server)
            waiting = stub.Predict(request("m", x=X, n=np.int64(1)))
            await _wait_for_queue(server, 1)
            waiting.cancel()
            await _wait_for_queue(server, 0)
        await busy
    assert _handle(server).recorder.batches.runs == 1


async def test_changed_bytes_are_data_loss_and_the_rest_is_served(publish_model, start_server, models) -> None:
    publish_model("m", "1.0.0", scaled(1))
    publish_model("m", "2.0.0", scaled(2))
    path = models / "m" / "2.0.0" / "model.onnx"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    async with stub_of(await start_server()) as stub:
        refused = await refusal(stub.Predict(request("m", "2.0.0", x=X)))
        answer = await stub.Predict(request("m", "^1", x=X))
    assert refused.code is Code.DATA_LOSS
    assert str(models) not in refused.message
    assert answer.route.version == "1.0.0"


@one_server
async def test_a_failure_inside_the_model_is_internal_with_a_request_id_and_no_path(stub) -> None:
    refused = await refusal(stub.Predict(request("look-up", request_id="r-7", index=np.array([900]))))
    answer = await stub.Predict(request("look-up", index=np.array([1])))
    assert refused.code is Code.INTERNAL
    assert "r-7" in refused.message
    assert not re.search(r"/|Traceback|\.py|\.cc", refused.message)
    assert answer.outputs


@pytest.mark.parametrize("quick", [True, False], ids=["inline", "queued"])
async def test_sizes_that_do_not_go_together_are_invalid_and_the_inputs_are_named(
    publish_model, start_server, models, quick
) -> None:
    publish_model("m", "1.0.0", adds_two())
    async with stub_of(await start_server(runtime=Runtime() if quick else ONE_RUNNER)) as stub:
        refused = await refusal(stub.Predict(request("m", a=np.ones(2, np.float32), b=np.ones(3, np.float32))))
        answer = await stub.Predict(request("m", a=np.ones(2, np.float32), b=np.ones(1, np.float32)))
    assert refused.code is Code.INVALID_ARGUMENT
    assert refused.fields == ("inputs.b",)
    assert "expected n = 2, as inputs.a has it, got 3" in refused.message
    assert "broadcast" in refused.message
    assert answer.outputs, "what the model can run on is answered, whatever the symbols say"


@pytest.mark.parametrize("quick", [True, False], ids=["inline", "queued"])
async def test_what_onnx_runtime_calls_invalid_is_the_callers_with_its_sentence(
    publish_model, start_server, quick
) -> None:
    publish_model("m", "1.0.0", gather())
    async with stub_of(await start_server(runtime=Runtime() if quick else ONE_RUNNER)) as stub:
        refused = await refusal(stub.Predict(request("m", index=np.array([900]))))
    assert refused.code is Code.INVALID_ARGUMENT
    assert refused.fields == ("inputs",)
    assert "Gather node: indices element out of data bounds, idx=900" in refused.message


async def test_a_message_past_the_bound_is_refused(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(1))
    server = await start_server(limits={"max_message_bytes": 100_000})
    async with stub_of(server) as stub:
        refused = await refusal(stub.Predict(request("m", x=np.zeros((10_000, 4), np.float32))))
        assert (await stub.Predict(request("m", x=X))).outputs
    assert refused.code is Code.RESOURCE_EXHAUSTED


def _is_error(outcome: pb.PredictResponse | BaseException) -> bool:
    return isinstance(outcome, grpc.aio.AioRpcError)


def _handle(server):
    return server.services.catalog.snapshot.models["m"].versions[Version(1, 0, 0)].handle


async def _wait_until_it_runs(server) -> None:
    """Waits until the one request that was sent has left the queue for a runner."""
    await _wait_for_inflight(server, 1)
    await _wait_for_queue(server, 0)


async def _wait_for_queue(server, depth: int) -> None:
    async with asyncio.timeout(100):
        while _handle(server).queue_depth != depth:
            await asyncio.sleep(0.001)


async def _wait_for_inflight(server, count: int) -> None:
    async with asyncio.timeout(100):
        while _handle(server).inflight != count:
            await asyncio.sleep(0.001)
