"""Whatever bytes come, the server answers with a status of the caller's fault, or rightly, and lives on."""

import asyncio

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from http2_client import BOUND, CALL, Http2Client
from onnx_models import scaled
from turnout_proto.v1 import prediction_pb2 as pb
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub
from wire import X, outputs_of, request

pytestmark = pytest.mark.both_transports

CALLERS_FAULT = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.INTERNAL,  # gRPC's own answer to bytes that are no message at all
}

tensors = st.builds(
    pb.Tensor,
    name=st.sampled_from(["x", "", "y", "x" * 300]),
    data_type=st.integers(-1, 40).filter(lambda n: n >= 0),
    shape=st.lists(st.integers(-2, 5) | st.sampled_from([2**31, 2**62, -(2**63)]), max_size=40),
    raw=st.binary(max_size=80),
    strings=st.lists(st.binary(max_size=4), max_size=3),
)
messages = st.builds(
    pb.PredictRequest,
    model=st.sampled_from(["m", "", "../m", "M", "m" * 500]),
    version=st.sampled_from(["", "1.0.0", "^1", "latest"]) | st.text(max_size=30),
    request_id=st.text(max_size=200),
    inputs=st.lists(tensors, max_size=3),
    outputs=st.lists(st.sampled_from(["y", "z", ""]), max_size=3),
).map(lambda message: message.SerializeToString())


@pytest.fixture
async def raw_call(publish_model, start_server):
    """Calls Predict with bytes as they are; returns the status code and the bytes of the answer."""
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server(log={"level": "error"})
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        call = channel.unary_unary("/turnout.v1.PredictionService/Predict")

        async def send(payload: bytes) -> tuple[grpc.StatusCode, bytes]:
            try:
                return grpc.StatusCode.OK, await call(payload, timeout=60)
            except grpc.aio.AioRpcError as error:
                return error.code(), b""

        yield send


# Messages reach new lines of the server for some 160 examples, bytes that are none for 60.
@pytest.mark.parametrize(
    ("payloads", "examples"), [(messages, 250), (st.binary(max_size=200), 120)], ids=["messages", "bytes"]
)
async def test_malformed_requests_are_the_callers_fault_and_harm_nobody(raw_call, payloads, examples) -> None:
    loop = asyncio.get_running_loop()

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(payloads)
    def check(payload: bytes) -> None:
        code, answer = asyncio.run_coroutine_threadsafe(raw_call(payload), loop).result(100)
        if code is grpc.StatusCode.OK:
            (x,) = (t for t in pb.PredictRequest.FromString(payload).inputs if t.name == "x")
            sent = np.frombuffer(x.raw, np.float32).reshape(tuple(x.shape))
            for got in outputs_of(pb.PredictResponse.FromString(answer)).values():
                np.testing.assert_array_equal(got, 2 * sent)
        else:
            assert code in CALLERS_FAULT, code

    await asyncio.to_thread(check)
    code, _ = await raw_call(request("m", x=X).SerializeToString())
    assert code is grpc.StatusCode.OK


async def test_a_refusal_whose_words_are_cut_at_a_space_is_a_refusal(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", scaled(2))
    server = await start_server()
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        call = channel.unary_unary("/turnout.v1.PredictionService/Predict")
        for asked in range(20, 30):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(request("m", outputs=[""] * asked, x=X).SerializeToString())
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    terms = caught.value.details() or ""
    assert terms[-10:].rstrip() == "outputs.:", "this is about a message that ends so"


@pytest.mark.parametrize("listener", ["grpc", "control"])
async def test_a_path_that_is_no_text_ends_its_call_and_nothing_else(publish_model, start_server, listener) -> None:
    publish_model("m", "1.0.0", scaled(2))
    address = getattr(await start_server(), listener)
    async with grpc.aio.insecure_channel(str(address)) as channel:
        stream = PredictionServiceStub(channel).PredictStream()
        item = pb.PredictStreamRequest(request=request("m", request_id="r", x=X))
        for path in (b"/\xff", b"/turnout.v1.PredictionService/Predict\xc3", b"/\x80/\x80"):
            await stream.write(item)
            assert (await stream.read()).HasField("response")
            async with Http2Client(address.host, address.port) as client:
                answer = await client.answer(await client.begin(path, CALL, end=True))
                assert answer.reset or answer.grpc_status
            await stream.write(item)
            assert (await stream.read()).HasField("response")
            await _served(str(address))
        await stream.done_writing()
        assert await stream.code() is grpc.StatusCode.OK


async def _served(target: str) -> None:
    """Waits until a new connection is served."""
    async with asyncio.timeout(BOUND), grpc.aio.insecure_channel(target) as channel:
        call = PredictionServiceStub(channel).Predict
        while True:
            try:
                await call(request("m", x=X), wait_for_ready=True)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            else:
                return
