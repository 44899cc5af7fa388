"""The cost of many versions: 100 loaded versions, and the effect of loading another one on those that serve."""

import itertools
import subprocess
import time
from pathlib import Path

import onnx

from harness.comparison import Row, compare, compare_pairs
from harness.load import Generator, Target
from harness.servers import TURNOUT, bare, matmul, turnout
from turnout.testing import publish_models

TITLE = "many versions"
COUNT = 100


def measure(scratch: Path, generator: Generator, windows: int, seconds: float) -> list[Row]:
    """Compares 100 loaded versions with one, and p99 while another version is published and loaded with p99 before."""
    files = []
    for seed in range(COUNT):
        files.append(scratch / f"tiny-{seed}.onnx")
        onnx.save(matmul(seed=seed), files[-1])
    publish_models(scratch / "one", {"tiny@1.0.0": files[0]})
    publish_models(scratch / "many", {f"tiny@1.{i}.0": file for i, file in enumerate(files)})
    with turnout(scratch / "one") as one, turnout(scratch / "many") as many:
        lone, crowded = (Target(s.grpc, "tiny", "1.0.0", "x", "f32", "1,64") for s in (one, many))
        row = compare(
            "100 loaded versions by one, 16 in flight",
            lambda: generator.run(crowded, "unary", 16, seconds).rps,
            lambda: generator.run(lone, "unary", 16, seconds).rps,
            windows,
            0.95,
        )
    return [row, *_loading(scratch, generator, windows, seconds)]


def _loading(scratch: Path, generator: Generator, windows: int, seconds: float) -> list[Row]:
    """Measures p99 of a version at 4 in flight while a 20 MB model is published and loaded on the same server.

    The same is measured for the minimal handler, which loads nothing, since `turnout publish` runs in a separate
    process on the same cores.
    """
    big = scratch / "big.onnx"
    onnx.save(matmul(2240, seed=1), big)
    models = scratch / "loading"
    publish_models(models, {"tiny@1.0.0": scratch / "tiny-0.onnx"})
    numbers = itertools.count()

    def calm(target: Target) -> float:
        return generator.run(target, "unary", 4, seconds).p99_ms

    def beside_a_publish(target: Target) -> float:
        load = generator.start(target, "unary", 4, max(seconds, 3.0))
        time.sleep(0.2)
        command = [str(TURNOUT), "publish", "big", f"1.{next(numbers)}.0", str(big), "--models", str(models)]
        subprocess.run(command, check=True, capture_output=True)
        return generator.finish(load).p99_ms

    pairs: list[list[tuple[float, float]]] = [[], []]
    with turnout(models) as server, bare(scratch / "tiny-0.onnx") as address:
        targets = [Target(host, "tiny", "1.0.0", "x", "f32", "1,64") for host in (server.grpc, address)]
        for target in targets:
            generator.run(target, "unary", 4, 1.0)
        for _ in range(windows):
            for target, seen in zip(targets, pairs, strict=True):
                seen.append((calm(target), beside_a_publish(target)))
    name = "p99 while another version is published"
    return [
        compare_pairs(f"{name} and loads", pairs[0], 2.0, "ms", at_least=False),
        compare_pairs(f"{name}, of a bare handler that loads nothing", pairs[1], None, "ms", at_least=False),
    ]
