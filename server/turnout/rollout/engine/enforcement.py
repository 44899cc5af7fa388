"""Puts in force what a recorded rollout asks for. What is not recorded goes nowhere.

A verdict alone takes effect in memory while the state store does not answer.
"""

from dataclasses import replace

from structlog.typing import FilteringBoundLogger

from turnout.errors import Conflict, TurnoutError, Unavailable
from turnout.registry.standing import Standing
from turnout.rollout.actors import rollout_actor
from turnout.rollout.attempt import Rollout, RolloutState
from turnout.rollout.desired import desired_policy
from turnout.rollout.engine.active import ActiveRollout
from turnout.rollout.engine.origin import policy_text, set_by_others
from turnout.rollout.engine.ownership import Ownership
from turnout.rollout.engine.ports import RolloutStore, TrafficChange, World
from turnout.routing.applied import AppliedPolicy
from turnout.routing.policy import Policy
from turnout.routing.traffic import Change


class Enforcement:
    """What rollouts do to the traffic. Used on the event loop only."""

    def __init__(self, world: World, store: RolloutStore, ownership: Ownership, log: FilteringBoundLogger) -> None:
        """Takes what it works on.

        Args:
            world: What is served and routed.
            store: Keeps the releases.
            ownership: The rollouts that run.
            log: Where trouble is logged.
        """
        self._world = world
        self._store = store
        self._ownership = ownership
        self._log = log

    async def apply(self, active: ActiveRollout) -> None:
        """Puts in force what the recorded state asks for."""
        rollout = active.rollout
        aborting = rollout.state is RolloutState.ABORTING
        applied, policy = self._world.in_force(rollout.model)
        desired = desired_policy(rollout, policy)
        if not active.saved:
            if aborting:
                self._divert(rollout, desired)  # the verdict holds, recorded or not
            return
        if rollout.state.final:
            self._ownership.drop(rollout)
            self._undivert(rollout.model)
            return
        if not aborting and set_by_others(rollout, applied):
            # Somebody changed it since this tick looked: the next one says so, and until then nothing of it is undone.
            self._undivert(rollout.model)
            return
        frozen = applied is not None and applied.state.frozen
        settled = desired is None or desired == policy
        if not aborting and not frozen and desired is not None and settled and active.counters.starved:
            await self._redraw_twin(active)
        if not aborting and (rollout.pauses or frozen or settled or not self._ready(rollout)):
            self._undivert(rollout.model)
            return
        try:
            if desired is not None and not settled:
                await self._put(active, desired, applied)
            elif aborting and rollout.released:
                await self._withdraw(rollout)
        except (Conflict, Unavailable, OSError) as error:
            self._log.warning("a rollout tries again", model=rollout.model, reason=str(error))
            if aborting:
                self._divert(rollout, desired)
            return
        except TurnoutError as error:
            self._log.warning("a rollout's traffic was refused", model=rollout.model, reason=error.message)
            active.refused = error.message
            if aborting:
                self._divert(rollout, desired)
            return
        active.refused = ""
        if not aborting:
            self._undivert(rollout.model)

    def undivert(self) -> None:
        """Has policies hold again where a rollback that was to be recorded has ended otherwise."""
        for model in self._world.diverted:
            self._undivert(model)

    def routed(self, rollout: Rollout) -> Rollout:
        """Returns the rollout that takes the traffic of now for granted."""
        applied, policy = self._world.in_force(rollout.model)
        epoch = applied.epoch if applied is not None else 0
        return replace(rollout, policy_epoch=epoch, routed=policy_text(policy))

    def _divert(self, rollout: Rollout, desired: Policy | None) -> None:
        """Has what a rollback asks for hold in memory, where it cannot be recorded now."""
        self._world.divert(rollout.model, rollout.previous if desired is None else desired.baseline)

    def _undivert(self, model: str) -> None:
        """Has the policy hold again, unless a rollback of the model is still to be recorded."""
        if not any(active.rollout.state is RolloutState.ABORTING for active in self._ownership.of(model)):
            self._world.undivert(model)

    async def _put(self, active: ActiveRollout, desired: Policy, applied: AppliedPolicy | None) -> None:
        rollout = active.rollout
        change = Change(rollout_actor(rollout.attempt), _reason(rollout), applied.epoch if applied is not None else 0)
        statuses = {}
        if rollout.released:
            aborting = rollout.state is RolloutState.ABORTING
            statuses[rollout.candidate] = Standing.CANDIDATE if aborting else Standing.RELEASED
        wanted = TrafficChange(desired, change, rollout.attempt, active.number, statuses)
        await self._world.apply(rollout.model, wanted)
        active.rollout = self.routed(rollout)

    async def _redraw_twin(self, active: ActiveRollout) -> None:
        """Gives the arm that the canary is compared with other keys, where it has hardly any requests with one."""
        rollout = active.rollout
        active.counters.redrawn()
        why = f"{_reason(rollout)}: the keys of the baseline's twin carry too little traffic"
        try:
            await self._world.redraw_twin(rollout.model, Change(rollout_actor(rollout.attempt), why))
        except (TurnoutError, OSError) as error:
            self._log.warning("a twin was not drawn anew", model=rollout.model, reason=str(error))
            return
        active.rollout = self.routed(rollout)

    async def _withdraw(self, rollout: Rollout) -> None:
        by = rollout_actor(rollout.attempt)
        await self._store.withdraw(rollout.model, rollout.candidate, actor=by, reason=_reason(rollout))
        await self._world.follow(traffic=False)

    def _ready(self, rollout: Rollout) -> bool:
        versions = rollout.candidate, rollout.previous
        return all(self._world.is_ready(rollout.model, version) for version in versions)


def _reason(rollout: Rollout) -> str:
    return f"rollout of {rollout.candidate}, attempt {rollout.attempt}: {rollout.state}"
