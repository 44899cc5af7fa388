"""The reference that Turnout is compared with: a minimal `grpc.aio` handler that runs the session inline.

python benchmarks/harness/bare_server.py MODEL.onnx      prints its port
"""

import asyncio
import sys

import grpc
import numpy as np
import onnxruntime as ort

from turnout_proto.v1 import prediction_pb2 as pb
from turnout_proto.v1 import prediction_pb2_grpc


class Bare(prediction_pb2_grpc.PredictionServiceServicer):
    """Decodes one float32 input, runs the model, and encodes one output."""

    def __init__(self, model: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.outputs = [self.session.get_outputs()[0].name]

    async def Predict(self, request, context):  # noqa: N802 - gRPC's name
        tensor = request.inputs[0]
        array = np.frombuffer(tensor.raw, np.float32).reshape(tuple(tensor.shape))
        (value,) = self.session.run(self.outputs, {tensor.name: array})
        out = pb.Tensor(name=self.outputs[0], data_type=pb.DATA_TYPE_FLOAT32, shape=value.shape, raw=value.tobytes())
        return pb.PredictResponse(model=request.model, outputs=[out])


async def main() -> None:
    ort.disable_telemetry_events()
    server = grpc.aio.server()
    prediction_pb2_grpc.add_PredictionServiceServicer_to_server(Bare(sys.argv[1]), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


asyncio.run(main())
