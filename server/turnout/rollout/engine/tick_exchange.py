"""Counts for every running rollout; each server reports its counts through the state store once a tick."""

import asyncio
import math
import time
from collections.abc import Mapping
from typing import Any

from structlog.typing import FilteringBoundLogger

from turnout.errors import UnavailableError
from turnout.rollout.engine.active_rollout import ActiveRollout
from turnout.rollout.engine.ownership import Ownership
from turnout.rollout.engine.peers import OtherServers, read_parts
from turnout.rollout.engine.ports import LiveState, RolloutStore
from turnout.rollout.engine.store_timeouts import StoreTimeout
from turnout.state.servers import CountRecord
from turnout.threads import Threads

_REPORTS_WHILE_ALIVE = 4
"""Reports in the time for which one has a server count as alive: a few may come late, or be lost."""

_LATE_TICKS = 3
"""A tick that comes later than so many ticks counts as that many: a server that stood still made no progress."""


class TickExchange:
    """What this server counts, and what the others report. Used on the event loop only."""

    def __init__(
        self,
        serving: LiveState,
        store: RolloutStore,
        ownership: Ownership,
        tick_seconds: float,
        threads: Threads,
        log: FilteringBoundLogger,
    ) -> None:
        """Takes what it works on.

        Args:
            serving: Where requests are counted.
            store: Where servers meet.
            ownership: The rollouts that run.
            tick_seconds: Seconds of a tick.
            threads: Where what takes long is worked out, so that requests go on meanwhile.
            log: Where trouble is logged.
        """
        self._serving = serving
        self._store = store
        self._ownership = ownership
        self._tick_seconds = tick_seconds
        self._threads = threads
        self._log = log
        self._store_timeout = StoreTimeout()
        self._reported: tuple[Mapping[str, Any], float] = {}, -math.inf
        self.other_servers = OtherServers(tick_seconds)

    @property
    def longest_tick(self) -> float:
        """Most seconds that one tick counts as."""
        return _LATE_TICKS * self._tick_seconds

    async def receive(self, active: ActiveRollout) -> None:
        """Gives a rollout that this server drives the reported counts, its own from when another drove it included."""
        if reported_counts := self.other_servers.reported_counts(active.rollout):
            for part in await self._threads.run(read_parts, reported_counts):
                active.receive(part)

    async def count(self, now: float) -> None:
        """Ends the tick of every rollout that runs, whoever drives it, and begins the next.

        Args:
            now: By the monotonic clock, seconds.
        """
        own, number = self._store.server, self.other_servers.tick(now)
        for active in self._ownership.counted:
            await asyncio.sleep(0)  # requests go between: 1 to 3 ms are needed for each
            seconds = min(now - active.counted_at, self.longest_tick)
            active.counted_at = now
            active.begin_tick(number, own)
            active.counted(self._serving.count(active, seconds, now), own)

    async def report(self, seconds: float) -> None:
        """Reports counts to the servers that drive the other rollouts, and to all that this server is alive.

        With nothing to tell but that, it is not done at every tick where ticks are short: it is a write to the disk.

        Args:
            seconds: To wait for the state store, at most; what it does not take now is told with the next tick.
        """
        own = self._store.server
        counts = {
            (active.rollout.model, active.rollout.attempt): [p for (_, s), p in active.parts.items() if s == own]
            for active in self._ownership.foreign
        }
        document = {**self._serving.describe(), "tick_seconds": self._tick_seconds}
        # The state store's time goes on however the rollouts' clock is set.
        before, at = self._reported
        due = time.monotonic() >= at + self.other_servers.alive_seconds / _REPORTS_WHILE_ALIVE
        if not due and not any(counts.values()) and document == before:
            return

        def written() -> list[CountRecord]:
            return [
                CountRecord.of(*key, one.number, own, one.to_json()) for key, parts in counts.items() for one in parts
            ]

        async def report() -> None:
            records = await self._threads.run(written)
            began = time.monotonic()
            if not await self._store.report(document, records, self.other_servers.alive_seconds):
                return
            self._reported = document, began
            for active in self._ownership.foreign:
                for one in counts.get((active.rollout.model, active.rollout.attempt), ()):
                    active.parts.pop((one.number, own), None)

        try:
            await self._store_timeout.wait(report(), seconds)
        except UnavailableError as error:
            self._log.warning("what was counted here is told later", reason=error.message)

    async def leave(self, seconds: float) -> None:
        """Tells the others that this server stops.

        Raises:
            UnavailableError: The state store does not answer within so many seconds.
        """
        await self._store_timeout.wait(self._store.leave(), seconds)
