"""Rollbacks that are in effect on this server before they are recorded, or before the driver has applied them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from turnout.rollout.clock import Clock
from turnout.rollout.engine.enforcement import Enforcement
from turnout.rollout.engine.running_rollouts import RunningRollouts
from turnout.rollout.engine.unrecorded_rollbacks import Diversions
from turnout.rollout.machine.attempt import Rollout, RolloutState
from turnout.rollout.machine.records import read_record
from turnout.state.store import StateStore

_FOLLOW_SECONDS = 0.5
"""Interval in seconds at which rollbacks of other servers are looked for."""

_STORE_WAIT = 0.5
"""Seconds to wait for the state store, which normally takes milliseconds."""


@dataclass(eq=False, repr=False)
class Rollbacks:
    """Rollbacks that are in force here but not recorded, or the other way round. Used only on the event loop."""

    _rollouts: RunningRollouts
    _store: StateStore
    _diversions: Diversions
    _enforcement: Enforcement
    _clock: Clock
    _aborting: Sequence[Rollout] = field(init=False, default=())

    async def drop(self, model: str) -> None:
        """Drops a rollback by hand that will not be recorded. The model's recorded policy is in effect again."""
        if await self.followed():
            self._diversions.end(model)

    async def note(self) -> None:
        """Reads which rollouts are being rolled back, here or elsewhere. Called when the store has changed.

        Raises:
            UnavailableError: The state store does not respond.
        """
        records = await self._store.in_thread(self._store.rollouts_in, str(RolloutState.ABORTING))
        self._aborting = [one for one in map(read_record, records) if isinstance(one, Rollout)]

    async def run(self) -> None:
        """Follows the rollbacks of other servers. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(_FOLLOW_SECONDS)
            await self.follow()
            for rollout in self._aborting:
                # Most have ended by now. If not, the server that decided the rollback may have died in between.
                self._enforcement.divert(rollout, self._clock.now())
            self._aborting = ()

    async def follow(self) -> None:
        """Applies rollbacks that another server, or this one before a restart, could not record."""
        recorded = await self._diversions.follow(self._enforcement.overruled, self._enforcement.knows_record)
        if recorded and await self.followed():  # the diversion stays until the recorded change is known here
            for diversion in recorded:
                self._enforcement.end(diversion)

    async def followed(self) -> bool:
        """Applies the recorded state; returns False if the state store does not respond."""
        return await self._rollouts.followed(_STORE_WAIT)
