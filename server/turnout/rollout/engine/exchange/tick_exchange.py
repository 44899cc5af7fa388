"""Counts for every running rollout. Each server reports its counts through the state store once per tick."""

import asyncio
import math
import time
from collections.abc import Mapping
from typing import Any

from structlog.typing import FilteringBoundLogger

from turnout.errors import UnavailableError
from turnout.rollout.engine.active_rollout import ActiveRollout
from turnout.rollout.engine.exchange.peers import read_parts
from turnout.rollout.engine.exchange.presence import ServerPresence
from turnout.rollout.engine.local_serving import LocalServing
from turnout.rollout.engine.running_rollouts import RunningRollouts
from turnout.rollout.engine.store_timeouts import StoreTimeout
from turnout.state.servers import CountRecord
from turnout.threads import Threads

_REPORTS_WHILE_ALIVE = 4
"""Number of reports within the time for which one keeps a server alive, so that a few may be late or lost."""

_LATE_TICKS = 3
"""Maximum length that a late tick counts as, in ticks: a server that was suspended made no progress."""


class TickExchange:
    """The counts of this server, and the reports of the others. Used only on the event loop."""

    def __init__(
        self,
        serving: LocalServing,
        presence: ServerPresence,
        rollouts: RunningRollouts,
        tick_seconds: float,
        threads: Threads,
        log: FilteringBoundLogger,
    ) -> None:
        """Creates the object. Long computations run in `threads`, so that requests continue."""
        self._serving = serving
        self._presence = presence
        self._ownership = rollouts.ownership
        self._tick_seconds = tick_seconds
        self._threads = threads
        self._log = log
        self._store_timeout = StoreTimeout()
        self._reported: tuple[Mapping[str, Any], float] = {}, -math.inf
        self._away = False
        self._other_servers = rollouts.other_servers

    @property
    def longest_tick(self) -> float:
        """Maximum number of seconds that one tick counts as."""
        return _LATE_TICKS * self._tick_seconds

    async def receive(self, active: ActiveRollout) -> None:
        """Adds reported counts to a rollout that this server drives, including its own from while another drove it."""
        if reported_counts := self._other_servers.reported_counts(active.rollout):
            for part in await self._threads.run(read_parts, reported_counts):
                active.receive(part)

    async def count(self, now: float) -> None:
        """Ends the tick of every running rollout, driven here or elsewhere, and begins the next."""
        own, number = self._presence.name, self._other_servers.tick(now)
        for active in self._ownership.counted:
            await asyncio.sleep(0)  # lets requests run in between: each rollout takes 1 to 3 ms
            seconds = min(now - active.counted_at, self.longest_tick)
            active.counted_at = now
            active.begin_tick(number, own)
            active.counted(self._serving.count(active, seconds, now), own)

    async def report(self, seconds: float) -> None:
        """Reports counts to the servers that drive the other rollouts, and reports that this server is alive.

        If there is nothing else to report, this is not done at every short tick, since it is a write to disk. What the
        state store does not accept within `seconds` is reported with the next tick.
        """
        own = self._presence.name
        counts = {
            (active.rollout.model, active.rollout.attempt): [p for (_, s), p in active.parts.items() if s == own]
            for active in self._ownership.foreign
        }
        rates = dict(self._presence.rates())
        document = {**self._serving.describe(), "rates": rates, "tick_seconds": self._tick_seconds}
        # By the real clock, since the state store's time passes regardless of the rollouts' clock.
        before, at = self._reported
        due = time.monotonic() >= at + self._other_servers.alive_seconds / _REPORTS_WHILE_ALIVE
        if not due and not any(counts.values()) and document == before:
            return

        def written() -> list[CountRecord]:
            return [
                CountRecord.of(*key, one.number, own, one.to_json()) for key, parts in counts.items() for one in parts
            ]

        async def report() -> None:
            records = await self._threads.run(written)
            began = time.monotonic()
            if not await self._presence.report(document, records, self._other_servers.alive_seconds):
                return
            self._reported = document, began
            for active in self._ownership.foreign:
                for one in counts.get((active.rollout.model, active.rollout.attempt), ()):
                    active.parts.pop((one.number, own), None)

        try:
            await self._store_timeout.wait(report(), seconds)
        except UnavailableError as error:
            if not self._away:
                self._log.warning("counts could not be reported, and are reported later", reason=error.message)
            self._away = True
        else:
            self._away = False

    async def leave(self, seconds: float) -> None:
        """Tells the other servers that this one stops.

        Raises:
            UnavailableError: The state store does not respond within `seconds`.
        """
        await self._store_timeout.wait(self._presence.leave(), seconds)
