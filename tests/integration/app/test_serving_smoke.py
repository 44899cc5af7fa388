"""A served answer is ONNX Runtime's own answer, over every protocol."""

import grpc
import numpy as np
import onnxruntime as ort
import pytest

from onnx_models import matmul
from turnout_proto import tensors
from turnout_proto.v1 import prediction_pb2 as pb
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub

pytestmark = pytest.mark.both_transports


async def test_predict_gives_what_onnx_runtime_gives(publish_model, start_server) -> None:
    model = matmul()
    publish_model("tiny", "1.0.0", model)
    server = await start_server()
    x = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
    async with grpc.aio.insecure_channel(str(server.grpc)) as channel:
        request = pb.PredictRequest(model="tiny", inputs=[tensors.encode("x", x)])
        answer = await PredictionServiceStub(channel).Predict(request)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(tensors.decode(answer.outputs[0]), session.run(None, {"x": x})[0])
    assert answer.route.version == "1.0.0"
    assert answer.route.role == pb.ROLE_BASELINE
