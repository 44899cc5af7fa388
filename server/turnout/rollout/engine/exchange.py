"""Counts for every rollout that runs, and tells others: what each server saw travels by the state store once a tick."""

import asyncio

from structlog.typing import FilteringBoundLogger

from turnout.errors import Unavailable
from turnout.rollout.engine.active_rollout import ActiveRollout
from turnout.rollout.engine.ownership import Ownership
from turnout.rollout.engine.peers import Neighbours, read_parts
from turnout.rollout.engine.ports import RolloutStore, World
from turnout.rollout.engine.store_timeouts import Patience
from turnout.state.servers import CountRecord
from turnout.threads import Threads

_LATE_TICKS = 3
"""A tick that comes later than so many ticks counts as that many: a server that stood still made no progress."""


class Exchange:
    """What this server counts, and what it hears of the others. Used on the event loop only."""

    def __init__(
        self,
        world: World,
        store: RolloutStore,
        ownership: Ownership,
        tick_seconds: float,
        threads: Threads,
        log: FilteringBoundLogger,
    ) -> None:
        """Takes what it works on.

        Args:
            world: Where requests are counted.
            store: Where servers meet.
            ownership: The rollouts that run.
            tick_seconds: Seconds of a tick.
            threads: Where what takes long is worked out, so that requests go on meanwhile.
            log: Where trouble is logged.
        """
        self._world = world
        self._store = store
        self._ownership = ownership
        self._tick_seconds = tick_seconds
        self._threads = threads
        self._log = log
        self._patience = Patience()
        self.neighbours = Neighbours(tick_seconds)

    @property
    def longest_tick(self) -> float:
        """Most seconds that one tick counts as."""
        return _LATE_TICKS * self._tick_seconds

    async def receive(self, active: ActiveRollout) -> None:
        """Has what servers told come to a rollout that this one drives: its own too, from when another did."""
        if told := self.neighbours.told(active.rollout):
            for part in await self._threads.run(read_parts, told):
                active.receive(part)

    async def count(self, now: float) -> None:
        """Ends the tick of every rollout that runs, whoever drives it, and begins the next.

        Args:
            now: By the monotonic clock, seconds.
        """
        own, number = self._store.server, self.neighbours.tick(now)
        for active in self._ownership.counted:
            await asyncio.sleep(0)  # requests go between: 1 to 3 ms are needed for each
            seconds = min(now - active.counted_at, self.longest_tick)
            active.counted_at = now
            active.begin_tick(number, own)
            active.counted(self._world.count(active, seconds, now), own)

    async def report(self, seconds: float) -> None:
        """Tells who drives the others' rollouts what was counted here, and everybody that this server is alive.

        Args:
            seconds: To wait for the state store, at most; what it does not take now is told with the next tick.
        """
        own = self._store.server
        counts = {
            (active.rollout.model, active.rollout.attempt): [p for (_, s), p in active.parts.items() if s == own]
            for active in self._ownership.foreign
        }
        document = {**self._world.describe(), "tick_seconds": self._tick_seconds}

        def written() -> list[CountRecord]:
            return [
                CountRecord.of(*key, one.number, own, one.to_json()) for key, parts in counts.items() for one in parts
            ]

        async def report() -> None:
            records = await self._threads.run(written)
            if not await self._store.report(document, records, self.neighbours.alive_seconds):
                return
            for active in self._ownership.foreign:
                for one in counts.get((active.rollout.model, active.rollout.attempt), ()):
                    active.parts.pop((one.number, own), None)

        try:
            await self._patience.wait(report(), seconds)
        except Unavailable as error:
            self._log.warning("what was counted here is told later", reason=error.message)

    async def leave(self, seconds: float) -> None:
        """Tells the others that this server stops.

        Raises:
            Unavailable: The state store does not answer within so many seconds.
        """
        await self._patience.wait(self._store.leave(), seconds)
