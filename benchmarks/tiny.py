"""A 64x64 MatMul: what Turnout adds to gRPC, and what a stream saves."""

from pathlib import Path

import onnx

from load import Generator, Target
from servers import bare, matmul, publish_all, turnout
from tables import Row, compare

TITLE = "tiny model (64x64 MatMul) against a bare grpc.aio handler"


def measure(scratch: Path, generator: Generator, windows: int, seconds: float) -> list[Row]:
    """Unary calls at 1 and 16 in flight against the bare handler; the stream at 16 against unary."""
    model = scratch / "tiny.onnx"
    onnx.save(matmul(), model)
    publish_all(scratch / "models", {("tiny", "1.0.0"): model})
    with turnout(scratch / "models") as server, bare(model) as address:
        ours = Target(server.grpc, "tiny", "", "x", "f32", "1,64")
        theirs = Target(address, "tiny", "", "x", "f32", "1,64")
        generator.run(ours, "unary", 16, 1.0)
        generator.run(theirs, "unary", 16, 1.0)

        def rps(target: Target, mode: str, in_flight: int) -> float:
            return generator.run(target, mode, in_flight, seconds).rps

        rows = [
            compare(
                f"unary, {n} in flight",
                lambda n=n: rps(ours, "unary", n),
                lambda n=n: rps(theirs, "unary", n),
                windows,
                0.9,
            )
            for n in (1, 16)
        ]
        rows.append(
            compare(
                "PredictStream by unary, 16 in flight",
                lambda: rps(ours, "stream", 16),
                lambda: rps(ours, "unary", 16),
                windows,
                1.7,
            )
        )
    return rows
