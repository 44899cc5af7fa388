"""Messages of some megabytes, several at a time on one connection: every answer has the values of its own request."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnx_models import model, tensor
from turnout.app.server import Running
from turnout_proto.oip.inference_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from turnout_proto.v1 import prediction_pb2 as pb
from wire import channel_of, outputs_of, request, stub_of

pytestmark = pytest.mark.both_transports

OIP = "/inference.GRPCInferenceService/"

SIZES = [300_000, 300_001, 500_000]
"""Elements of an input; several of each size, so that most requests are read as one before was."""

INPUTS = [np.random.default_rng(seed).random((1, size), np.float32) for seed in range(3) for size in SIZES]


@pytest.fixture
async def server(publish_model, start_server) -> Running:
    nodes = [
        helper.make_node("Neg", ["x"], ["y"]),
        helper.make_node("Identity", ["x"], ["z"]),
        helper.make_node("Shape", ["x"], ["shape"]),
    ]
    ends = [
        ("y", TensorProto.FLOAT, ["n", "m"]),
        ("z", TensorProto.FLOAT, ["n", "m"]),
        ("shape", TensorProto.INT64, [2]),
    ]
    made = model(nodes, [tensor("x", TensorProto.FLOAT, ["n", "m"])], [tensor(*end) for end in ends])
    publish_model("large", "1.0.0", made)
    return await start_server()


def of(number: int, outputs: Sequence[str] = ()) -> ModelInferRequest:
    x = INPUTS[number]
    made = ModelInferRequest(model_name="large", id=f"id {number}", raw_input_contents=[x.tobytes()])
    made.inputs.add(name="x", datatype="FP32", shape=x.shape)
    for name in outputs:
        made.outputs.add(name=name)
    return made


def check(number: int, y: NDArray, z: NDArray, shape: NDArray) -> None:
    x = INPUTS[number]
    assert (y.tobytes(), z.tobytes(), shape.tolist()) == ((-x).tobytes(), x.tobytes(), list(x.shape))


def check_oip(number: int, answer: ModelInferResponse) -> None:
    assert (answer.id, [output.name for output in answer.outputs]) == (f"id {number}", ["y", "z", "shape"])
    y, z, shape = answer.raw_output_contents
    check(number, np.frombuffer(y, np.float32), np.frombuffer(z, np.float32), np.frombuffer(shape, np.int64))


async def test_calls_of_both_protocols(server: Running) -> None:
    numbers = range(len(INPUTS))
    for _ in range(2):
        async with stub_of(server) as stub, channel_of(server) as channel:
            infer = channel.unary_unary(
                OIP + "ModelInfer", ModelInferRequest.SerializeToString, ModelInferResponse.FromString
            )
            answers = await asyncio.gather(*(stub.Predict(request("large", x=INPUTS[number])) for number in numbers))
            infers = await asyncio.gather(*(infer(of(number)) for number in numbers))
            last = await asyncio.gather(*(infer(of(number, ["z"])) for number in numbers))
        for number in numbers:
            check(number, **outputs_of(answers[number]))
            check_oip(number, infers[number])
            assert last[number].raw_output_contents[0] == INPUTS[number].tobytes()


async def test_streams_of_both_protocols(server: Running) -> None:
    async def items() -> AsyncIterator[pb.PredictStreamRequest]:
        for number, x in enumerate(INPUTS):
            yield pb.PredictStreamRequest(request=request("large", x=x, request_id=str(number)))

    async def infers() -> AsyncIterator[ModelInferRequest]:
        for number in range(len(INPUTS)):
            yield of(number)

    async with stub_of(server) as stub, channel_of(server) as channel:
        seen = [item async for item in stub.PredictStream(items())]
        stream = channel.stream_stream(
            OIP + "ModelStreamInfer", ModelInferRequest.SerializeToString, ModelStreamInferResponse.FromString
        )
        streamed = [item async for item in stream(infers())]
    assert sorted(int(item.request_id) for item in seen) == list(range(len(INPUTS)))
    for item in seen:
        check(int(item.request_id), **outputs_of(item.response))
    assert not any(item.error_message for item in streamed)
    for number, item in enumerate(streamed):
        check_oip(number, item.infer_response)


async def test_a_large_message_that_is_none_is_refused_as_such(server: Running) -> None:
    async with channel_of(server) as channel:
        for method in ("turnout.v1.PredictionService/Predict", "turnout.v1.CatalogService/GetVersion"):
            call = channel.unary_unary(f"/{method}")
            with pytest.raises(Exception, match="INVALID_ARGUMENT"):
                await call(b"\xff" * (3 << 20))
