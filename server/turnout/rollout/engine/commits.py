"""Commits what was decided about rollouts: records it, and then puts it in force.

Only a rollback does not wait for its record: it is in force at once, and stays in force while the store is unavailable.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from turnout.errors import Conflict, TurnoutError
from turnout.rollout.clock import Clock
from turnout.rollout.engine.active_rollout import ActiveRollout
from turnout.rollout.engine.enforcement import Enforcement
from turnout.rollout.engine.ownership import Ownership
from turnout.rollout.engine.store_timeouts import TICK_WAIT, StillRunning, seconds_until
from turnout.rollout.engine.unrecorded_rollbacks import Diversions
from turnout.rollout.engine.writer import RolloutWriter
from turnout.rollout.machine.attempt import Rollout, RolloutHistoryEntry, RolloutState


@dataclass(eq=False, repr=False)
class RolloutCommits:
    """Records rollouts and puts them in force, for ticks and commands. Used only on the event loop."""

    _writer: RolloutWriter
    _enforcement: Enforcement
    _ownership: Ownership
    _diversions: Diversions
    _clock: Clock
    _log: FilteringBoundLogger

    async def begin(self, rollout: Rollout, entry: RolloutHistoryEntry, until: float) -> ActiveRollout:
        """Commits a new rollout. It is void if it cannot be recorded by `until`, a time of the event loop's clock.

        Raises:
            TurnoutError: It cannot be recorded.
        """
        active = ActiveRollout.begin(rollout, 0, self._clock.monotonic())
        active.entries.append(entry)
        self._ownership.add(active)
        try:
            await self._writer.save(active, seconds_until(until), strict=True)
        except TurnoutError:
            self._ownership.drop(rollout)
            raise
        return active

    async def decide(
        self, active: ActiveRollout, after: Rollout, entries: Sequence[RolloutHistoryEntry], until: float
    ) -> None:
        """Commits a command, which led to the state `after`. `until` as in `begin`.

        It is void if it cannot be recorded, unless it is a rollback.

        Raises:
            Conflict: Another server wrote the rollout in the meantime.
            TurnoutError: It cannot be recorded.
        """
        before, saved = active.rollout, active.saved
        active.rollout = after
        active.entries += entries
        aborting = after.state is RolloutState.ABORTING
        if aborting:
            self._enforcement.divert(after, self._clock.now())
        try:
            await self._writer.save(active, seconds_until(until), strict=not aborting)
        except StillRunning:
            raise  # it may still be recorded
        except TurnoutError:
            active.rollout, active.saved = before, saved
            del active.entries[len(active.entries) - len(entries) :]  # those before may have been recorded meanwhile
            if aborting and before.state is not RolloutState.ABORTING:
                self._diversions.end(after.model)
            raise
        active.refused = ""
        await self._enforcement.apply(active, seconds_until(until))
        self._enforcement.undivert(fresh=False)

    async def catch_up(self, active: ActiveRollout) -> bool:
        """Applies what a state requires that was recorded after its tick had ended.

        Returns:
            Whether the rollout goes on. It does not if that was its end.
        """
        if not (active.late and active.saved):
            return True
        active.late = False
        await self._enforcement.apply(active, TICK_WAIT)
        return not active.rollout.state.final

    async def advance(self, active: ActiveRollout) -> bool:
        """Commits what a tick has decided; returns False if that is nothing, and only counts have to be recorded."""
        self._enforcement.divert(active.rollout, self._clock.now())
        if not active.entries and active.number:
            return False
        try:
            await self._writer.save(active, TICK_WAIT)
        except Conflict:
            self._ownership.lose(active.rollout)
            return True
        await self._enforcement.apply(active, TICK_WAIT)
        self._enforcement.undivert(fresh=False)
        return True

    async def save_counts(self, several: Sequence[ActiveRollout], seconds: float) -> None:
        """Records the counts of rollouts for which a tick has decided nothing, and applies what these rollouts require.

        Waits at most `seconds` for the state store.
        """
        try:
            lost = await self._writer.save_counts(several, seconds)
        except Exception as error:  # noqa: BLE001 - an error of one rollout must not affect the others
            self._log.error("counts could not be recorded together", exc_info=error)
            lost = [active for active in several if not await self._saved(active)]
        for active in several:
            if active in lost:
                self._ownership.lose(active.rollout)
                continue
            await self._enforcement.apply(active, TICK_WAIT)
        self._enforcement.undivert(fresh=False)

    async def _saved(self, active: ActiveRollout) -> bool:
        """Records a single rollout; returns False if another server wrote it in the meantime."""
        try:
            await self._writer.save(active, TICK_WAIT)
        except Conflict:
            return False
        except Exception as error:  # noqa: BLE001 - as above
            active.saved = False
            self._log.error("a rollout could not be recorded", model=active.rollout.model, exc_info=error)
        return True

    def ended(self, endings: Iterable[tuple[Rollout, Sequence[RolloutHistoryEntry]]], *, fresh: bool) -> None:
        """Reports rollouts that a recorded change of the state store has ended, and ends their diversions.

        `fresh` says whether this server has applied the change.
        """
        self._enforcement.undivert(fresh=fresh)
        for rollout, entries in endings:
            self._writer.report(rollout, entries)
