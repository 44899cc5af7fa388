"""Compares Turnout on a CUDA device with ONNX Runtime, in parts that take less than five minutes each.

    python benchmarks/gpu.py start                        checks that everything starts: run it first, for a minute
    python benchmarks/gpu.py speed --model magika         requests per second and latency, by requests in flight
           [--graphs off|auto] [--spin US] [--way in-process|grpc] [--seconds S]
    python benchmarks/gpu.py memory                       co-resident versions, and memory left after unloading
    python benchmarks/gpu.py rollback                     a slow canary, rolled back under load
    python benchmarks/gpu.py report FILE...               a table of all results with their targets

Each part adds its results to `--out`, by default `benchmarks/results/gpu-<device>.json`, and exits with 1 if something
does not start or is not correct. `tests/gpu` has tests of the same features.

In process, Turnout is called through its data plane (`DataPlane.answer`). It is compared with a single ONNX Runtime
session, called from one thread with its own IO binding for each request in flight, so the difference is queueing,
batching and binding. Over gRPC, the load generator of `benchmarks/harness/load.py` runs in a separate process; if it
cannot be compiled on the machine, set `LOADGEN` to a compiled one. `--device cpu` runs the same code without a GPU, but
its numbers are meaningless.
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
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import uvloop
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from semver import Version

from harness.in_process import InProcess
from harness.load import Generator, Target
from harness.servers import matmul
from turnout.app.server import Running, running
from turnout.config import Address, Runtime, Settings
from turnout.serving.sessions import providers
from turnout.serving.sessions.cuda_driver import cuda_driver
from turnout.serving.sessions.memory import used_bytes
from turnout.telemetry.logging import make_logger
from turnout.testing import publish_models
from zoo import fetch

SIZE = 2048
VERSIONS = ("1.0.0", "2.0.0", "3.0.0")
MAGIKA = "3.3.0"
IN_FLIGHT = (1, 2, 4, 8, 16, 32, 64)
RESULTS = Path(__file__).resolve().parent / "results"

LEAST_RATIO, MOST_EXTRA_US, MOST_LEFT_BYTES = 0.9, 60.0, 0
"""Targets of issue 20: the ratio at every point, the latency with one in flight, and memory left after unloading."""

Inputs = Mapping[str, NDArray[np.generic]]
Part = dict[str, Any]

_RANDOM = np.random.default_rng(1)


class Bench:
    """The device, models and inputs of a benchmark run."""

    def __init__(self, scratch: Path, device: str, size: int) -> None:
        """Prepares the models in `scratch`. `size` is the size of the MatMul."""
        self.scratch = scratch
        self.device = "cuda:0" if device == "cuda" else "cpu"
        self.provider = providers.CUDA if device == "cuda" else providers.CPU
        self.files: dict[tuple[str, str], Path] = {("magika", MAGIKA): fetch("magika", MAGIKA)}
        for seed, version in enumerate(VERSIONS):
            self.files["matmul", version] = scratch / f"{version}.onnx"
            onnx.save(matmul(size, seed), self.files["matmul", version])
        self.inputs: Mapping[str, Inputs] = {
            "matmul": {"x": _RANDOM.standard_normal((1, size)).astype(np.float32)},
            "magika": {"bytes": _RANDOM.integers(0, 256, (1, 2048)).astype(np.int32)},
        }
        self.targets = {"matmul": ("x", "f32", f"1,{size}"), "magika": ("bytes", "i32", "1,2048")}

    @asynccontextmanager
    async def server(self, *models: str, **runtime: Any) -> AsyncIterator[Running]:
        """Runs a server in this process, with all versions of the given models loaded."""
        root = Path(tempfile.mkdtemp(dir=self.scratch))
        publish_models(
            root, {f"{name}@{version}": file for (name, version), file in self.files.items() if name in models}
        )
        loopback = Address("127.0.0.1", 0)
        if self.device == "cpu":
            runtime["inline_threshold_us"] = 0  # a GPU has no runs on the event loop
        runtime = {"providers": (self.device.partition(":")[0],)} | runtime
        settings = Settings(
            models=root, grpc=loopback, http=loopback, control=loopback, runtime=Runtime(**runtime)
        )  # fmt: skip
        async with running(settings, make_logger("json", "error")) as server:
            await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
            yield server

    def session(self, model: str, version: str) -> ort.InferenceSession:
        """Creates an ONNX Runtime session with default options, except for the provider."""
        wanted = [self.provider, providers.CPU][: 1 if self.device == "cpu" else 2]
        return ort.InferenceSession(str(self.files[model, version]), providers=wanted)


def direct(session: ort.InferenceSession, inputs: Inputs, in_flight: int, seconds: float) -> Part:
    """Runs one session from `in_flight` threads, each with its own IO binding."""
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


async def in_process(server: Running, model: str, versions: Sequence[str], inputs: Inputs, n: int, s: float) -> Part:
    """Keeps `n` requests in flight on the data plane for `s` seconds, and measures the parts of their latency."""
    latencies: list[float] = []
    legs: list[tuple[float, float]] = []
    end = time.perf_counter() + s

    async def client(index: int) -> None:
        while (start := time.perf_counter()) < end:
            result = await server.services.inference.answer(InProcess(model, versions[index % len(versions)], inputs))
            latencies.append(time.perf_counter() - start)
            legs.append((result.answer.queue_seconds, result.answer.compute_seconds))

    await asyncio.gather(*(client(index) for index in range(n)))
    queue, compute = (statistics.median(leg) * 1e6 for leg in zip(*legs, strict=True))
    rest = statistics.median(total - sum(leg) for total, leg in zip(latencies, legs, strict=True)) * 1e6
    legs_us = {"to_the_runner": round(queue, 1), "run": round(compute, 1), "back": round(rest, 1)}
    return _summary(latencies, s) | {"legs_us": legs_us}


async def over_grpc(server: Running, generator: Generator, target: Target, n: int, s: float) -> Part:
    """Keeps `n` unary gRPC calls in flight, from another process, for `s` seconds."""
    load = await asyncio.to_thread(generator.run, target, "unary", n, s)
    return {"requests_per_second": round(load.rps, 1), "p50_ms": round(load.p50_ms, 3), "p99_ms": round(load.p99_ms, 3)}


async def start(bench: Bench, _: argparse.Namespace) -> tuple[Part, list[str]]:
    """Checks that everything that the other parts use starts and computes correct outputs."""
    failed: list[str] = []
    found: Part = {"device": bench.device, "libraries_missing": list(providers.missing_cuda_libraries())}

    async def check(name: str, seconds: float = 60, atol: float = 1e-3, **runtime: Any) -> None:
        began, before = time.monotonic(), len(failed)
        try:
            async with asyncio.timeout(seconds), bench.server("magika", "matmul", **runtime) as server:
                found[name] = _described(server)
                for model, version in (("magika", MAGIKA), ("matmul", VERSIONS[0])):
                    inputs = bench.inputs[model]
                    result = await server.services.inference.answer(InProcess(model, version, inputs))
                    cpu = ort.InferenceSession(str(bench.files[model, version]), providers=[providers.CPU])
                    for (_, got), expected in zip(result.outputs, cpu.run(None, inputs), strict=True):
                        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=atol)
        except Exception as error:  # noqa: BLE001 - record any failure and try the next
            failed.append(f"{name}: {type(error).__name__}: {error}")
        _say(f"{name}: {time.monotonic() - began:.1f} s{'' if len(failed) == before else ', failed'}")

    await check("plain")
    await check("runners that look for requests", gpu_spin_us=100)
    await check("CUDA graphs", cuda_graphs="auto")
    if bench.device != "cpu" and (graphs := found.get("CUDA graphs")):
        told = {name: version["cuda_graphs"] for name, version in graphs.items()}
        _say(json.dumps(told, indent=2))
        if not any(reason.startswith("captured") for reason in told.values()):
            failed.append(f"no version has CUDA graphs: {told}")
    await _tensorrt(bench, found, failed, check)
    try:
        Generator()
    except SystemExit as error:
        _say(f"no load generator, so no `speed --way grpc`: {error}")
        found["load_generator"] = str(error)
    return found, failed


async def _tensorrt(bench: Bench, found: Part, failed: list[str], check: Callable[..., Awaitable[None]]) -> None:
    """Checks that TensorRT, if it is installed, builds and caches engines, and loads cached engines the second time."""
    report = next(report for report in providers.probe() if report.name == providers.TENSORRT)
    if not report.usable:
        found["tensorrt"] = report.detail
        _say(f"no TensorRT, so it is not tried: {report.detail}")
        return
    cache = bench.scratch / "engines"
    wanted = {"providers": ("tensorrt", "cuda", "cpu"), "tensorrt_cache": str(cache), "tensorrt_fp16": "golden"}
    for name in ("TensorRT", "TensorRT, engines kept"):
        await check(name, 120, 0.5, **wanted)  # TensorRT uses TF32, which ONNX Runtime cannot turn off
        told = {version: body["tensorrt"] for version, body in found.get(name, {}).items()}
        _say(json.dumps(told, indent=2))
        if not told or not all(reason.startswith("used") for reason in told.values()):
            failed.append(f"{name}: {told}")
    if not any(cache.rglob("*.engine")):
        failed.append("TensorRT keeps no engine")


async def speed(bench: Bench, arguments: argparse.Namespace) -> tuple[Part, list[str]]:
    """Measures a model with the given settings, alternating with ONNX Runtime, for each number in flight."""
    model, seconds = arguments.model, arguments.seconds
    version = MAGIKA if model == "magika" else VERSIONS[0]
    inputs, session = bench.inputs[model], bench.session(model, version)
    generator = Generator() if arguments.way == "grpc" else None
    rows: list[Part] = []
    runtime = {"cuda_graphs": arguments.graphs, "gpu_spin_us": arguments.spin, "runners": arguments.runners}
    async with bench.server(model, **runtime) as server:
        told = _described(server)[f"{model}@{version}"]
        for n in arguments.in_flight:
            pairs = []
            for _ in range(arguments.windows):
                if generator is None:
                    ours = await in_process(server, model, [version], inputs, n, seconds)
                else:
                    target = Target(str(server.grpc), model, version, *bench.targets[model])
                    ours = await over_grpc(server, generator, target, n, seconds)
                theirs = await asyncio.to_thread(direct, session, inputs, n, seconds)
                pairs.append((ours, theirs))
            ratios = sorted(ours["requests_per_second"] / theirs["requests_per_second"] for ours, theirs in pairs)
            row = {
                "in_flight": n,
                "ratio": round(statistics.median(ratios), 2),
                "ratios": [round(r, 2) for r in ratios],
            }
            rows.append(row | {"turnout": pairs[-1][0], "onnxruntime": pairs[-1][1]})
            _say(json.dumps(rows[-1]))
    return {"model": model, "way": arguments.way, "settings": runtime, "version": told, "rows": rows}, []


async def memory(bench: Bench, arguments: argparse.Namespace) -> tuple[Part, list[str]]:
    """Measures three co-resident versions used in turn, and memory by version and after unloading."""
    found: Part = {}
    async with bench.server("magika", "matmul", cuda_graphs=arguments.graphs) as server:
        inputs = bench.inputs["matmul"]
        found["three_versions"] = [
            {"in_flight": n} | await in_process(server, "matmul", VERSIONS, inputs, n, arguments.seconds)
            for n in arguments.in_flight
        ]
        settled = used_bytes(bench.device)
        await in_process(server, "matmul", VERSIONS[:2], inputs, 2, arguments.seconds * 3)
        found["growth_of_two_in_turn_bytes"] = used_bytes(bench.device) - settled
        manager = server.parts.serving.manager
        versions = [(model, Version.parse(version)) for model, version in bench.files]
        for model, version in versions:
            await manager.unload(model, version)
        empty, taken = used_bytes(bench.device), {}
        for model, version in versions:
            entry = await manager.load(model, version)
            taken[f"{model}@{version}"] = dict(entry.handle.recorder.memory_bytes) if entry.handle else entry.reason
        for model, version in versions:
            await manager.unload(model, version)
        found |= {"by_version_bytes": taken, "left_bytes": used_bytes(bench.device) - empty}
    failed = []
    if bench.device != "cpu" and found["left_bytes"] > MOST_LEFT_BYTES:
        failed.append(f"{found['left_bytes']:,} bytes are left after unload")
    return found, failed


async def rollback(_: Bench, __: argparse.Namespace) -> tuple[Part, list[str]]:
    """Runs a rollout with a slow candidate on a server process under load, which chooses its device itself."""
    from magika.process import serving
    from magika.rollouts import ENVIRONMENT, SCENES, play
    from magika.rollouts import publish_all as publish_scenes

    def run() -> Any:
        with tempfile.TemporaryDirectory(prefix="turnout-gpu-") as scratch:
            root = publish_scenes(Path(scratch))
            with serving(root, ENVIRONMENT, show=False) as server:
                return play(server, SCENES["slow"])

    outcome = await asyncio.to_thread(run)
    found = {
        "state": outcome.rollout.state, "verdict": outcome.rollout.verdict, "seconds": outcome.seconds,
        "requests": outcome.harm.requests, "errors": dict(outcome.harm.errors), "slow": outcome.harm.slow,
    }  # fmt: skip
    return found, [] if outcome.as_expected else [f"it ended {outcome.rollout.state}: {outcome.rollout.verdict}"]


def report(paths: Sequence[Path]) -> int:
    """Prints all results with their targets, and returns the number of missed targets."""
    console, missed = Console(width=140), 0
    table = Table("model", "way", "graphs", "spin us", "in flight", "ratio", "p50 ms, direct", "legs us: to, run, back")
    for path in paths:
        body = json.loads(path.read_text())
        for name, part in sorted(body["parts"].items()):
            for row in part.get("rows", ()):
                ours, theirs = row["turnout"], row["onnxruntime"]
                extra = (ours["p50_ms"] - theirs["p50_ms"]) * 1e3
                late = row["in_flight"] == 1 and extra > MOST_EXTRA_US
                low = row["ratio"] < LEAST_RATIO
                missed += low + late
                legs = ours.get("legs_us", {})
                table.add_row(
                    part["model"], part["way"], part["settings"]["cuda_graphs"], str(part["settings"]["gpu_spin_us"]),
                    str(row["in_flight"]), f"[{'red' if low else 'green'}]{row['ratio']:.2f}[/]",
                    f"[{'red' if late else 'default'}]{ours['p50_ms']:.3f}[/], {theirs['p50_ms']:.3f}",
                    ", ".join(f"{us:.0f}" for us in legs.values()),
                )  # fmt: skip
            if "left_bytes" in part:
                console.print(f"{name}: {part['left_bytes']:,} bytes left after unload; {part['by_version_bytes']}")
            if part.get("failed"):
                missed += len(part["failed"])
                console.print(f"[red]{name}: {'; '.join(part['failed'])}[/]")
        console.print(f"{body['machine']}, onnxruntime {body['onnxruntime']}")
    console.print(table)
    console.print(
        f"{missed} missed: ratio >= {LEAST_RATIO} everywhere, p50 at 1 within {MOST_EXTRA_US:.0f} us of direct"
    )
    return missed


def _described(server: Running) -> Part:
    return {
        f"{name}@{entry.version}": {
            "state": str(entry.state), "reason": entry.reason, "providers": list(entry.providers),
            "batching": entry.batching, "cuda_graphs": entry.cuda_graphs, "tensorrt": entry.tensorrt,
            "load_seconds": entry.load_seconds,
        }
        for name, known in server.services.catalog.snapshot.models.items()
        for entry in known.versions.values()
    }  # fmt: skip


def _summary(latencies: Sequence[float], seconds: float) -> Part:
    ordered = sorted(latencies)
    return {
        "requests_per_second": round(len(ordered) / seconds, 1),
        "p50_ms": round(statistics.median(ordered) * 1e3, 3),
        "p99_ms": round(ordered[int(len(ordered) * 0.99)] * 1e3, 3),
    }


def _machine(device: str) -> str:
    names = [found.name for found in cuda_driver().devices] if device == "cuda" else ["CPU"]
    cores = len(os.sched_getaffinity(0))
    return f"{(names or ['CUDA device'])[0]}, {cores} cores, {platform.machine()}, Python {platform.python_version()}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _write(out: Path, machine: str, name: str, part: Part) -> None:
    body = json.loads(out.read_text()) if out.exists() else {}
    if body.get("machine") != machine or body.get("onnxruntime") != ort.__version__ or "parts" not in body:
        body = {"machine": machine, "onnxruntime": ort.__version__, "parts": {}}
    body["parts"][name] = part
    out.write_text(json.dumps(body, indent=2) + "\n")


_PARTS: Mapping[str, Callable[[Bench, argparse.Namespace], Any]] = {
    "start": start, "speed": speed, "memory": memory, "rollback": rollback,
}  # fmt: skip


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*_PARTS, "report"])
    parser.add_argument("files", nargs="*", type=Path, help="result files, for report")
    parser.add_argument("--model", choices=["magika", "matmul"], default="matmul")
    parser.add_argument("--way", choices=["in-process", "grpc"], default="in-process")
    parser.add_argument("--graphs", choices=["off", "auto"], default="off")
    parser.add_argument("--spin", type=int, default=0, metavar="US", help="runtime.gpu_spin_us")
    parser.add_argument("--runners", type=int, default=0, help="runtime.runners")
    parser.add_argument("--in-flight", type=int, nargs="+", default=IN_FLIGHT)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each window")
    parser.add_argument(
        "--windows", type=int, default=3, help="windows for each number in flight, alternating with ONNX Runtime"
    )
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio", help="event loop, for decision 35")
    parser.add_argument("--size", type=int, default=SIZE, help="size of the MatMul")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path, help="JSON file to add the results to")
    return parser.parse_args()


def main() -> int:
    """Runs one part. Returns 1 if there is no device, something does not start, or a result is not correct, else 0."""
    arguments = _parsed()
    if arguments.part == "report":
        return 1 if report(arguments.files) else 0
    providers.start_runtime()
    if arguments.device == "cuda":
        found = next(one for one in providers.probe() if one.name == providers.CUDA)
        if not found.usable:
            _say(f"no CUDA device to measure on: {found.detail}")
            return 1
    machine = _machine(arguments.device)
    slug = "".join(c if c.isalnum() else "-" for c in machine.split(",")[0].lower())
    out = arguments.out or RESULTS / f"gpu-{slug}.json"
    with tempfile.TemporaryDirectory(prefix="turnout-gpu-") as scratch:
        bench = Bench(Path(scratch), arguments.device, arguments.size)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop if arguments.loop == "uvloop" else None) as runner:
            part, failed = runner.run(_PARTS[arguments.part](bench, arguments))
    name = arguments.part if arguments.loop == "asyncio" else f"{arguments.part} on {arguments.loop}"
    if arguments.part == "speed":
        name += f", {arguments.model}, {arguments.way}, graphs {arguments.graphs}, spin {arguments.spin}"
    _write(out, machine, name, part | {"failed": failed})
    for line in failed:
        _say(f"failed: {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
