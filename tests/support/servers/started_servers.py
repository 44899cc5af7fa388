"""Starts real servers in the test process."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from turnout.app.server import Running, running
from turnout.config import Address, Settings
from turnout.rollout.clock import SYSTEM_CLOCK, Clock
from turnout.telemetry.logging import make_logger
from turnout.testing import FREE_PORTS

LOOPBACK = Address("127.0.0.1", 0)

TRANSPORTS = ("h2corn", "grpcio")
"""Transports for the data listener, the default first."""

StartServer = Callable[..., Awaitable[Running]]


def make_settings(models: Path, **settings: Any) -> Settings:
    """Returns settings of a server on free loopback ports."""
    return Settings(**{"models": models, **FREE_PORTS, **settings})


@asynccontextmanager
async def starting(models: Path, data_transport: str) -> AsyncIterator[StartServer]:
    """Starts real servers in this process, on free ports, and stops them at the end."""
    async with AsyncExitStack() as stack:

        async def start(*, wait: bool = True, clock: Clock = SYSTEM_CLOCK, **settings: Any) -> Running:
            log = make_logger("json", "warning")
            made = make_settings(settings.pop("models", models), **{"transport": {"data": data_transport}} | settings)
            server = await stack.enter_async_context(running(made, log, clock))
            if wait:
                await server.services.catalog.wait_for(lambda snapshot: snapshot.complete)
            return server

        yield start
