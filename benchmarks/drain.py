"""Repeated SIGTERM under load: counts the outcomes of requests.

    python benchmarks/drain.py [--times 10] [--transport h2corn]

Each time, a server process answers unary calls, predictions over streams and HTTP requests from clients that never
pause. Then it gets SIGTERM. A request that was sent before the signal must be answered. A request that was sent after
it must be answered or rejected with UNAVAILABLE (HTTP: 503), or its connection must be refused. Anything else counts as
broken. Exit status 1 if a request from before the signal failed, or any request was broken.
"""

import argparse
import asyncio
import itertools
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import onnx

from harness.servers import Served, matmul, turnout
from turnout.testing import publish_models
from turnout_proto import tensors
from turnout_proto.v1 import prediction_pb2 as pb
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub

UNARY, STREAMS, HTTP = 32, 4, 8
"""Number of clients of each kind. A stream has `DEPTH` pending requests."""

DEPTH = 16
LOAD_SECONDS = 1.0
WELL = ("OK", "UNAVAILABLE", "refused connection", "503")

_EXPECTED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)

X = np.ones((1, 64), np.float32)


class Tally:
    """Outcomes of requests, separated by whether they were sent before or after the signal.

    Attributes:
        signalled: `time.monotonic()` of the signal; infinity before it.
        before, after: Number of requests sent before and after the signal, by kind of client and outcome.
    """

    def __init__(self) -> None:
        self.signalled = float("inf")
        self.before: Counter[str] = Counter()
        self.after: Counter[str] = Counter()

    def note(self, kind: str, sent: float, outcome: str) -> None:
        """Counts a request."""
        (self.before if sent < self.signalled else self.after)[f"{kind}: {outcome}"] += 1

    @property
    def failed(self) -> int:
        """Number of requests sent before the signal that were not answered."""
        return sum(count for outcome, count in self.before.items() if not outcome.endswith(": OK"))

    @property
    def broken(self) -> int:
        """Number of requests sent after the signal that were neither answered nor properly rejected."""
        return sum(count for outcome, count in self.after.items() if not outcome.endswith(WELL))


def main() -> int:
    """Runs the benchmark and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--transport", choices=["h2corn", "grpcio"], default="h2corn")
    arguments = parser.parse_args()
    before: Counter[str] = Counter()
    after: Counter[str] = Counter()
    failed = broken = 0
    with tempfile.TemporaryDirectory(prefix="turnout-drain-") as scratch:
        model = Path(scratch) / "tiny.onnx"
        onnx.save(matmul(), model)
        publish_models(Path(scratch) / "models", {"tiny@1.0.0": model})
        environment = os.environ | {"TURNOUT_TRANSPORT__DATA": arguments.transport}
        for _ in range(arguments.times):
            with turnout(Path(scratch) / "models", environment) as server:
                tally = asyncio.run(_drained(server))
            before += tally.before
            after += tally.after
            failed += tally.failed
            broken += tally.broken
    print(json.dumps({"failed": failed, "broken": broken, "before": before, "after": after}, indent=1))
    return 1 if failed or broken else 0


def _has_ended(pid: int) -> bool:
    """Returns whether a process has exited, or is a zombie child of this process."""
    try:
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


async def _drained(server: Served) -> Tally:
    tally = Tally()
    stop = asyncio.Event()
    clients = [
        *(_repeat(_unary(server, tally), stop) for _ in range(UNARY)),
        *(asyncio.to_thread(_stream, server, tally, stop) for _ in range(STREAMS)),
        *(_repeat(_http(server, tally), stop) for _ in range(HTTP)),
    ]
    tasks = [asyncio.create_task(client) for client in clients]
    await asyncio.sleep(LOAD_SECONDS)
    tally.signalled = time.monotonic()
    os.kill(server.pid, signal.SIGTERM)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not stop.is_set():
        await asyncio.sleep(0.05)
        if _has_ended(server.pid):
            stop.set()
    stop.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 60)
    return tally


async def _repeat(
    once: "tuple[Callable[[], Awaitable[None]], Callable[[], Awaitable[None]]]", stop: asyncio.Event
) -> None:
    ask, close = once
    while not stop.is_set():
        await ask()
        await asyncio.sleep(0)
    await close()


def _request(name: str = "") -> pb.PredictRequest:
    return pb.PredictRequest(model="tiny", request_id=name, inputs=[tensors.encode("x", X)])


def _unary(server: Served, tally: Tally) -> tuple[Callable[[], Awaitable[None]], Callable[[], Awaitable[None]]]:
    channel = grpc.aio.insecure_channel(
        server.grpc, options=[("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    )
    stub = PredictionServiceStub(channel)

    async def ask() -> None:
        sent = time.monotonic()
        try:
            await stub.Predict(_request(), timeout=30)
        except grpc.aio.AioRpcError as error:
            tally.note("unary", sent, _name(error))
            await asyncio.sleep(0.01)
        else:
            tally.note("unary", sent, "OK")

    return ask, channel.close


def _http(server: Served, tally: Tally) -> tuple[Callable[[], Awaitable[None]], Callable[[], Awaitable[None]]]:
    client = httpx.AsyncClient(base_url=f"http://{server.http}", timeout=30)
    body = {"inputs": {"x": X.tolist()}}

    async def ask() -> None:
        sent = time.monotonic()
        try:
            answer = await client.post("/predict/tiny", json=body)
        except httpx.ConnectError:
            tally.note("http", sent, "refused connection")
            await asyncio.sleep(0.01)
        except httpx.HTTPError as error:
            tally.note("http", sent, type(error).__name__)
        else:
            tally.note("http", sent, "OK" if answer.status_code == 200 else str(answer.status_code))

    return ask, client.aclose


def _stream(server: Served, tally: Tally, stop: asyncio.Event) -> None:
    """Keeps `DEPTH` requests pending on one stream until the server ends it, and then opens another one.

    Runs in a thread, because grpc.aio turns a status that arrives while a request is written into INTERNAL.
    """
    with grpc.insecure_channel(server.grpc, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = PredictionServiceStub(channel)
        while not stop.is_set():
            sent: dict[str, float] = {}
            room = threading.Semaphore(DEPTH)
            ended = threading.Event()

            def requests(
                sent: dict[str, float] = sent, room: threading.Semaphore = room, ended: threading.Event = ended
            ) -> Iterator[pb.PredictStreamRequest]:
                for number in itertools.count():
                    while not room.acquire(timeout=0.1):
                        if ended.is_set():
                            return
                    if ended.is_set() or stop.is_set():
                        return
                    sent[f"r{number}"] = time.monotonic()
                    yield pb.PredictStreamRequest(request=_request(f"r{number}"))

            status = "OK"
            try:
                for answer in stub.PredictStream(requests(), timeout=60):
                    failure = "" if answer.HasField("response") else grpc_code(answer.error.code)
                    tally.note("stream", sent.pop(answer.request_id), failure or "OK")
                    room.release()
            except grpc.RpcError as error:
                status = _name(error)
            ended.set()
            for began in list(sent.values()):
                tally.note("stream", began, f"ended {status}")
            time.sleep(0.01)


def grpc_code(number: int) -> str:
    """Returns the name of a status code."""
    return next(code.name for code in grpc.StatusCode if code.value[0] == number)


def _name(error: Any) -> str:
    """Returns the name of the status, or `refused connection` if there was no server."""
    if error.code() is grpc.StatusCode.UNAVAILABLE and "connect" in (error.details() or "").lower():
        return "refused connection"
    return error.code().name if error.code() in _EXPECTED else f"{error.code().name} ({error.details()})"


if __name__ == "__main__":
    sys.exit(main())
