"""The Open Inference Protocol on a real server, where tritonclient cannot show it: details, bounds, malformed bytes.

What clients see otherwise is in tests/e2e/clients/test_tritonclient.py.
"""

import asyncio

import grpc
import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from held import held_runs
from onnx_models import scaled, slow
from turnout.app.server import Running
from turnout.config import Limits, Runtime
from turnout.rpc.oip.service import SERVICE_NAME
from turnout_proto.oip import inference_pb2 as pb
from wire import X, refusal

pytestmark = pytest.mark.both_transports

CALLERS_FAULT = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED}

THREADS = Runtime(inline_threshold_us=0, runners=1)
LONG = 20_000
"""Rounds of the slow model: about a sixth of a second."""


class Stub:
    """Calls the service as its clients do: by its wire name."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.infer = channel.unary_unary(
            f"/{SERVICE_NAME}/ModelInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelInferResponse.FromString,
        )
        self.raw_infer = channel.unary_unary(f"/{SERVICE_NAME}/ModelInfer")
        self.raw_ready = channel.unary_unary(f"/{SERVICE_NAME}/ModelReady")
        self.stream = channel.stream_stream(
            f"/{SERVICE_NAME}/ModelStreamInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelStreamInferResponse.FromString,
        )
        self.raw_stream = channel.stream_stream(
            f"/{SERVICE_NAME}/ModelStreamInfer", None, pb.ModelStreamInferResponse.FromString
        )


@pytest.fixture
async def oip(start_server):
    """Starts a server and opens a channel to it; returns both."""
    channels = []

    async def connect(**settings) -> tuple[Running, Stub]:
        server = await start_server(**settings)
        channel = grpc.aio.insecure_channel(str(server.grpc))
        channels.append(channel)
        return server, Stub(channel)

    yield connect
    for channel in channels:
        await channel.close()


def request(model: str, version: str = "", **more) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name=model, model_version=version, **more)
    made.inputs.add(name="x", datatype="FP32", shape=X.shape)
    made.raw_input_contents.append(X.tobytes())
    return made


def slow_request(rounds: int, request_id: str = "") -> pb.ModelInferRequest:
    made = request("slow", id=request_id)
    made.inputs.add(name="n", datatype="INT64")
    made.raw_input_contents.append(np.int64(rounds).tobytes())
    return made


def handle_of(server: Running, model: str):
    (entry,) = server.services.catalog.snapshot.models[model].versions.values()
    return entry.handle


async def until(condition) -> None:
    async with asyncio.timeout(100):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_refusal_names_the_field_in_its_details(publish_model, oip) -> None:
    publish_model("m", "1.0.0", scaled(2))
    _, stub = await oip()
    short = request("m")
    short.raw_input_contents[0] = b""

    refused = await refusal(stub.infer(short))

    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.fields == ("raw_input_contents[0]",)


async def test_an_input_that_the_model_does_not_have_is_refused_by_name(publish_model, oip) -> None:
    publish_model("m", "1.0.0", scaled(2))
    _, stub = await oip()
    other = request("m")
    other.inputs[0].name = "z"

    assert "inputs.z" in (await refusal(stub.infer(other))).fields


async def test_a_routing_key_in_metadata_is_read_and_bounded(publish_model, oip) -> None:
    publish_model("m", "1.0.0", scaled(2))
    _, stub = await oip()

    await stub.infer(request("m"), metadata=[("x-routing-key", "alice")])
    refused = await refusal(stub.infer(request("m"), metadata=[("x-routing-key", "k" * 1025)]))

    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("metadata x-routing-key",))


async def test_refused_requests_are_counted(publish_model, oip) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server, stub = await oip()
    mixed = request("m")
    mixed.inputs[0].contents.fp32_contents.extend([1, 2, 3, 4])

    await refusal(stub.infer(mixed))
    async with httpx.AsyncClient() as client:
        scrape = (await client.get(f"http://{server.http}/metrics")).text

    counted = [line for line in scrape.splitlines() if line.startswith("turnout_requests_total")]
    assert any('code="INVALID_ARGUMENT"' in line and 'model="m"' in line for line in counted)


async def test_a_stream_reads_no_further_than_its_bound(publish_model, oip) -> None:
    publish_model("slow", "1.0.0", slow())
    server, stub = await oip(runtime=THREADS, limits=Limits(max_stream_items=2))
    handle = handle_of(server, "slow")
    stream = stub.stream()
    for i in range(6):
        await stream.write(slow_request(LONG // 4, str(i)))
    await stream.done_writing()

    await until(lambda: handle.inflight == 2)
    ids, most = [], 0
    async for answer in stream:
        most = max(most, handle.inflight)
        ids.append(answer.infer_response.id)

    assert ids == list("012345")
    assert most <= 2


async def test_a_broken_stream_cancels_what_is_under_way(publish_model, oip) -> None:
    publish_model("slow", "1.0.0", slow())
    server, stub = await oip(runtime=THREADS)
    handle = handle_of(server, "slow")
    stream = stub.stream()
    with held_runs(server, "slow"):
        for _ in range(8):
            await stream.write(slow_request(1))
        await until(lambda: handle.inflight == 8)

        stream.cancel()

        await until(lambda: handle.inflight <= 1)


async def test_a_drained_stream_finishes_and_ends_with_unavailable(publish_model, oip) -> None:
    publish_model("slow", "1.0.0", slow())
    server, stub = await oip(runtime=THREADS)
    stream = stub.stream()
    await stream.write(slow_request(LONG, "under way"))
    await until(lambda: handle_of(server, "slow").inflight)

    server.services.inference.drain()

    assert (await stream.read()).infer_response.id == "under way"
    assert await stream.code() is grpc.StatusCode.UNAVAILABLE


async def test_an_item_that_fails_says_why_and_whose_it_is(publish_model, oip) -> None:
    publish_model("m", "1.0.0", scaled(2))
    _, stub = await oip()
    stream = stub.stream()
    await stream.write(request("m", "^7", id="a"))
    answer = await stream.read()
    await stream.done_writing()

    assert "^7" in answer.error_message
    assert (answer.infer_response.id, answer.infer_response.model_version) == ("a", "^7")
    assert answer.infer_response.parameters["triton_final_response"].bool_param
    assert await stream.code() is grpc.StatusCode.OK


async def test_malformed_bytes_on_a_stream_are_an_item_that_fails(publish_model, oip) -> None:
    publish_model("m", "1.0.0", scaled(2))
    _, stub = await oip()
    stream = stub.raw_stream()
    await stream.write(b"\xff\xff\xff")
    await stream.write(request("m", id="b").SerializeToString())
    await stream.done_writing()
    answers = [answer async for answer in stream]

    assert "cannot be parsed" in answers[0].error_message
    assert answers[1].infer_response.id == "b"


async def test_malformed_bytes_of_any_method_are_the_callers_fault(oip) -> None:
    _, stub = await oip()

    refused = await refusal(stub.raw_ready(b"\xff\xff\xff"))

    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT


values = st.builds(
    pb.InferParameter,
    int64_param=st.integers(-(2**63), 2**63 - 1),
) | st.builds(pb.InferParameter, string_param=st.text(max_size=20))
parameters = st.dictionaries(
    st.sampled_from(["timeout", "routing_key", "sequence_id", "priority", "shared_memory_region", "classification"]),
    values,
    max_size=2,
)
shapes = st.lists(st.integers(-2, 5) | st.sampled_from([2**31, 2**62, -(2**63)]), max_size=40)
contents = st.builds(
    pb.InferTensorContents,
    fp32_contents=st.lists(st.floats(width=32), max_size=5),
    int_contents=st.lists(st.integers(-300, 300), max_size=3),
    bytes_contents=st.lists(st.binary(max_size=4), max_size=3),
)
inputs = st.builds(
    pb.ModelInferRequest.InferInputTensor,
    name=st.sampled_from(["x", "", "x" * 300]),
    datatype=st.sampled_from(["FP32", "BYTES", "BOOL", "INT8", "BF16", "", "nonsense"]),
    shape=st.sampled_from([[1, 4], [0, 4]]) | shapes,
    contents=st.none() | contents,
    parameters=parameters,
)
messages = st.builds(
    pb.ModelInferRequest,
    model_name=st.sampled_from(["m", "", "../m"]),
    model_version=st.sampled_from(["", "1.0.0"]) | st.text(max_size=30),
    id=st.text(max_size=50),
    parameters=parameters,
    inputs=st.lists(inputs, max_size=2),
    raw_input_contents=st.lists(st.sampled_from([X.tobytes(), b""]) | st.binary(max_size=40), max_size=2),
).map(lambda message: message.SerializeToString())


@pytest.mark.parametrize("payloads", [messages, st.binary(max_size=200)], ids=["messages", "bytes"])
async def test_malformed_requests_are_the_callers_fault_and_harm_nobody(publish_model, oip, payloads) -> None:
    publish_model("m", "1.0.0", scaled(2))
    _, stub = await oip(log={"level": "error"})
    loop = asyncio.get_running_loop()

    async def send(payload: bytes) -> grpc.StatusCode:
        try:
            await stub.raw_infer(payload, timeout=60)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    @settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
    @given(payloads)
    def check(payload: bytes) -> None:
        code = asyncio.run_coroutine_threadsafe(send(payload), loop).result(100)
        assert code in CALLERS_FAULT | {grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED}, code

    await asyncio.to_thread(check)
    answered = await stub.infer(request("m"))
    assert np.frombuffer(answered.raw_output_contents[0], np.float32).tolist() == (2 * X).ravel().tolist()
