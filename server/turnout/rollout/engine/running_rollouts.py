"""The running rollouts as this server knows them. Ticks and operators' commands change them, one at a time."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from semver import Version
from structlog.typing import FilteringBoundLogger

from turnout.errors import TurnoutError
from turnout.rollout.clock import TickSchedule
from turnout.rollout.engine.exchange.peers import OtherServers
from turnout.rollout.engine.exchange.presence import ServerPresence
from turnout.rollout.engine.local_serving import LocalServing
from turnout.rollout.engine.ownership import Key, Ownership
from turnout.rollout.engine.store_timeouts import StoreTimeout
from turnout.rollout.engine.unrecorded_rollbacks import Diversions
from turnout.rollout.machine import overrides
from turnout.rollout.machine.attempt import RolloutState
from turnout.state.rollouts import RolloutRecord
from turnout.state.servers import ServersSnapshot


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read from the state store.

    Attributes:
        numbers: `Ownership.numbers` when the read began.
        at: When it ended, by the monotonic clock.
    """

    records: Sequence[RolloutRecord]
    servers: ServersSnapshot
    numbers: Mapping[Key, int]
    at: float


class RunningRollouts:
    """The rollouts that have not ended, kept in agreement with the state store. Used only on the event loop.

    `reconcile`, `records` and `refusals` raise UnavailableError if the state store does not respond within `seconds`.

    Attributes:
        ownership: The rollouts, and which of them this server drives.
        other_servers: The servers that share the state store.
    """

    def __init__(
        self,
        serving: LocalServing,
        presence: ServerPresence,
        diversions: Diversions,
        schedule: TickSchedule,
        log: FilteringBoundLogger,
    ) -> None:
        """Creates the object. No rollout is known before `reconcile`."""
        self._serving = serving
        self._store = presence.store
        self._diversions = diversions
        self._clock = schedule.clock
        self._log = log
        self.ownership = Ownership(schedule.lease_seconds, lambda: presence.name)
        self.other_servers = OtherServers(schedule.seconds)
        self._reads = StoreTimeout()
        self._late: _Read | None = None
        self._follows = StoreTimeout()  # apart: a refresh may take long, and ticks read meanwhile
        self._lock = asyncio.Lock()
        self._changed = asyncio.Condition()
        self._needed: set[tuple[str, int, Version, Version]] = set()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Keeps ticks and commands apart. Unless there was an error, ends every `wait`."""
        async with self._lock:
            yield
        async with self._changed:
            self._changed.notify_all()

    async def wait(self, seconds: float) -> None:
        """Waits for the end of the next tick or command, at most `seconds`."""
        with suppress(TimeoutError):
            async with self._changed, asyncio.timeout(seconds):
                await self._changed.wait()

    async def reconcile(self, seconds: float, *, mine: str | None = None, patient: bool = False) -> None:
        """Reads the state store, and takes over rollouts without a driver, and all rollouts of the model `mine`.

        First, it uses what an earlier call has read too late, so that other servers' counts also arrive if every read
        takes longer than `seconds`. `patient` as in `StoreTimeout.wait`.
        """
        if self._late is not None:
            self._use(self._late)
        self._use(await self._reads.wait(self._read(), seconds, patient=patient), mine)

    async def _read(self) -> _Read:
        numbers = self.ownership.numbers
        records, servers = await self._store.in_thread(self._store.running_rollouts, self.ownership.driver)
        self._late = read = _Read(records, servers, numbers, self._clock.monotonic())
        return read

    def _use(self, read: _Read, mine: str | None = None) -> None:
        self._late = None
        written = {key for key, _ in read.numbers.items() ^ self.ownership.numbers.items()}
        self.update(read.records, read.servers, mine, written=written, at=read.at)

    async def records(self, model: str, seconds: float) -> Sequence[RolloutRecord]:
        """Reads the latest rollouts of a model, newest first, including those that have ended."""
        found = self._store.in_thread(self._store.rollouts, model)
        return await self._reads.wait(found, seconds, patient=True)

    async def followed(self, seconds: float, *, patient: bool = False) -> bool:
        """Applies the recorded releases and policies; returns False if the store does not respond within `seconds`.

        `patient` as in `StoreTimeout.wait`.
        """
        try:
            await self._follows.wait(self._serving.follow(files_within=seconds / 2), seconds, patient=patient)
        except (TurnoutError, OSError):
            return False
        return True

    async def refusals(self, model: str, candidate: Version, seconds: float) -> Sequence[str]:
        """Returns why a candidate cannot be rolled out, as `LocalServing.refusals` does."""
        return await self._follows.wait(self._serving.refusals(model, candidate), seconds, patient=True)

    def update(
        self,
        records: Sequence[RolloutRecord],
        servers_snapshot: ServersSnapshot,
        mine: str | None = None,
        *,
        written: Collection[Key] = (),
        at: float | None = None,
    ) -> None:
        """Applies what was read from the state store: the rollouts that have not ended, and the servers' reports.

        It was read `at` this time of the monotonic clock, by default now. `mine` and `written` as in
        `Ownership.reconcile`.
        """
        now = self._clock.monotonic() if at is None else at
        self.other_servers.update(servers_snapshot, now)
        taken_up, unreadable = self.ownership.reconcile(records, now, servers_snapshot.now, mine, written)
        for one in unreadable:
            self._log.error("a rollout cannot be read", model=one.record.model, reason=one.sentence)
        for rollout in taken_up:
            self._log.info("rollout taken up", model=rollout.model, attempt=rollout.attempt, state=str(rollout.state))
        self._continue_rollbacks()
        needed = {(r.model, r.attempt, r.candidate, r.previous) for r in self.ownership.running}
        if needed != self._needed:  # since loading takes 40 ms for a hundred models
            self._needed = needed
            self._serving.load()

    def _continue_rollbacks(self) -> None:
        """Takes over rollouts whose rollback was decided before a restart, or by another server, but not recorded."""
        for diversion in self._diversions.current:
            known = [r for r in self.ownership.of_model(diversion.model) if r.attempt == diversion.attempt]
            if not known or known[0].state is RolloutState.ABORTING:
                continue
            self.ownership.take(diversion.model, diversion.attempt)
            active = self.ownership.find(diversion.model, diversion.attempt)
            assert active is not None
            active.rollout, entries = overrides.roll_back(
                active.rollout, diversion.reason, diversion.cause, diversion.end
            )
            active.entries += entries
