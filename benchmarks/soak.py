"""Long-running checks: every caller gets the right answer, no change makes a request fail, and memory does not grow.

    python benchmarks/soak.py answers MODEL.onnx ... [--answers 10000]
    python benchmarks/soak.py lifecycle [--requests 200000]
    python benchmarks/soak.py flat [--requests 1000000] [--cycles 2000]

`answers` serves each model with the default configuration (with `--queued`, nothing runs inline and batches wait for
more requests). Eight clients send requests of one row, and each answer is compared with that of ONNX Runtime for this
row alone. `lifecycle` publishes, releases, loads, unloads, yanks and moves tags while clients send requests with every
kind of selector. `flat` sends requests over new connections, and loads and unloads a version, in rounds, and measures
the server's memory and open files after each round. Exit status 1 if an answer was wrong, a request failed, or memory
or the number of open files grew.
"""

import argparse
import asyncio
import itertools
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import grpc
import numpy as np
import onnx
import onnxruntime as ort
import psutil
from semver import Version

from harness.load import Generator, Target
from harness.servers import Served, matmul, turnout
from turnout.registry.manifest.signature import DataType, Signature, TensorSpec
from turnout.registry.onnx.model import read_model
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout.serving.sessions.tensor import NUMPY_DTYPES, Array
from turnout.testing import publish_models
from turnout_client import AsyncClient
from turnout_client.errors import TurnoutClientError
from turnout_proto.v1 import control_pb2 as pb
from turnout_proto.v1.control_pb2_grpc import ControlServiceStub

CLIENTS = 8
WORDS = ["the", "a", "an", "Cat", "of", "", "mat", "THE", "dog"]
SYMBOLIC_SIZE = 4
MODES = (("unary", 16), ("stream", 16), ("unary", 1), ("unary", 64))
"""The modes in which `flat` sends its requests, in turn: mode and number of requests in flight."""

QUEUED = {
    "TURNOUT_RUNTIME__INLINE_THRESHOLD_US": "0",
    "TURNOUT_RUNTIME__RUNNERS": "1",
    "TURNOUT_BATCHING__MAX_DELAY_MS": "20",
    "TURNOUT_BATCHING__ONLY_WHERE_IT_PAYS": "false",
}


