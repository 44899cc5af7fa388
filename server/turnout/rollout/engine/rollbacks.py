"""Rollbacks that hold on this server before they are on record, or before the driver has applied them."""

import asyncio
from collections.abc import Sequence

from turnout.errors import TurnoutError
from turnout.rollout.clock import Clock
from turnout.rollout.engine.enforcement import Enforcement
from turnout.rollout.engine.ownership import Ownership
from turnout.rollout.engine.ports import LiveState, RolloutStore
from turnout.rollout.engine.store_timeouts import StoreTimeout
from turnout.rollout.engine.unrecorded_rollbacks import Diversion, Diversions
from turnout.rollout.machine import overrides
from turnout.rollout.machine.attempt import Rollout, RolloutState
from turnout.rollout.machine.records import read_record

_FOLLOW_SECONDS = 0.5
"""Between two looks for rollbacks of other servers."""

_STORE_WAIT = 0.5
"""Seconds that they wait for the state store, which takes milliseconds."""


class Rollbacks:
    """Rollbacks in force here and not on record, or on record and not in force here. On the event loop only."""

    def __init__(
        self,
        serving: LiveState,
        store: RolloutStore,
        ownership: Ownership,
        diversions: Diversions,
        enforcement: Enforcement,
        clock: Clock,
    ) -> None:
        self._serving = serving
        self._store = store
        self._ownership = ownership
        self._diversions = diversions
        self._enforcement = enforcement
        self._clock = clock
        self._store_timeout = StoreTimeout()
        self._going_back: Sequence[Rollout] = ()

    @property
    def current(self) -> Sequence[Diversion]:
        """Those that are in force and not on record yet, as far as is known here."""
        return self._diversions.current

    def begin(self, diversion: Diversion) -> None:
        """Applies a rollback by hand at once, before it is on record."""
        self._diversions.begin(diversion)

    async def drop(self, model: str) -> None:
        """Has a model's policy hold again, as it is recorded by now: a rollback by hand will not be on record."""
        if await self.followed():
            self._diversions.end(model)

    async def note(self) -> None:
        """Notes which rollouts are being rolled back by now, whoever drives them; called when the store has changed.

        Raises:
            UnavailableError: The state store does not answer.
        """
        found = map(read_record, await self._store.aborting())
        self._going_back = [one for one in found if isinstance(one, Rollout)]

    async def run(self) -> None:
        """Follows the rollbacks of other servers, for as long as the server runs."""
        while True:
            await asyncio.sleep(_FOLLOW_SECONDS)
            await self.follow()
            for rollout in self._going_back:
                # Most have ended by now. If not, the server that rolled it back may have died in between.
                self._enforcement.divert(rollout, self._clock.now())
            self._going_back = ()

    async def follow(self) -> None:
        """Applies rollbacks that another server, or this one before a restart, could not record."""
        recorded = await self._diversions.follow(self._enforcement.overruled, self._enforcement.heard)
        if recorded and await self.followed():  # until what was recorded is known here, the rollback holds
            for diversion in recorded:
                self._enforcement.end(diversion)

    async def followed(self) -> bool:
        """Puts in force what is recorded; returns False if the state store does not answer."""
        try:
            await self._store_timeout.wait(self._serving.follow(), _STORE_WAIT)
        except (TurnoutError, OSError):
            return False
        return True

    def take_up(self) -> None:
        """Goes on with rollbacks of rollouts that were decided before a restart, or by another server."""
        for diversion in self._diversions.current:
            known = [r for r in self._ownership.of_model(diversion.model) if r.attempt == diversion.attempt]
            if not known or known[0].state is RolloutState.ABORTING:
                continue
            self._ownership.take(diversion.model, diversion.attempt)
            active = self._ownership.find(diversion.model, diversion.attempt)
            assert active is not None
            active.rollout, entries = overrides.take_back(
                active.rollout, diversion.reason, diversion.cause, diversion.end
            )
            active.entries += entries

    def close(self) -> None:
        """Waits until everything that has to outlive the server is saved."""
        self._diversions.close()
