"""What isolation costs: the same model in child processes and in the server's own."""

import os
from contextlib import ExitStack
from pathlib import Path

import onnx

from load import Generator, Target
from servers import matmul, publish_all, turnout
from tables import Row, compare
from zoo import fetch

TITLE = "isolated in child processes, against the server's own process"
IN_FLIGHT = (1, 16)


def measure(scratch: Path, generator: Generator, windows: int, seconds: float) -> list[Row]:
    """Requests a second of the tiny model and of magika 3.3.0, unary, at 1 and 16 in flight."""
    tiny = scratch / "tiny.onnx"
    onnx.save(matmul(), tiny)
    models = scratch / "models"
    publish_all(models, {("tiny", "1.0.0"): tiny, ("magika", "3.3.0"): fetch("magika", "3.3.0")})
    requests = {"tiny": ("x", "f32", "1,64"), "magika": ("bytes", "i32", "1,2048")}
    rows = []
    with ExitStack() as stack:
        ours, theirs = (
            stack.enter_context(
                turnout(models, os.environ | {"TURNOUT_RUNTIME__ISOLATION": wish, "TURNOUT_RUNTIME__PROVIDERS": "cpu"})
            )
            for wish in ("process", "thread")
        )
        for model, request in requests.items():
            isolated, plain = (Target(server.grpc, model, "", *request) for server in (ours, theirs))

            def rps(target: Target, in_flight: int) -> float:
                return generator.run(target, "unary", in_flight, seconds).rps

            for target in (isolated, plain):
                rps(target, max(IN_FLIGHT))  # all children are there afterwards
            rows += [
                compare(
                    f"{model}, unary, {count} in flight",
                    lambda target=isolated, count=count: rps(target, count),  # type: ignore[misc]
                    lambda target=plain, count=count: rps(target, count),  # type: ignore[misc]
                    windows,
                    None,
                )
                for count in IN_FLIGHT
            ]
    return rows
