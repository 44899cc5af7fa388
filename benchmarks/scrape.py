"""What a scrape of a server with 100 versions costs, every one of which has answered."""

import statistics
import time
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import onnx

from load import Generator
from servers import matmul, publish_all, turnout
from tables import Row
from turnout_client import Client

TITLE = "a scrape of 100 versions"
COUNT = 100
MOST_SECONDS, MOST_BYTES = 0.25, 5_000_000


def measure(scratch: Path, _: Generator, windows: int, seconds: float) -> list[Row]:
    """Scrapes an idle server in turn, 5 times a window; each version has answered pinned requests."""
    files = []
    for seed in range(COUNT):
        files.append(scratch / f"tiny-{seed}.onnx")
        onnx.save(matmul(seed=seed), files[-1])
    publish_all(scratch / "many", {("tiny", f"1.{i}.0"): file for i, file in enumerate(files)})
    x = np.ones((1, 64), np.float32)
    with turnout(scratch / "many") as server, Client(server.grpc) as client:
        for version in range(COUNT):
            for _ in range(3):
                client.predict("tiny", {"x": x}, version=f"1.{version}.0")
        times, sizes = [], []
        for _ in range(windows * 5):
            begun = time.perf_counter()
            with urlopen(f"http://{server.http}/metrics", timeout=30) as answer:
                sizes.append(len(answer.read()))
            times.append(time.perf_counter() - begun)
    return [
        _bounded("time", times, MOST_SECONDS, 1e3, "ms"),
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
