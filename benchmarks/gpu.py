"""On a CUDA device: throughput and p99 by requests in flight, co-resident versions, memory by version and after unload.

    python benchmarks/gpu.py [--seconds S]     writes benchmarks/results/gpu-<machine>.json and prints it

Turnout is driven in process through its data plane (`Inference.infer`), ONNX Runtime directly through IO binding by one
thread per request in flight: what is compared is queueing, batching and binding, without gRPC.
"""

import argparse
import asyncio
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from semver import Version

from servers import matmul, publish_all
from turnout.app import running
from turnout.config import Address, Runtime, Settings
from turnout.serving import providers
from turnout.serving.inference import Inference, InferenceRequest
from turnout.serving.memory import cuda_used_bytes
from turnout.telemetry.logging import make_logger

SIZE = 2048
VERSIONS = ("1.0.0", "2.0.0", "3.0.0")
RESULTS = Path(__file__).resolve().parent / "results"
X = np.random.default_rng(1).standard_normal((1, SIZE)).astype(np.float32)


def direct(model: Path, in_flight: int, seconds: float) -> dict[str, float]:
    """Drives one CUDA session by as many threads as requests in flight, each with a binding of its own."""
    session = ort.InferenceSession(str(model), providers=[providers.CUDA, providers.CPU])
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    def work() -> None:
        binding = session.io_binding()
        while (start := time.perf_counter()) < end:
            binding.bind_cpu_input("x", X)
            binding.bind_output("y", "cpu")
            session.run_with_iobinding(binding)
            binding.copy_outputs_to_cpu()
            latencies.append(time.perf_counter() - start)

    threads = [threading.Thread(target=work) for _ in range(in_flight)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _summary(latencies, seconds)


async def served(inference: Inference, in_flight: int, seconds: float, versions: tuple[str, ...]) -> dict[str, float]:
    """Keeps so many requests in flight on Turnout's data plane, spread over `versions`."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def client(index: int) -> None:
        while (start := time.perf_counter()) < end:
            await inference.infer(InferenceRequest("m", versions[index % len(versions)], {"x": X}))
            latencies.append(time.perf_counter() - start)

    await asyncio.gather(*(client(index) for index in range(in_flight)))
    return _summary(latencies, seconds)


async def measure(seconds: float) -> dict[str, object]:
    """Returns everything that this benchmark reports."""
    loopback = Address("127.0.0.1", 0)
    with tempfile.TemporaryDirectory(prefix="turnout-gpu-") as scratch:
        files = {}
        for seed, version in enumerate(VERSIONS):
            files["m", version] = Path(scratch) / f"{version}.onnx"
            onnx.save(matmul(SIZE, seed), files["m", version])
        models = Path(scratch) / "models"
        publish_all(models, files)
        settings = Settings(
            models=models, grpc=loopback, http=loopback, control=loopback, runtime=Runtime(providers=("cuda",))
        )
        empty = cuda_used_bytes(0)
        async with running(settings, make_logger("json", "warning")) as server:
            catalog, manager = server.services.catalog, server.services.manager
            await catalog.wait_for(lambda snapshot: snapshot.complete)
            result: dict[str, object] = {"machine": _machine(), "model": f"MatMul {SIZE}x{SIZE} float32", "rows": []}
            for in_flight in (1, 2, 4, 8, 16, 32, 64):
                result["rows"].append(  # type: ignore[attr-defined]  # a list, just above
                    {
                        "in_flight": in_flight,
                        "turnout": await served(server.services.inference, in_flight, seconds, VERSIONS[:1]),
                        "onnxruntime": await asyncio.to_thread(direct, files["m", "1.0.0"], in_flight, seconds),
                        "three_versions": await served(server.services.inference, in_flight, seconds, VERSIONS),
                    }
                )
            settled = cuda_used_bytes(0)
            await served(server.services.inference, 2, seconds * 5, VERSIONS[:2])
            result["alternating_growth_bytes"] = cuda_used_bytes(0) - settled
            result["memory_by_version_bytes"] = {
                str(entry.version): dict(entry.handle.recorder.memory_bytes)
                for entry in catalog.snapshot.models["m"].versions.values()
                if entry.handle is not None
            }
            for version in VERSIONS:
                await manager.unload("m", Version.parse(version))
            result["left_after_unload_bytes"] = cuda_used_bytes(0) - empty
    return result


def _summary(latencies: list[float], seconds: float) -> dict[str, float]:
    ordered = sorted(latencies)
    return {
        "requests_per_second": round(len(ordered) / seconds, 1),
        "p50_ms": round(statistics.median(ordered) * 1e3, 3),
        "p99_ms": round(ordered[int(len(ordered) * 0.99)] * 1e3, 3),
    }


def _machine() -> str:
    done = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True)
    return f"{done.stdout.strip() or 'CUDA device'}, {platform.machine()}, Python {platform.python_version()}"


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
