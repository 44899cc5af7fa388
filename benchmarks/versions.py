"""Many versions: what 100 loaded ones cost, and what loading another does to those that serve."""

import statistics
import subprocess
import time
from pathlib import Path

import onnx

from load import Generator, Target
from servers import TURNOUT, matmul, publish_all, turnout
from tables import Row, compare

TITLE = "many versions"
COUNT = 100


def measure(scratch: Path, generator: Generator, windows: int, seconds: float) -> list[Row]:
    """100 loaded versions against one; p99 while another version is published and loads against p99 before."""
    files = []
    for seed in range(COUNT):
        files.append(scratch / f"tiny-{seed}.onnx")
        onnx.save(matmul(seed=seed), files[-1])
    publish_all(scratch / "one", {("tiny", "1.0.0"): files[0]})
    publish_all(scratch / "many", {("tiny", f"1.{i}.0"): file for i, file in enumerate(files)})
    with turnout(scratch / "one") as one, turnout(scratch / "many") as many:
        lone, crowded = (Target(s.grpc, "tiny", "1.0.0", "x", "f32", "1,64") for s in (one, many))
        row = compare(
            "100 loaded versions by one, 16 in flight",
            lambda: generator.run(crowded, "unary", 16, seconds).rps,
            lambda: generator.run(lone, "unary", 16, seconds).rps,
            windows,
            0.95,
        )
    return [row, _loading(scratch, generator, windows, seconds)]


def _loading(scratch: Path, generator: Generator, windows: int, seconds: float) -> Row:
    """p99 at 4 in flight of a version that serves, while a 20 MB model is published and loaded beside it."""
    big = scratch / "big.onnx"
    onnx.save(matmul(2240, seed=1), big)
    models = scratch / "loading"
    publish_all(models, {("tiny", "1.0.0"): scratch / "tiny-0.onnx"})
    quiet, busy = [], []
    with turnout(models) as server:
        target = Target(server.grpc, "tiny", "1.0.0", "x", "f32", "1,64")
        generator.run(target, "unary", 4, 1.0)
        for window in range(windows):
            quiet.append(generator.run(target, "unary", 4, seconds).p99_ms)
            load = generator.start(target, "unary", 4, max(seconds, 3.0))
            time.sleep(0.2)
            command = [str(TURNOUT), "publish", "big", f"1.{window}.0", str(big), "--models", str(models)]
            subprocess.run(command, check=True, capture_output=True)
            busy.append(generator.finish(load).p99_ms)
    ratios = sorted(b / q for q, b in zip(quiet, busy, strict=True))
    return Row(
        "p99 while another version is published and loads",
        statistics.median(ratios),
        ratios[0],
        ratios[-1],
        2.0,
        False,
        f"{statistics.median(busy):.2f} ms",
        f"{statistics.median(quiet):.2f} ms",
    )
