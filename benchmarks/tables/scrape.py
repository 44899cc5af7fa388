"""The cost of a scrape of a server with 100 versions, all of which have served requests."""

import statistics
import time
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import onnx
import psutil

from harness.comparison import Row
from harness.load import Generator
from harness.servers import matmul, turnout
from turnout.testing import publish_models
from turnout_client import Client

TITLE = "a scrape of 100 versions"
COUNT = 100
SCRAPES = 20
"""Number of scrapes in each window. One would be too short, since the kernel counts CPU time in steps of 10 ms."""
MOST_SECONDS, MOST_CPU_SECONDS, MOST_BYTES = 0.25, 0.05, 5_000_000


def measure(scratch: Path, _: Generator, windows: int, seconds: float) -> list[Row]:
    """Scrapes an idle server after each version has answered pinned requests."""
    files = []
    for seed in range(COUNT):
        files.append(scratch / f"tiny-{seed}.onnx")
        onnx.save(matmul(seed=seed), files[-1])
    publish_models(scratch / "many", {f"tiny@1.{i}.0": file for i, file in enumerate(files)})
    x = np.ones((1, 64), np.float32)
    with turnout(scratch / "many") as server, Client(server.grpc) as client:
        for version in range(COUNT):
            for _ in range(3):
                client.predict("tiny", {"x": x}, version=f"1.{version}.0")
        process = psutil.Process(server.pid)
        times, cpu, sizes = [], [], []
        for _ in range(windows):
            used = sum(process.cpu_times()[:2])
            for _ in range(SCRAPES):
                begun = time.perf_counter()
                with urlopen(f"http://{server.http}/metrics", timeout=30) as answer:
                    sizes.append(len(answer.read()))
                times.append(time.perf_counter() - begun)
            cpu.append((sum(process.cpu_times()[:2]) - used) / SCRAPES)
    return [
        _bounded("time", times, MOST_SECONDS, 1e3, "ms"),
        _bounded("CPU of the server", cpu, MOST_CPU_SECONDS, 1e3, "ms"),
        _bounded("size", sizes, MOST_BYTES, 1e-6, "MB"),
    ]


def _bounded(name: str, measured: list[float], most: float, scale: float, unit: str) -> Row:
    middle = statistics.median(measured)
    displayed = f"{middle * scale:,.2f} {unit}"
    return Row(
        name,
        middle / most,
        min(measured) / most,
        max(measured) / most,
        1.0,
        False,
        displayed,
        f"{most * scale:g} {unit}",
    )
