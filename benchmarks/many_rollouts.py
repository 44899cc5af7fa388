"""The cost of many simultaneous rollouts on several servers: duration of ticks, CPU, rows and size of the state store.

`python benchmarks/many_rollouts.py [--servers N] [--models N] [--seconds S] [--state URL]`; prints one JSON object.
"""

import argparse
import asyncio
import json
import os
import sqlite3
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import psutil
from semver import Version

from harness.servers import Served, matmul, turnout
from turnout.config import Settings
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout.state.store import StateStore
from turnout_proto import tensors
from turnout_proto.v1 import prediction_pb2, rollout_pb2
from turnout_proto.v1.control_pb2_grpc import ControlServiceStub
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub

PLAN = {
    "steps": [{"weight": 0.25, "soak_s": 36000}],
    "threshold_samples": 20,
    "warm_requests": 0,
    "min_requests": 1,
}
_TICK_SECONDS = 5.0


def main() -> None:
    """Runs the benchmark and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=100.0, help="requests per second, over all servers and models")
    parser.add_argument("--state", default="", help="URL of the state store; SQLite beside the models by default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        models = _published(Path(scratch), arguments.models, arguments.state)
        environment = os.environ | {
            "TURNOUT_RUNTIME__PROVIDERS": "cpu", "TURNOUT_RUNTIME__RUNNERS": "1",
            "TURNOUT_ROLLOUT__TICK_S": str(_TICK_SECONDS), "TURNOUT_STATE": arguments.state,
        }  # fmt: skip
        served = [stack.enter_context(turnout(models, environment)) for _ in range(arguments.servers)]
        print(json.dumps(asyncio.run(_measured(served, models, arguments)), indent=1))


def _published(scratch: Path, count: int, state: str) -> Path:
    models = scratch / "models"
    repository = Repository(models)
    files = [scratch / f"{version}.onnx" for version in range(2)]
    for file in files:
        onnx.save(matmul(8), file)
    with StateStore.open(Settings(models=models, state=state).state_url) as store:
        for number in range(count):
            for version, file in enumerate(files, start=1):
                exact = Version(version)
                publish(repository, PublishRequest(f"m{number}", exact, file))
                if version == 1:
                    store.release(f"m{number}", exact, actor="benchmark", reason="")
    return models


async def _measured(served: Sequence[Served], models: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    names = [f"m{number}" for number in range(arguments.models)]
    channels = [grpc.aio.insecure_channel(server.grpc) for server in served]
    stubs = [PredictionServiceStub(channel) for channel in channels]
    value = tensors.encode("x", np.zeros((1, 8), np.float32))
    sent = 0

    async def load(seconds: float) -> None:
        nonlocal sent
        ends, gap = time.monotonic() + seconds, 1 / arguments.rate
        due = time.monotonic()
        while (now := time.monotonic()) < ends:
            request = prediction_pb2.PredictRequest(model=names[sent % len(names)], inputs=[value])
            await stubs[sent // len(names) % len(stubs)].Predict(request, timeout=30)
            sent += 1
            due = max(due + gap, now)
            await asyncio.sleep(max(due - time.monotonic(), 0))

    await load(arguments.models * len(served) * 25 / arguments.rate)  # each model's thresholds take 20 requests
    idle = await _spent(served, load, arguments.seconds / 2)
    async with grpc.aio.insecure_channel(served[0].control) as channel:
        control = ControlServiceStub(channel)
        for name in names:
            start = rollout_pb2.StartRolloutRequest(model=name, version="2.0.0", plan_json=json.dumps(PLAN))
            await control.StartRollout(start, timeout=60)
    await load(30.0)
    before = _rows(models)
    busy = await _spent(served, load, arguments.seconds)
    after = _rows(models)
    for open_channel in channels:
        await open_channel.close()
    ticks = arguments.seconds / _TICK_SECONDS
    return {
        "servers": len(served), "rollouts": len(names), "tick_seconds": _TICK_SECONDS, "requests": sent,
        "cpu_share_before": idle["cpu"], "cpu_share": busy["cpu"],
        "tick_seconds_driver_median": busy["ticks"][0], "tick_seconds_others_median": busy["ticks"][1:],
        "late_counts": busy["late"],
        "bytes_per_tick": (after.get("bytes", 0) - before.get("bytes", 0)) / ticks,
        "tick_rows_per_tick": (after.get("rollout_ticks", 0) - before.get("rollout_ticks", 0)) / ticks,
        "counts_waiting": after.get("rollout_counts"), "rows": after,
    }  # fmt: skip


async def _spent(served: Sequence[Served], load: Any, seconds: float) -> dict[str, Any]:
    processes = [psutil.Process(server.pid) for server in served]
    before = [sum(p.cpu_times()[:2]) for p in processes]
    began = time.monotonic()
    durations: list[list[float]] = [[] for _ in served]
    task = asyncio.create_task(load(seconds))
    while not task.done():
        await asyncio.sleep(min(_TICK_SECONDS / 2, seconds / 4))
        for number, server in enumerate(served):
            durations[number].append(await asyncio.to_thread(_metric, server, "turnout_rollout_tick_duration_seconds"))
    await task
    took = time.monotonic() - began
    return {
        "cpu": [round((sum(p.cpu_times()[:2]) - was) / took, 3) for p, was in zip(processes, before, strict=True)],
        "ticks": [round(statistics.median(several), 4) for several in durations],
        "late": sum(_metric(server, "turnout_rollout_late_counts_total") for server in served),
    }


def _metric(server: Served, name: str) -> float:
    text = urllib.request.urlopen(f"http://{server.http}/metrics", timeout=10).read().decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


def _rows(models: Path) -> dict[str, int]:
    """Returns the number of rows by table and the size of the SQLite file in bytes; empty if the store is elsewhere."""
    file = models / ".turnout" / "state.db"
    if not file.exists():
        return {}
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
        tables = ("rollouts", "rollout_ticks", "rollout_counts", "events", "servers")
        found = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}
        (pages,), (size,) = (connection.execute(f"PRAGMA page_{what}").fetchone() for what in ("count", "size"))
    return found | {"bytes": pages * size}


if __name__ == "__main__":
    main()
