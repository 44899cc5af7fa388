"""Attacks on a server's port, while an honest client keeps sending requests and the server's memory is measured."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import psutil
from hyperframe.frame import ContinuationFrame, HeadersFrame

from http2_client import Http2Client
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub
from wire import X, request

MIB = 1 << 20
PATIENCE = 60.0
"""Seconds within which an honest client must be answered, whatever others do. Machines that run tests are busy."""


@dataclass
class Witness:
    """What an honest client observed, and the memory of the server.

    Attributes:
        answered: Number of calls that were answered.
        failed: Statuses of the calls that failed.
        slowest: Duration of the slowest call in seconds.
        before, most: Resident memory of the server's process in bytes: at the start, and the maximum since.
    """

    answered: int = 0
    failed: list[str] = field(default_factory=list)
    slowest: float = 0.0
    before: int = 0
    most: int = 0

    @property
    def grown(self) -> float:
        """Maximum growth of the server's memory in MiB."""
        return (self.most - self.before) / MIB


@asynccontextmanager
async def witness(address: str, pid: int) -> AsyncIterator[Witness]:
    """Requests predictions of the model `m` from `address`, one after the other, while the context is entered."""
    process = psutil.Process(pid)
    seen = Witness()
    async with grpc.aio.insecure_channel(address) as channel:
        stub = PredictionServiceStub(channel)
        await stub.Predict(request("m", x=X), timeout=PATIENCE)
        seen.before = seen.most = process.memory_info().rss

        async def ask() -> None:
            while True:
                began = time.monotonic()
                try:
                    await stub.Predict(request("m", x=X), timeout=PATIENCE)
                    seen.answered += 1
                except grpc.aio.AioRpcError as error:
                    seen.failed.append(f"{error.code().name}: {error.details()}")
                seen.slowest = max(seen.slowest, time.monotonic() - began)
                await asyncio.sleep(0.005)

        async def measure() -> None:
            while True:
                seen.most = max(seen.most, process.memory_info().rss)
                await asyncio.sleep(0.02)

        tasks = [asyncio.create_task(ask()), asyncio.create_task(measure())]
        try:
            yield seen
            await stub.Predict(request("m", x=X), timeout=PATIENCE)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


async def continuations(client: Http2Client, total: int, piece: bytes) -> int:
    """Sends a header block of up to `total` bytes. Returns the number of bytes sent until the server closed."""
    head = HeadersFrame(1, piece)
    client.frame(head)
    frame = ContinuationFrame(1, piece).serialize()
    sent, burst = len(piece), frame * max(1, (256 << 10) // len(frame))
    while sent < total and not client.closed:
        client.write(burst)
        await client.flush()
        await asyncio.sleep(0)
        sent += len(burst)
    return sent


async def flood(client: Http2Client, burst: bytes, times: int) -> int:
    """Sends `burst` up to `times` times, as fast as the server reads. Returns how often until the server closed."""
    for sent in range(times):
        if client.closed:
            return sent
        client.write(burst)
        await client.flush()
        await asyncio.sleep(0)
    return times


async def half_open(address: str, count: int, message: bytes) -> list[asyncio.StreamWriter]:
    """Opens connections that send `message` and nothing more."""
    host, _, port = address.rpartition(":")
    opened: list[asyncio.StreamWriter] = []
    for start in range(0, count, 100):
        several = min(100, count - start)
        for _, writer in await asyncio.gather(*(asyncio.open_connection(host, int(port)) for _ in range(several))):
            writer.write(message)
            opened.append(writer)
    return opened


def abort(writers: list[asyncio.StreamWriter]) -> None:
    """Closes connections at once, without leaving ports in TIME_WAIT."""
    for writer in writers:
        found = writer.get_extra_info("socket")
        if found is not None and found.fileno() >= 0:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()
