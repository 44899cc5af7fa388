"""A 64x64 MatMul: the overhead of Turnout over plain gRPC, and the gain of a stream."""

from pathlib import Path

import onnx

from harness.comparison import Row, compare_pairs, take_turns
from harness.load import Generator, Target
from harness.servers import bare, matmul, turnout
from turnout.testing import publish_models

TITLE = "tiny model (64x64 MatMul) against a bare grpc.aio handler"
IN_FLIGHT = (1, 16)

_STARTS = 3
"""Number of times that all processes are restarted, since two processes of the same program differ by up to a tenth."""

Pairs = list[tuple[float, float]]


def measure(scratch: Path, generator: Generator, windows: int, seconds: float) -> list[Row]:
    """Compares unary calls at 1 and 16 in flight with the minimal handler, and a stream at 16 with unary calls."""
    model = scratch / "tiny.onnx"
    onnx.save(matmul(), model)
    publish_models(scratch / "models", {"tiny@1.0.0": model})
    starts = [_started(scratch, model, generator, windows, seconds / _STARTS) for _ in range(_STARTS)]
    *calls, streams = ([pair for pairs in of_starts for pair in pairs] for of_starts in zip(*starts, strict=True))
    return [
        *(compare_pairs(f"unary, {n} in flight", pairs, 0.9) for n, pairs in zip(IN_FLIGHT, calls, strict=True)),
        compare_pairs("PredictStream by unary, 16 in flight", streams, 1.3),
    ]


def _started(scratch: Path, model: Path, generator: Generator, windows: int, seconds: float) -> list[Pairs]:
    """Starts new processes. Returns requests per second: reference and ours by `IN_FLIGHT`, then unary and stream."""
    with turnout(scratch / "models") as server, bare(model) as address:
        ours, theirs = (Target(host, "tiny", "", "x", "f32", "1,64") for host in (server.grpc, address))

        def rps(target: Target, mode: str, in_flight: int) -> float:
            return generator.run(target, mode, in_flight, seconds).rps

        for target, mode in ((ours, "unary"), (ours, "stream"), (theirs, "unary")):
            rps(target, mode, 16)
        return [
            *(take_turns(lambda n=n: rps(theirs, "unary", n), lambda n=n: rps(ours, "unary", n), windows)
              for n in IN_FLIGHT),
            take_turns(lambda: rps(ours, "unary", 16), lambda: rps(ours, "stream", 16), windows),
        ]  # fmt: skip
