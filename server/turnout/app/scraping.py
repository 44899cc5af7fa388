"""Answers scrapes of /metrics, and reads the values that are sampled at a scrape: memory, connections and others."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack

from turnout.app.foundation import Foundation
from turnout.app.listeners import Listeners
from turnout.app.rollouts import Rollouts
from turnout.app.serving import Serving
from turnout.host.sockets import connection_counts
from turnout.registry.storage.listing import CacheUse
from turnout.rollout.reporting.metrics import record_rollouts
from turnout.routing.traffic_shares import record_epochs, record_weights
from turnout.rpc.transport.h2corn import H2cornListener
from turnout.rpc.transport.port import CallListener
from turnout.serving.sessions.memory import device_memory
from turnout.telemetry.metrics.gpu import Gpu
from turnout.telemetry.metrics.server import DeviceMemory
from turnout.telemetry.system_stats import CachedReading
from turnout.threads import Threads
from turnout.workers.snapshot import encode

_READ_SECONDS = 1.0
"""Time in seconds that a scrape waits for a driver before it shows the previous values."""


class Scrapes:
    """Answers scrapes of /metrics."""

    def __init__(self, base: Foundation, serving: Serving, rollouts: Rollouts, stack: AsyncExitStack) -> None:
        """Creates the threads that read drivers, which `stack` ends."""
        threads = Threads("scrape", 2)
        stack.callback(threads.shutdown)
        self._metrics, self._catalog = base.metrics, base.catalog
        self._serving, self._rollouts = serving, rollouts
        manager = serving.manager
        self._memory: CachedReading[Mapping[str, DeviceMemory]] = CachedReading(
            lambda: threads.run(device_memory, manager.devices, manager.child_bytes), {}
        )
        self._gpus: CachedReading[Sequence[Gpu]] = CachedReading(lambda: threads.run(base.gpus, manager.devices), ())
        self._cache: CachedReading[CacheUse | None] = CachedReading(
            lambda: threads.run(base.repository.cache_use), None
        )

        self._connections: CachedReading[Mapping[int, int]] = CachedReading(lambda: threads.run(connection_counts), {})
        self._listeners: Mapping[str, CallListener] = {}

    def follow(self, listeners: Listeners) -> None:
        """Counts the connections of `listeners` at each scrape from now on."""
        self._listeners = listeners.by_name
        self._metrics.server.connection_limits = {
            name: listener.max_connections
            for name, listener in self._listeners.items()
            if isinstance(listener, H2cornListener)
        }

    async def scrape(self, content_type: str) -> AsyncIterator[bytes]:
        """Returns /metrics in parts, in the format that `content_type` names."""
        await self._sample()
        return self._metrics.scrape(content_type)

    async def snapshot(self, _: bytes = b"") -> bytes:
        """Returns this worker's metrics, encoded for the supervisor, which merges those of all workers."""
        await self._sample()
        return await encode(self._metrics.snapshot())

    async def _sample(self) -> None:
        server, serving, rollouts = self._metrics.server, self._serving, self._rollouts
        serving.manager.sample()
        if serving.tracer is not None:
            serving.tracer.flush()  # completed traces provide the exemplars of metrics
        record_weights(self._catalog, serving.policies, serving.router)
        record_epochs(self._catalog, serving.policies, server)
        record_rollouts(rollouts.engine, rollouts.meters, self._metrics.rollouts)
        if (use := await self._cache.value(_READ_SECONDS)) is not None:
            server.cache_bytes, server.fetched_bytes = use.bytes_kept, use.bytes_fetched
        if self._listeners:
            counts = await self._connections.value(_READ_SECONDS)
            server.connections = {name: counts.get(one.address.port, 0) for name, one in self._listeners.items()}
        server.memory = await self._memory.value(_READ_SECONDS)
        server.gpus = await self._gpus.value(_READ_SECONDS)
