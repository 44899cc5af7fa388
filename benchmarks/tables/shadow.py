"""The effect of shadows on live requests: the ratio of latencies with and without them, in interleaved windows."""

import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from urllib.request import urlopen

import grpc
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from harness.comparison import Row
from harness.load import Generator, Load, Target
from harness.servers import Served, turnout
from turnout.testing import publish_models
from turnout_proto.v1 import traffic_pb2 as pb
from turnout_proto.v1.control_pb2_grpc import ControlServiceStub

TITLE = "live requests beside a shadow at 100 % that is ten times slower"
RATE = 50
"""Requests per second. This rate leaves one of two cores idle: the model takes about 1.2 ms, its shadow 12 ms."""

_NEIGHBOUR = """
import os, sys, time
import numpy as np
import onnxruntime
os.nice(19)
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
x = np.zeros((16, 640), np.float32)
while True:
    session.run(None, {"x": x})
    time.sleep(0.012)
"""
"""Runs the slow model about 40 times per second in the idle scheduling class, independently of the server. A shadow on
the same machine cannot cost live requests less than this."""


def stack(layers: int) -> onnx.ModelProto:
    """Returns a model of `layers` 640x640 MatMuls, each about 0.3 ms for 16 rows; input and output float32 (N, 640)."""
    weights = np.random.default_rng(0).standard_normal((640, 640)).astype(np.float32) / 640**0.5
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 640]) for name in "xy")
    names = ["x", *(f"h{i}" for i in range(layers - 1)), "y"]
    nodes = [helper.make_node("MatMul", [names[i], "w"], [names[i + 1]]) for i in range(layers)]
    graph = helper.make_graph(nodes, "stack", [x], [y], [numpy_helper.from_array(weights, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def measure(scratch: Path, generator: Generator, windows: int, seconds: float) -> list[Row]:
    """Measures an open loop with an idle core and a closed loop without, with the shadow in a process and a thread."""
    live, slow = scratch / "live.onnx", scratch / "slow.onnx"
    onnx.save(stack(4), live)
    onnx.save(stack(40), slow)
    publish_models(scratch / "models", {"m@1.0.0": live, "m@1.1.0": slow})
    rows: list[Row] = []
    for isolation in ("process", "thread"):
        with turnout(scratch / "models", os.environ | {"TURNOUT_SHADOW__ISOLATION": isolation}) as server:
            target = Target(server.grpc, "m", "", "x", "f32", "16,640")

            def run(length: float, target: Target = target) -> Load:
                return generator.run(target, "open", RATE, length)

            rows += _spare(f"{isolation}: ", lambda: _shadowed(server), run, windows, 3 * seconds)
            if isolation == "process":
                rows += _spare("no shadow, a stranger: ", lambda: _neighbour(slow), run, windows, 3 * seconds, None)
            rows.append(_none(f"{isolation}: ", server, target, generator, windows, seconds))
    return rows


def _spare(
    name: str,
    beside: Callable[[], AbstractContextManager[None]],
    run: Callable[[float], Load],
    windows: int,
    seconds: float,
    target: float | None = 1.05,
) -> list[Row]:
    """Compares each window with `beside` with the window before it, and takes the median of all windows."""
    off, on = [], []
    for _ in range(windows):
        run(0.5)
        off.append(run(seconds))
        with beside():
            run(0.5)
            on.append(run(seconds))
    rows = []
    for label, q in (("p50", 0.5), ("p99", 0.99)):
        without, with_ = ([float(np.quantile(load.latencies_ms, q)) for load in loads] for loads in (off, on))
        ratios = sorted(a / b for a, b in zip(with_, without, strict=True))
        rows.append(
            Row(
                f"{name}{label} at {RATE} requests/s, a core to spare",
                statistics.median(ratios), ratios[0], ratios[-1], target, False,
                f"{statistics.median(with_):.2f} ms", f"{statistics.median(without):.2f} ms",
            )
        )  # fmt: skip
    return rows


@contextmanager
def _shadowed(server: Served) -> Iterator[None]:
    """Shadows all requests inside the context, and checks that almost all copies ran."""
    before = _copies(server)
    _traffic(server, rate=1.0)
    yield
    _traffic(server, rate=0.0)
    ran, dropped = (now - then for now, then in zip(_copies(server), before, strict=True))
    if dropped > 0.1 * ran:
        raise RuntimeError(f"the machine has no core to spare: {ran:.0f} copies ran and {dropped:.0f} were dropped")


@contextmanager
def _neighbour(model: Path) -> Iterator[None]:
    """Runs a process with `model` in the idle scheduling class."""
    with subprocess.Popen([sys.executable, "-c", _NEIGHBOUR, str(model)]) as process:
        yield
        process.kill()


def _none(name: str, server: Served, target: Target, generator: Generator, windows: int, seconds: float) -> Row:
    """Measures a closed loop with 4 in flight, which keeps both cores busy, so that nearly all copies are dropped."""
    off, on = [], []
    before = _copies(server)
    for _ in range(windows):
        _traffic(server, rate=0.0)
        off.append(generator.run(target, "unary", 4, seconds).rps)
        _traffic(server, rate=1.0)
        on.append(generator.run(target, "unary", 4, seconds).rps)
    ran, dropped = (now - then for now, then in zip(_copies(server), before, strict=True))
    ratios = sorted(a / b for a, b in zip(on, off, strict=True))
    shed = dropped / max(ran + dropped, 1)
    return Row(
        f"{name}requests/s at 4 in flight, no core to spare",
        statistics.median(ratios), ratios[0], ratios[-1], 0.95, True,
        f"{statistics.median(on):,.1f} requests/s ({shed:.1%} of copies shed)",
        f"{statistics.median(off):,.1f} requests/s",
    )  # fmt: skip


def _traffic(server: Served, *, rate: float) -> None:
    """Sets the share of requests that are copied to the shadow."""
    shadows = [pb.Shadow(version="1.1.0", rate=rate)] if rate else []
    with grpc.insecure_channel(server.control) as channel:
        policy = pb.Policy(baseline="1.0.0", shadows=shadows)
        ControlServiceStub(channel).SetTraffic(pb.SetTrafficRequest(model="m", policy=policy), timeout=10)


def _copies(server: Served) -> tuple[float, float]:
    """Returns the numbers of copies that were run and dropped."""
    with urlopen(f"http://{server.http}/metrics", timeout=10) as answer:
        text = answer.read().decode()

    def total(name: str) -> float:
        return sum(map(float, re.findall(rf"^{name}{{[^}}]*}} ([0-9.e+]+)$", text, re.MULTILINE)))

    return total("turnout_shadow_requests_total"), total("turnout_shadow_dropped_total")
