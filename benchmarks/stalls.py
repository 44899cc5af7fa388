"""How long /livez stalls while the server receives the worst messages that it accepts or rejects.

    python benchmarks/stalls.py [--issue] [--pythonpath DIR:...]      --issue: only the messages that stalled 0.1

A separate process requests /livez every 5 ms. Each message is sent three times, twice concurrently. The server is
`turnout serve` with default settings; --pythonpath can select another version of it. A second, idle server shows the
stalls that the machine itself causes.
"""

import argparse
import asyncio
import http.client
import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Iterable
from multiprocessing.context import SpawnProcess
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import grpc
import onnx
from onnx import TensorProto

from harness.hostile import MIB, Hostile, issue, worst
from onnx_models import identity
from processes import ServerProcess, serving
from turnout.testing import publish_models

TARGET_MS = 250.0
_PAUSE = 0.005
_TIMES = 3


def probe(address: str, worst_ms: "Synchronized[float]") -> None:
    """Requests /livez repeatedly, and records the longest response time in milliseconds."""
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)))
    request = f"GET /livez HTTP/1.1\r\nHost: {address}\r\n\r\n".encode()
    while True:
        start = time.monotonic()
        connection.sendall(request)
        if not connection.recv(4096):
            return
        worst_ms.value = max(worst_ms.value, (time.monotonic() - start) * 1e3)
        time.sleep(_PAUSE)


def publish(models: Path, scratch: Path) -> None:
    """Publishes identity models of several types."""
    of = {"f": TensorProto.FLOAT, "i": TensorProto.INT64, "b": TensorProto.BOOL, "s": TensorProto.STRING}
    versions = {}
    for name, element in of.items():
        onnx.save(identity(element, ["n"]), scratch / f"{name}.onnx")
        versions[f"{name}@1.0.0"] = scratch / f"{name}.onnx"
    onnx.save(identity(TensorProto.FLOAT, ["n", 4]), scratch / "m.onnx")
    publish_models(models, versions | {"m@1.0.0": scratch / "m.onnx"})


async def send(server: ServerProcess, message: Hostile) -> str:
    """Sends one message and returns a summary of the response."""
    if message.target.startswith(("/predict", "/v2")):
        return await asyncio.to_thread(_post, server.http, message)
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(server.grpc, options=options) as channel:
        try:
            if message.target.endswith(("PredictStream", "ModelStreamInfer")):
                stream = channel.stream_stream(message.target)(timeout=600)
                await stream.write(message.body)
                answer = await stream.read()
                await stream.done_writing()
            else:
                answer = await channel.unary_unary(message.target)(message.body, timeout=600)
            return f"OK, {len(answer)} bytes"
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {(error.details() or '')[:90]}"


def _post(address: str, message: Hostile) -> str:
    connection = http.client.HTTPConnection(address, timeout=600)
    try:
        connection.request("POST", message.target, message.body, dict(message.headers))
        answer = connection.getresponse()
        body = answer.read()
        return f"{answer.status}, {body[:90].decode(errors='replace') if answer.status > 299 else len(body)}"
    finally:
        connection.close()


def resident(server: ServerProcess) -> int:
    """Returns the resident memory of a server, in MiB."""
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // MIB


def probing(server: ServerProcess) -> tuple["Synchronized[float]", "SpawnProcess"]:
    """Starts a process that probes a server. Returns the longest response time (shared) and the process."""
    context = multiprocessing.get_context("spawn")
    longest = context.Value("d", 0.0)
    prober = context.Process(target=probe, args=(server.http, longest), daemon=True)
    prober.start()
    while not longest.value:
        time.sleep(0.01)
    return longest, prober


async def measure(server: ServerProcess, idle: ServerProcess, messages: Iterable[Hostile]) -> float:
    """Prints a line for each message, and returns the longest stall in milliseconds."""
    (longest, prober), (elsewhere, idle_prober) = probing(server), probing(idle)
    highest = 0.0
    print(f"{'message':42} {'bytes':>10} {'stall ms':>9} {'idle ms':>8} {'took s':>7} {'MiB':>6}  answer")
    try:
        for message in messages:
            await asyncio.sleep(0.3)
            longest.value = elsewhere.value = 0.0
            start = time.monotonic()
            answers = await asyncio.gather(*(send(server, message) for _ in range(_TIMES - 1)))
            answers.append(await send(server, message))
            took = time.monotonic() - start
            await asyncio.sleep(0.1)
            highest = max(highest, longest.value)
            stalls = f"{longest.value:9.0f} {elsewhere.value:8.0f}"
            line = f"{message.name:42} {len(message.body):10} {stalls} {took:7.2f} {resident(server):6}"
            print(line, " | ".join(sorted(set(answers))), flush=True)
    finally:
        prober.terminate()
        idle_prober.terminate()
    return highest


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--issue", action="store_true")
    parser.add_argument("--pythonpath", default="")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        publish(scratch / "models", scratch)
        environment = {"PYTHONPATH": arguments.pythonpath} if arguments.pythonpath else {}
        with serving(scratch / "models", **environment) as server, serving(scratch / "models") as idle:
            messages = issue() if arguments.issue else (m for group in (issue(), worst()) for m in group)
            highest = asyncio.run(measure(server, idle, messages))
            log = server.log.stat().st_size
    print(f"\nlongest stall {highest:.0f} ms (target: under {TARGET_MS:.0f}); the log grew to {log} bytes")


if __name__ == "__main__":
    main()
