"""Memory after many cycles of loading and unloading a 20 MB model."""

from pathlib import Path

import grpc
import onnx
import psutil

from harness.comparison import Row
from harness.load import Generator
from harness.servers import matmul, turnout
from turnout.testing import publish_models
from turnout_proto.v1 import control_pb2, control_pb2_grpc

TITLE = "memory after 200 cycles of loading and unloading a 20 MB model, by that after 20"
EARLY, LATE = 20, 200


def measure(scratch: Path, _: Generator, windows: int, seconds: float) -> list[Row]:
    """Loads and unloads over the control listener, and measures the resident set size of the server's process."""
    model = scratch / "big.onnx"
    onnx.save(matmul(2240), model)
    publish_models(scratch / "models", {"big@1.0.0": model})
    resident: dict[int, int] = {}
    with turnout(scratch / "models") as server, grpc.insecure_channel(server.control) as channel:
        control = control_pb2_grpc.ControlServiceStub(channel)
        process = psutil.Process(server.pid)
        for cycle in range(1, LATE + 1):
            control.UnloadVersion(control_pb2.UnloadVersionRequest(model="big", version="1.0.0"), timeout=60)
            control.LoadVersion(control_pb2.LoadVersionRequest(model="big", version="1.0.0"), timeout=60)
            resident[cycle] = process.memory_info().rss
    ratio = resident[LATE] / resident[EARLY]
    late, early = (f"{resident[cycle] / 2**20:,.0f} MiB" for cycle in (LATE, EARLY))
    return [Row("resident set", ratio, ratio, ratio, 1.1, False, late, early)]
