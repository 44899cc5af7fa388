"""On a CUDA device: throughput and p99 by requests in flight, co-resident versions, memory by version and after unload.

    python benchmarks/gpu.py [--seconds S]     writes benchmarks/results/gpu-<machine>.json and prints it

A MatMul and magika 3.3.0. Turnout is driven in process through its data plane (`DataPlane.answer`), ONNX Runtime
directly through IO binding by one thread per request in flight: what is compared is queueing, batching and binding,
without gRPC.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from semver import Version

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from in_process import InProcess
from servers import matmul
from turnout.app.server import Running, running
from turnout.cli.serve.cuda import cuda_driver
from turnout.config import Address, Runtime, Settings
from turnout.serving.data_plane.data_plane import DataPlane
from turnout.serving.sessions import providers
from turnout.serving.sessions.memory import cuda_used_bytes
from turnout.telemetry.logging import make_logger
from turnout.testing import publish_models
from zoo import fetch

SIZE = 2048
VERSIONS = ("1.0.0", "2.0.0", "3.0.0")
MAGIKA = "3.3.0"
IN_FLIGHT = (1, 2, 4, 8, 16, 32, 64)
RESULTS = Path(__file__).resolve().parent / "results"

Inputs = Mapping[str, NDArray[np.generic]]

_RANDOM = np.random.default_rng(1)
X: Inputs = {"x": _RANDOM.standard_normal((1, SIZE)).astype(np.float32)}
BYTES: Inputs = {"bytes": _RANDOM.integers(0, 256, (1, 2048)).astype(np.int32)}


def direct(model: Path, inputs: Inputs, in_flight: int, seconds: float) -> dict[str, float]:
    """Drives one CUDA session by as many threads as requests in flight, each with a binding of its own."""
    session = ort.InferenceSession(str(model), providers=[providers.CUDA, providers.CPU])
    outputs = [output.name for output in session.get_outputs()]
    ready = threading.Barrier(in_flight)
    latencies: list[float] = []

    def work() -> None:
        binding = session.io_binding()

        def run() -> None:
            for name, array in inputs.items():
                binding.bind_cpu_input(name, array)
            for name in outputs:
                binding.bind_output(name, "cpu")
            session.run_with_iobinding(binding)
            binding.copy_outputs_to_cpu()

        for _ in range(5):
            run()
        ready.wait()
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            run()
            latencies.append(time.perf_counter() - start)

    threads = [threading.Thread(target=work) for _ in range(in_flight)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _summary(latencies, seconds)


async def served(
    plane: DataPlane, model: str, versions: Sequence[str], inputs: Inputs, in_flight: int, seconds: float
) -> dict[str, float]:
    """Keeps so many requests in flight on Turnout's data plane, spread over `versions`."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def client(index: int) -> None:
        while (start := time.perf_counter()) < end:
            await plane.answer(InProcess(model, versions[index % len(versions)], inputs))
            latencies.append(time.perf_counter() - start)

    await asyncio.gather(*(client(index) for index in range(in_flight)))
    return _summary(latencies, seconds)


async def measure(seconds: float) -> dict[str, object]:
    """Returns everything that this benchmark reports."""
    loopback = Address("127.0.0.1", 0)
    with tempfile.TemporaryDirectory(prefix="turnout-gpu-") as scratch:
        files = {f"magika@{MAGIKA}": fetch("magika", MAGIKA)}
        for seed, version in enumerate(VERSIONS):
            files[f"m@{version}"] = Path(scratch) / f"{version}.onnx"
            onnx.save(matmul(SIZE, seed), files[f"m@{version}"])
        models = Path(scratch) / "models"
        publish_models(models, files)
        settings = Settings(
            models=models, grpc=loopback, http=loopback, control=loopback, runtime=Runtime(providers=("cuda",))
        )
        async with running(settings, make_logger("json", "warning")) as server:
            await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
            result = {"machine": _machine(), "onnxruntime": ort.__version__}
            return result | await _speed(server, files, seconds) | await _memory(server, files)


async def _speed(server: Running, files: Mapping[tuple[str, str], Path], seconds: float) -> dict[str, object]:
    inference = server.services.inference

    async def row(model: str, version: str, inputs: Inputs, in_flight: int) -> dict[str, object]:
        ours = await served(inference, model, [version], inputs, in_flight, seconds)
        theirs = await asyncio.to_thread(direct, files[model, version], inputs, in_flight, seconds)
        ratio = round(ours["requests_per_second"] / theirs["requests_per_second"], 2)
        return {"in_flight": in_flight, "ratio": ratio, "turnout": ours, "onnxruntime": theirs}

    magika = [await row("magika", MAGIKA, BYTES, n) for n in IN_FLIGHT]
    matmuls = [
        await row("m", VERSIONS[0], X, n) | {"three_versions": await served(inference, "m", VERSIONS, X, n, seconds)}
        for n in IN_FLIGHT
    ]
    settled = cuda_used_bytes(0)
    await served(inference, "m", VERSIONS[:2], X, 2, seconds * 5)
    loaded = [
        (f"{name}@{entry.version}", entry.handle.loaded)
        for name, known in server.services.catalog.snapshot.models.items()
        for entry in known.versions.values()
        if entry.handle is not None and entry.handle.loaded is not None
    ]
    return {
        "matmul_2048_float32": matmuls,
        "magika_3_3_0": magika,
        "batching": {name: version.plan.reason for name, version in loaded},
        "alternating_growth_bytes": cuda_used_bytes(0) - settled,
    }


async def _memory(server: Running, files: Iterable[tuple[str, str]]) -> dict[str, object]:
    """Loads one version after the other: what CUDA takes once for a process, it has taken by now."""
    manager = server.services.manager
    versions = [(model, Version.parse(version)) for model, version in files]
    for model, version in versions:
        await manager.unload(model, version)
    empty, taken = cuda_used_bytes(0), {}
    for model, version in versions:
        entry = await manager.load(model, version)
        assert entry.handle is not None
        taken[f"{model}@{version}"] = dict(entry.handle.recorder.memory_bytes)
    for model, version in versions:
        await manager.unload(model, version)
    return {"memory_by_version_bytes": taken, "left_after_unload_bytes": cuda_used_bytes(0) - empty}


def _summary(latencies: list[float], seconds: float) -> dict[str, float]:
    ordered = sorted(latencies)
    return {
        "requests_per_second": round(len(ordered) / seconds, 1),
        "p50_ms": round(statistics.median(ordered) * 1e3, 3),
        "p99_ms": round(ordered[int(len(ordered) * 0.99)] * 1e3, 3),
    }


def _machine() -> str:
    names = [device.name for device in cuda_driver().devices] or ["CUDA device"]
    return f"{names[0]}, {len(os.sched_getaffinity(0))} cores, {platform.machine()}, Python {platform.python_version()}"


def main() -> int:
    """Returns 1 where there is no device to measure on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each window")
    seconds = parser.parse_args().seconds
    providers.start_runtime()
    report = next(report for report in providers.probe() if report.name == providers.CUDA)
    if not report.usable:
        print(f"no CUDA device to measure on: {report.detail}", file=sys.stderr)
        return 1
    result = asyncio.run(measure(seconds))
    name = "".join(c if c.isalnum() else "-" for c in str(result["machine"]).split(",")[0].lower())
    (RESULTS / f"gpu-{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
