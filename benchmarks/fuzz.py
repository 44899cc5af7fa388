"""Sends malformed messages to every service and route of a server. Exits with 1 if the server misbehaves.

    python benchmarks/fuzz.py [--messages 200000] [--seed 1]

Faults are INTERNAL, UNKNOWN, DATA_LOSS and 500, a call without an answer, a traceback or an unexpected error in the
log, a server that exits, and memory growth of more than 256 MiB after the first tenth. The messages
come from tests/support/requests/fuzzing.py.
"""

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import grpc
import onnx

import harness  # noqa: F401 (what follows is found by it)
from fuzzing import REGION, Sender, messages
from onnx_models import scaled, string_identity
from processes import ServerProcess, serving
from stalls import resident
from turnout.testing import publish_models
from turnout_proto.oip import inference_pb2 as pb

_IN_FLIGHT = 16
_MAX_GROWTH_MIB = 256
_SHOWN = 20
_REGION_BYTES = 64
_REGISTERED_EVERY = 50
_REGISTER = "/inference.GRPCInferenceService/SystemSharedMemoryRegister"


async def attack(server: ServerProcess, seed: int, count: int, key: str) -> list[str]:
    """Sends `count` messages and returns the faults. Some messages refer to the region of shared memory with `key`."""
    sender = Sender(server.grpc, server.control, server.http)
    faults: list[str] = []
    all_messages = islice(messages(seed), count)
    sent = base = 0
    start = time.monotonic()

    async def send_some() -> None:
        nonlocal sent, base
        for message in all_messages:
            if sent % _REGISTERED_EVERY == 0:
                await register(server, key)  # some messages unregister it
            faults.extend(filter(None, [await sender.send(message)]))
            sent += 1
            if sent == count // 10:
                base = resident(server)
            if sent % max(count // 20, 1) == 0:
                took = time.monotonic() - start
                print(f"{sent:8} sent, {len(faults)} wrong, {sent / took:6.0f}/s, {resident(server)} MiB", flush=True)

    await asyncio.gather(*(send_some() for _ in range(_IN_FLIGHT)))
    await sender.close()
    print("answers:", dict(sorted(sender.answers.items(), key=lambda item: -item[1])))
    if (grown := resident(server) - base) > _MAX_GROWTH_MIB:
        faults.append(f"memory grew by {grown} MiB")
    return faults


@contextlib.contextmanager
def segment() -> Iterator[str]:
    """Creates a segment of shared memory and yields its key."""
    made = SharedMemory(create=True, size=_REGION_BYTES)
    try:
        yield made.name
    finally:
        made.close()
        made.unlink()


async def register(server: ServerProcess, key: str) -> None:
    """Registers the region that some messages refer to, unless it is already registered."""
    region = pb.SystemSharedMemoryRegisterRequest(name=REGION, key=key, byte_size=_REGION_BYTES)
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await channel.unary_unary(_REGISTER)(region.SerializeToString(), timeout=20)


def main() -> int:
    """Runs the fuzzer and returns the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        onnx.save(scaled(2), scratch / "f.onnx")
        onnx.save(string_identity(), scratch / "s.onnx")
        publish_models(scratch / "models", {f"{name}@1.0.0": scratch / f"{name}.onnx" for name in "fs"})
        allowed = {"TURNOUT_OIP__SYSTEM_SHARED_MEMORY": "true", "TURNOUT_OIP__ALLOW_SETTINGS_CHANGES": "true"}
        with serving(scratch / "models", **allowed) as server, segment() as key:
            faults = asyncio.run(attack(server, arguments.seed, arguments.messages, key))
            if not server.process.is_alive():
                faults.append(f"the server ended with {server.process.exitcode}")
            lines = server.log.read_text().splitlines()
    faults += [line for line in lines if "Traceback" in line or '"unexpected error"' in line]
    longest = max(map(len, lines))
    print(f"log: {len(lines)} lines, the longest of {longest} characters")
    for fault in faults[:_SHOWN]:
        print("WRONG:", fault[:2000])
    print(f"{arguments.messages} messages of seed {arguments.seed}, {len(faults)} wrong")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
