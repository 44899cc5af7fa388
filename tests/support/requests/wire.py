"""Sends `turnout.v1` requests to a server under test, and reads status details."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import numpy as np
import onnx
import onnxruntime as ort
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from grpc_status import rpc_status
from numpy.typing import NDArray

from turnout.app.server import Running
from turnout_proto import tensors
from turnout_proto.v1 import prediction_pb2 as pb
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub

X = np.arange(4, dtype=np.float32).reshape(1, 4)
"""Input that most of the tiny models accept."""


@asynccontextmanager
async def channel_of(server: Running) -> AsyncIterator[grpc.aio.Channel]:
    """Opens a channel to the data listener."""
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        yield channel


@asynccontextmanager
async def stub_of(server: Running) -> AsyncIterator[PredictionServiceStub]:
    """Opens the prediction service of the data listener."""
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        yield PredictionServiceStub(channel)


def request(
    model: str, version: str = "", outputs: Sequence[str] = (), request_id: str = "", **inputs: NDArray
) -> pb.PredictRequest:
    """Returns a request."""
    encoded = [tensors.encode(name, np.asarray(array)) for name, array in inputs.items()]
    return pb.PredictRequest(model=model, version=version, inputs=encoded, outputs=outputs, request_id=request_id)


def outputs_of(answer: pb.PredictResponse) -> Mapping[str, NDArray]:
    """Returns the outputs by name, in order."""
    return {tensor.name: tensors.decode(tensor) for tensor in answer.outputs}


async def answers_together(
    server: Running, model: onnx.ModelProto, sent: Sequence[NDArray]
) -> Sequence[pb.PredictResponse]:
    """Sends all of `sent` to m as x at once, and compares the y of each answer with that of ONNX Runtime."""
    async with stub_of(server) as stub:
        answers = await asyncio.gather(*(stub.Predict(request("m", x=x)) for x in sent))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for x, answer in zip(sent, answers, strict=True):
        np.testing.assert_allclose(outputs_of(answer)["y"], session.run(None, {"x": x})[0], rtol=1e-4, atol=1e-4)
    return answers


@dataclass(frozen=True)
class Refusal:
    """A status other than OK."""

    code: grpc.StatusCode
    message: str
    fields: tuple[str, ...]
    retry_after: float | None


async def refusal(call: "grpc.aio.UnaryUnaryCall[object, object]") -> Refusal:
    """Waits for `call` to fail, and reads its status."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        fields: list[str] = []
        retry_after = None
        status = rpc_status.from_call(error)
        for detail in status.details if status else ():
            bad, retry = BadRequest(), RetryInfo()
            if detail.Unpack(bad):
                fields += [violation.field for violation in bad.field_violations]
            elif detail.Unpack(retry):
                retry_after = retry.retry_delay.ToTimedelta().total_seconds()
        return Refusal(error.code(), error.details() or "", tuple(fields), retry_after)
    raise AssertionError(f"it was answered: {answer}")