def main() -> int:
    """Runs a check and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    scenes = parser.add_subparsers(dest="scene", required=True)
    answers = scenes.add_parser("answers", help="compare every answer with ONNX Runtime")
    answers.add_argument("models", nargs="+", type=Path)
    answers.add_argument(
        "--queued", action="store_true", help="run nothing inline, and let batches wait for more requests"
    )
    answers.add_argument("--answers", type=int, default=10_000, help="number of answers for each model")
    lifecycle = scenes.add_parser("lifecycle", help="changes under load")
    lifecycle.add_argument("--requests", type=int, default=200_000)
    flat = scenes.add_parser("flat", help="memory and open files over many requests and loads")
    flat.add_argument("--requests", type=int, default=1_000_000)
    flat.add_argument("--cycles", type=int, default=2_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="turnout-soak-") as scratch:
        if arguments.scene == "answers":
            outcome = check_answers(Path(scratch), arguments.models, arguments.answers, queued=arguments.queued)
        elif arguments.scene == "flat":
            outcome = check_flat(Path(scratch), arguments.requests, arguments.cycles)
        else:
            outcome = check_lifecycle(Path(scratch), arguments.requests)
    print(json.dumps(outcome, indent=1))
    return 1 if outcome["wrong"] or outcome["failed"] else 0


def check_answers(scratch: Path, files: list[Path], count: int, *, queued: bool) -> dict[str, object]:
    """Serves each of `files` as a model, and counts the answers that differ from those of a separate run."""
    repository = scratch / "models"
    publish_models(repository, {f"{file.stem.lower()}@1.0.0": file for file in files})
    reported: dict[str, object] = {}
    wrong = failed = 0
    with turnout(repository, os.environ | QUEUED if queued else None) as server:
        for file in files:
            seen = asyncio.run(_ask(server, file, count))
            reported[file.stem] = dict(seen)
            wrong += seen["wrong"]
            failed += seen["failed"]
    return {"wrong": wrong, "failed": failed, "models": reported}


async def _ask(server: Served, file: Path, count: int) -> Counter[str]:
    signature = read_model(file).signature
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [spec.name for spec in signature.outputs]
    seen: Counter[str] = Counter({"right": 0, "wrong": 0, "refused": 0, "failed": 0})
    numbers = iter(range(count))

    async def client(seed: int) -> None:
        rng = np.random.default_rng(seed)
        async with AsyncClient(server.grpc, timeout=60) as predictions:
            for _ in numbers:
                inputs = _one_row(signature, rng)
                try:
                    expected = session.run(names, inputs)
                except Exception:  # noqa: BLE001 - ONNX Runtime rejects these inputs, so the server must, too
                    expected = None
                try:
                    answer = await predictions.predict(file.stem.lower(), inputs)
                except TurnoutClientError as error:
                    seen[
                        "refused" if expected is None and error.code == grpc.StatusCode.INVALID_ARGUMENT else "failed"
                    ] += 1
                    continue
                right = expected is not None and all(
                    _same(answer[name], value) for name, value in zip(names, expected, strict=True)
                )
                seen["right" if right else "wrong"] += 1

    await asyncio.gather(*(client(seed) for seed in range(CLIENTS)))
    return seen


def _same(got: Array, expected: Array) -> bool:
    if got.shape != expected.shape:
        return False
    if got.dtype == object:
        return bool(np.array_equal(got.astype(str), expected.astype(str)))
    return bool(np.allclose(got, expected, rtol=1e-3, atol=1e-4, equal_nan=True))


def _one_row(signature: Signature, rng: np.random.Generator) -> dict[str, Array]:
    """Returns inputs of one row: a symbolic first dimension has size 1, and others get a small size for the request."""
    sizes: dict[str, int] = {}
    return {spec.name: _values(spec, rng, sizes) for spec in signature.inputs if not spec.has_default}


def _values(spec: TensorSpec, rng: np.random.Generator, sizes: dict[str, int]) -> Array:
    shape = []
    for axis, size in enumerate(spec.shape):
        if isinstance(size, int):
            shape.append(size)
        elif axis == 0:
            shape.append(1)
        else:
            shape.append(sizes.setdefault(str(size), int(rng.integers(1, SYMBOLIC_SIZE))))
    if spec.dtype is DataType.STRING:
        return rng.choice(WORDS, size=shape).astype(object)
    dtype = NUMPY_DTYPES[spec.dtype]
    if dtype.kind in "iu":
        return rng.integers(1, 5, size=shape).astype(dtype)
    return (rng.standard_normal(shape) * 60).astype(dtype)


def check_lifecycle(scratch: Path, count: int) -> dict[str, object]:
    """Changes the served versions in every way while clients send requests. Counts failed requests and changes."""
    repository = scratch / "models"
    file = scratch / "1.0.0.onnx"
    onnx.save(matmul(seed=0), file)
    publish_models(repository, {"tiny@1.0.0": file})
    with turnout(repository) as server:
        return asyncio.run(_change_under_load(server, repository, scratch, count))


async def _change_under_load(server: Served, models: Path, scratch: Path, count: int) -> dict[str, object]:
    failed: Counter[str] = Counter()
    answered: Counter[str] = Counter()
    changes: Counter[str] = Counter()
    numbers = iter(range(count))
    x = np.ones((1, 64), np.float32)
    began = time.monotonic()

    async def client(selector: str) -> None:
        # No retries, since even a momentary failure counts.
        async with AsyncClient(server.grpc, transport="stream", retries=0, timeout=30) as predictions:
            for _ in numbers:
                try:
                    answered[(await predictions.predict("tiny", {"x": x}, version=selector)).version] += 1
                except TurnoutClientError as error:
                    failed[f"{selector or 'plain'}: {type(error).__name__}: {error}"] += 1

    async with grpc.aio.insecure_channel(server.control) as channel:
        control = ControlServiceStub(channel)
        await control.SetTag(pb.SetTagRequest(model="tiny", tag="stable", version="1.0.0", actor="soak"))
        changer = asyncio.create_task(_change(control, models, scratch, changes))
        selectors = ["", "", "^1", "1.0.0", "stable", "latest", ">=1.0 <2", ""]
        clients = asyncio.gather(*(client(selector) for selector in selectors))
        await asyncio.wait([changer, clients], return_when=asyncio.FIRST_COMPLETED)
        if changer.done():
            changer.result()  # it ends only if it fails
        await clients
        changer.cancel()
    return {
        "wrong": 0,
        "failed": sum(failed.values()),
        "failures": dict(failed.most_common(5)),
        "answered": sum(answered.values()),
        "versions_that_answered": len(answered),
        "changes": dict(changes),
        "seconds": round(time.monotonic() - began),
    }


async def _change(control: ControlServiceStub, models: Path, scratch: Path, changes: Counter[str]) -> None:
    """Publishes a version and changes the served versions in every way, in rounds, until it is cancelled."""
    repository = Repository(models)
    ago: Callable[[int], str] = lambda number: f"1.{number}.0"  # noqa: E731 - short, and used at once
    for number in itertools.count(1):
        version = f"1.{number}.0"
        file = scratch / f"{version}.onnx"
        onnx.save(matmul(seed=number), file)
        await asyncio.to_thread(publish, repository, PublishRequest("tiny", Version.parse(version), file))
        named: Mapping[str, str] = {"model": "tiny", "version": version}
        steps = {
            "load": lambda n=named: control.LoadVersion(pb.LoadVersionRequest(**n)),
            "release": lambda n=named: control.ReleaseVersion(pb.ReleaseVersionRequest(**n, actor="soak")),
            "tag": lambda n=named: control.SetTag(pb.SetTagRequest(**n, tag="stable", actor="soak")),
        }
        if number > 3:
            old = {"model": "tiny", "version": ago(number - 3)}
            steps["unload"] = lambda n=old: control.UnloadVersion(pb.UnloadVersionRequest(**n))
        if number > 4:
            old = {"model": "tiny", "version": ago(number - 4)}
            steps["yank"] = lambda n=old: control.YankVersion(pb.YankVersionRequest(**n, actor="soak", reason="old"))
        for name, step in steps.items():
            await step()
            changes[name] += 1
        changes["publish"] += 1


ROUNDS = 20
SETTLED = ROUNDS // 5
"""Number of rounds after which caches are full. The memory of later rounds is compared with the memory then."""

GROWTH = 1.10
FILES = 8


def check_flat(scratch: Path, requests: int, cycles: int) -> dict[str, object]:
    """Measures the server's memory and open files over rounds of requests and loads. A failed request ends it."""
    generator = Generator()
    model = scratch / "tiny.onnx"
    onnx.save(matmul(), model)
    other = scratch / "other.onnx"
    onnx.save(matmul(512), other)
    publish_models(scratch / "models", {"tiny@1.0.0": model, "other@1.0.0": other})
    named = {"model": "other", "version": "1.0.0"}
    seen: list[tuple[int, int]] = []
    answered = 0
    with turnout(scratch / "models") as server, grpc.insecure_channel(server.control) as channel:
        control, process = ControlServiceStub(channel), psutil.Process(server.pid)
        target = Target(server.grpc, "tiny", "", "x", "f32", "1,64")
        for number in range(ROUNDS):
            while answered < requests * (number + 1) // ROUNDS:
                mode, in_flight = MODES[len(seen) % len(MODES)]
                answered += generator.run(target, mode, in_flight, 2.0).answers
            for _ in range(cycles // ROUNDS):
                control.UnloadVersion(pb.UnloadVersionRequest(**named), timeout=60)
                control.LoadVersion(pb.LoadVersionRequest(**named), timeout=60)
            seen.append((process.memory_info().rss, process.num_fds()))
            print(f"{answered:,} answers, {seen[-1][0] >> 20} MiB, {seen[-1][1]} files", file=sys.stderr, flush=True)
    early, late = seen[SETTLED - 1], seen[-1]
    return {
        "wrong": int(late[0] > early[0] * GROWTH) + int(late[1] > early[1] + FILES),
        "failed": 0,
        "answered": answered,
        "cycles": cycles // ROUNDS * ROUNDS,
        "mebibytes": [memory >> 20 for memory, _ in seen],
        "files": [files for _, files in seen],
    }


if __name__ == "__main__":
    sys.exit(main())
