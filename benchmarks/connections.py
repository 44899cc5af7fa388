"""Ten thousand idle connections: their cost for a server, and their effect on another client.

    python benchmarks/connections.py [--count 10000]

Both processes need this many open files (`ulimit -n`). If the limit is lower, fewer connections are opened, with a
message. Exit status 1 if a connection costs more than 64 KiB, or is not released.
"""

import argparse
import asyncio
import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import grpc
import numpy as np
import onnx
import psutil

from harness.servers import Served, matmul, turnout
from turnout.testing import publish_models
from turnout_proto import tensors
from turnout_proto.v1 import prediction_pb2 as pb
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub

HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""The HTTP/2 connection preface, with an empty SETTINGS frame."""

MOST_BYTES = 64 << 10
RESERVE = 500
"""Number of other files that each process may have open."""

BATCH = 200
CALLS = 300


def main() -> int:
    """Runs the benchmark and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    arguments = parser.parse_args()
    count = min(arguments.count, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVE)
    if count < arguments.count:
        print(f"{arguments.count:,} connections need more open files: {count:,} are opened", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="turnout-connections-") as scratch:
        model = Path(scratch) / "tiny.onnx"
        onnx.save(matmul(), model)
        publish_models(Path(scratch) / "models", {"tiny@1.0.0": model})
        with turnout(Path(scratch) / "models") as server:
            seen = asyncio.run(_measure(server, count))
    print(json.dumps(seen, indent=1))
    return int(seen["bytes_each"] > MOST_BYTES or seen["files_left"] > BATCH)


async def _measure(server: Served, count: int) -> dict[str, float]:
    process = psutil.Process(server.pid)
    host, _, port = server.grpc.rpartition(":")
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        stub = PredictionServiceStub(channel)
        before = await _latencies(stub)
        memory, files = process.memory_info().rss, process.num_fds()
        opened: list[asyncio.StreamWriter] = []
        for start in range(0, count, BATCH):
            several = min(BATCH, count - start)
            for reader, writer in await asyncio.gather(
                *(asyncio.open_connection(host, int(port)) for _ in range(several))
            ):
                writer.write(HELLO)
                await reader.readexactly(9)  # the server's SETTINGS: it has accepted the connection
                opened.append(writer)
        during = await _latencies(stub)
        grown, more = process.memory_info().rss - memory, process.num_fds() - files
        for writer in opened:
            writer.transport.abort()
        deadline = time.monotonic() + 30
        while process.num_fds() > files and time.monotonic() < deadline:  # noqa: ASYNC110 - waits for another process
            await asyncio.sleep(0.1)
        return {
            "connections": more,
            "bytes_each": round(grown / max(more, 1)),
            "files_left": process.num_fds() - files,
            "p50_ms_before": round(1e3 * statistics.median(before), 3),
            "p50_ms_during": round(1e3 * statistics.median(during), 3),
        }


async def _latencies(stub: PredictionServiceStub) -> list[float]:
    request = pb.PredictRequest(model="tiny", inputs=[tensors.encode("x", np.ones((1, 64), np.float32))])
    seen = []
    for _ in range(CALLS):
        began = time.perf_counter()
        await stub.Predict(request, timeout=30)
        seen.append(time.perf_counter() - began)
    return seen


if __name__ == "__main__":
    sys.exit(main())
