"""A 64x64 MatMul in Turnout and in NVIDIA Triton, with the same protocol, load generator and cores."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import onnx

from harness.comparison import Row, compare_pairs, take_turns
from harness.load import Generator
from harness.peers import Oipload, Seen, triton
from harness.servers import matmul, turnout
from turnout.testing import publish_models

TITLE = "tiny model (64x64 MatMul) by ModelInfer, against NVIDIA Triton"
TARGETS = {1: 1.3, 16: 1.2, 64: 1.0}
"""Targets of the ratio to Triton's requests per second, by calls in flight."""

CONNECTIONS = (1, 8)
TENSOR = "x:FP32:1,64"


def measure(scratch: Path, _: Generator, windows: int, seconds: float) -> list[Row]:
    """Compares requests per second, p50 and p99 at 1, 16 and 64 in flight, and transports on 1 and 8 connections."""
    model = scratch / "tiny.onnx"
    onnx.save(matmul(), model)
    publish_models(scratch / "models", {"m@1.0.0": model})
    with ExitStack() as stack:
        try:
            load = Oipload()
        except LookupError as missing:
            print(f"{TITLE}: left out, {missing}")
            return []
        ours, grpcio = (
            stack.enter_context(turnout(scratch / "models", os.environ | {"TURNOUT_TRANSPORT__DATA": name})).grpc
            for name in ("h2corn", "grpcio")
        )
        rows = []
        try:
            theirs = stack.enter_context(triton(model))
        except LookupError as missing:
            print(f"against Triton: left out, {missing}")
        else:
            for in_flight, target in TARGETS.items():
                rows += _compared(load, ours, theirs, in_flight, windows, seconds, target)
        for connections in CONNECTIONS:
            for in_flight in (1, 16, 64):
                if in_flight >= connections:
                    one, other = (_runner(load, at, in_flight, seconds, connections) for at in (grpcio, ours))
                    pairs = [(a.rps, b.rps) for a, b in take_turns(one, other, windows)]
                    name = f"h2corn by grpcio, {in_flight} in flight on {connections} connection(s)"
                    rows.append(compare_pairs(name, pairs, None))
    return rows


def _compared(
    load: Oipload, ours: str, theirs: str, in_flight: int, windows: int, seconds: float, target: float
) -> list[Row]:
    one, other = (_runner(load, at, in_flight, seconds, 1) for at in (theirs, ours))
    one(), other()
    seen = take_turns(one, other, windows)
    name = f"{in_flight} in flight"
    return [
        compare_pairs(name, [(a.rps, b.rps) for a, b in seen], target),
        compare_pairs(f"{name}: p50", [(a.p50_ms, b.p50_ms) for a, b in seen], None, "ms", at_least=False),
        compare_pairs(f"{name}: p99", [(a.p99_ms, b.p99_ms) for a, b in seen], 1.0, "ms", at_least=False),
    ]


def _runner(load: Oipload, address: str, in_flight: int, seconds: float, connections: int) -> Callable[[], Seen]:
    return lambda: load.run(address, "m", TENSOR, in_flight, seconds, connections=connections)
