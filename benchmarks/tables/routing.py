"""The cost of a routing decision: with one version, 100 versions and 10 canaries, with and without routing keys."""

import asyncio
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import onnx
from semver import Version

from harness.comparison import Row
from harness.load import Generator
from harness.servers import matmul
from turnout.app.server import Running, running
from turnout.config import Address, Settings
from turnout.routing.policy import Canary, Policy
from turnout.routing.traffic import ChangeOrigin
from turnout.telemetry.logging import make_logger
from turnout.testing import publish_models

TITLE = "routing: microseconds a decision, in the serving process (the ratio is the time)"
TARGET_US = 5.0
CALLS = 20_000


def measure(scratch: Path, generator: Generator, windows: int, seconds: float) -> list[Row]:
    """Times the router of a real server. The load generator is not used."""
    del generator, seconds
    files = []
    for seed in range(100):
        files.append(scratch / f"tiny-{seed}.onnx")
        onnx.save(matmul(seed=seed), files[-1])
    rows: list[Row] = []
    for count in (1, 100):
        models = scratch / f"models-{count}"
        publish_models(models, {f"tiny@1.{i}.0": file for i, file in enumerate(files[:count])})
        rows += asyncio.run(_measure(models, count, windows))
    return rows


async def _measure(models: Path, count: int, windows: int) -> list[Row]:
    anywhere = Address("127.0.0.1", 0)
    settings = Settings(models=models, grpc=anywhere, http=anywhere, control=anywhere)
    async with running(settings, make_logger("json", "error")) as server:
        await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
        rows = [_row(f"{count} versions, no policy", server, windows, "", lambda n: "")]
        if count > 10:
            canaries = tuple(Canary(Version(1, i), 500) for i in range(1, 11))
            await server.parts.serving.traffic.put("tiny", Policy(Version(1), canaries), ChangeOrigin("benchmark", ""))
            keys = [f"user-{n}" for n in range(1000)]
            rows.append(_row(f"{count} versions, 10 canaries, no key", server, windows, "", lambda n: ""))
            rows.append(
                _row(f"{count} versions, 10 canaries, keys", server, windows, "", lambda n: keys[n % len(keys)])
            )
            rows.append(
                _row(f"{count} versions, 10 canaries, keys, ^1", server, windows, "^1", lambda n: keys[n % len(keys)])
            )
    return rows


def _row(name: str, server: Running, windows: int, selector: str, key_of: Callable[[int], str]) -> Row:
    route = server.services.router.route
    keys = [key_of(n) for n in range(CALLS)]
    times = []
    for _ in range(windows):
        start = time.perf_counter()
        for key in keys:
            route("tiny", selector, key)
        times.append((time.perf_counter() - start) / CALLS * 1e6)
    middle = statistics.median(times)
    return Row(name, middle, min(times), max(times), TARGET_US, False, f"{middle:.2f} us", "")
