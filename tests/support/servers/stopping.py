"""Servers that a test tells to stop, and what their refusals say."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status

from started_servers import make_settings
from turnout.app.server import Running, running
from turnout.telemetry.logging import make_logger


@asynccontextmanager
async def stopping(models, **settings) -> AsyncIterator[tuple[Running, asyncio.Event]]:
    """Runs a server until the event is set; the event tells when it is told to stop as well."""
    stop = asyncio.Event()
    started: asyncio.Future[Running] = asyncio.get_running_loop().create_future()

    async def serve() -> None:
        async with running(make_settings(models, **settings), make_logger("json", "warning")) as server:
            await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
            started.set_result(server)
            await stop.wait()

    serving = asyncio.create_task(serve())
    await asyncio.wait([serving, started], return_when=asyncio.FIRST_COMPLETED)
    try:
        yield await started, stop
    finally:
        stop.set()
        await serving


def retry_seconds(error: grpc.aio.AioRpcError) -> float:
    """Returns the time to wait that a refusal names."""
    status = rpc_status.from_call(error)
    assert status is not None
    info = RetryInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    return info.retry_delay.ToTimedelta().total_seconds()
