"""Round trips of 10 MB tensors: Turnout, which runs a model on them, compared with a grpc.aio handler that echoes."""

import os
from contextlib import ExitStack
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from harness.comparison import Row, compare
from harness.load import Generator
from harness.peers import Oipload
from harness.servers import echo, turnout
from turnout.testing import publish_models

TITLE = "tensors of 10 MB there and back, against grpc.aio's echo of the message"
TENSOR = "x:FP32:1,2500000"
LEAST_SECONDS = 3.0
"""Minimum length of a window, in seconds. A shorter one has only a handful of messages."""


def measure(scratch: Path, _: Generator, windows: int, seconds: float) -> list[Row]:
    """Compares messages per second at 1 and 4 in flight, by transport."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", "M"]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
    model = scratch / "identity.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), model)
    publish_models(scratch / "models", {"m@1.0.0": model})
    try:
        load = Oipload()
    except LookupError as missing:
        print(f"{TITLE}: left out, {missing}")
        return []
    rows = []
    with ExitStack() as stack:
        theirs = stack.enter_context(echo())
        for transport, target in (("h2corn", 1.5), ("grpcio", None)):
            environment = os.environ | {"TURNOUT_TRANSPORT__DATA": transport}
            ours = stack.enter_context(turnout(scratch / "models", environment)).grpc
            for in_flight in (1, 4):

                def rps(address: str, in_flight: int = in_flight) -> float:
                    return load.run(address, "m", TENSOR, in_flight, max(seconds, LEAST_SECONDS)).rps

                rows.append(
                    compare(
                        f"{transport}, {in_flight} in flight",
                        lambda ours=ours, rps=rps: rps(ours),
                        lambda rps=rps: rps(theirs),
                        windows,
                        target,
                        "messages/s",
                    )
                )
    return rows
