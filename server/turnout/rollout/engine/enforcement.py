"""Applies what a recorded rollout requires. What is not recorded is not applied.

Only a rollback takes effect at once, in memory. It is recorded and put into force by the policy as soon as the state
store responds.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from semver import Version
from structlog.typing import FilteringBoundLogger

from turnout.errors import Conflict, ModelNotFound, TurnoutError, UnavailableError
from turnout.rollout.changes.model_snapshot import RollbackOrigin
from turnout.rollout.engine.active_rollout import ActiveRollout
from turnout.rollout.engine.local_serving import LocalServing
from turnout.rollout.engine.ownership import Ownership
from turnout.rollout.engine.policy_origin import accept_policy, set_by_others
from turnout.rollout.engine.store_timeouts import StoreTimeout
from turnout.rollout.engine.unrecorded_rollbacks import Diversion, Diversions
from turnout.rollout.machine.actors import rollout_actor
from turnout.rollout.machine.attempt import Rollout, RolloutState
from turnout.rollout.machine.desired_policy import desired_policy, is_settled
from turnout.routing.active_policies import AppliedPolicy
from turnout.routing.policy import Policy
from turnout.routing.traffic import ChangeOrigin
from turnout.state.release_status import ReleaseStatus
from turnout.state.store import StateStore


@dataclass(eq=False, repr=False)
class Enforcement:
    """The effects of rollouts on the traffic. Used only on the event loop."""

    _serving: LocalServing
    _store: StateStore
    _ownership: Ownership
    _diversions: Diversions
    _store_timeout: StoreTimeout
    _log: FilteringBoundLogger

    def divert(self, rollout: Rollout, now: datetime) -> None:
        """Applies a rollback at once, in memory. Does nothing unless the rollout is being rolled back."""
        if not self._awaits_rollback(rollout):
            return
        model, gone = rollout.model, (rollout.candidate,) if self._still_released(rollout) else ()
        applied = self._serving.in_force(model)
        desired = desired_policy(rollout, applied.policy)
        to = desired.baseline if desired is not None else self._serving.baseline(model, gone) or rollout.previous
        since = RollbackOrigin(applied.epoch, self._answering(model))
        found = Diversion(model, to, since, rollout.attempt, "", rollout.verdict, now, gone)
        self._diversions.begin(replace(found, cause=rollout.cause, end=rollout.end))

    async def apply(self, active: ActiveRollout, seconds: float) -> None:
        """Puts into force what the recorded state requires. Waits at most `seconds` for the state store."""
        rollout = active.rollout
        if not active.saved:
            return
        if rollout.state.final:
            self._ownership.drop(rollout)
            return
        aborting = rollout.state is RolloutState.ABORTING
        applied = self._serving.in_force(rollout.model)
        if not aborting and set_by_others(rollout, applied):
            # The policy was changed since this tick observed it. The next tick reports that; nothing is undone yet.
            return
        desired, frozen = desired_policy(rollout, applied.policy), applied.state.frozen
        settled = desired is None or desired == applied.policy
        if not aborting and not frozen and desired is not None and settled and active.counters.starved:
            await self._redraw_twin(active, seconds)
        if not aborting and (rollout.pauses or frozen or settled or not self._ready(rollout)):
            return
        try:
            if desired is not None and not settled:
                await self._store_timeout.wait(self._put(active, desired, applied), seconds)
            elif aborting and rollout.released:
                await self._store_timeout.wait(self._withdraw(active), seconds)
        except (Conflict, UnavailableError, OSError) as error:
            self._log.warning("a rollout tries again", model=rollout.model, reason=str(error))
        except TurnoutError as error:
            self._log.warning("a rollout's traffic was refused", model=rollout.model, reason=error.message)
            active.refused = error.message
        else:
            active.refused = ""

    def undivert(self, *, fresh: bool) -> None:
        """Ends diversions whose rollback is recorded, or has ended otherwise.

        `fresh`: the running rollouts were just read from the state store.
        """
        for diversion in self._diversions.current:
            if not self._needed(diversion, fresh=fresh):
                self.end(diversion)

    def end(self, diversion: Diversion) -> None:
        """Ends a model's diversion, because its rollback is recorded and known here, or was overridden."""
        epoch = self._serving.in_force(diversion.model).epoch
        self._diversions.end(diversion.model, None if self.overruled(diversion) else epoch)

    def knows_record(self, diversion: Diversion) -> bool:
        """Returns whether this server knows the record of a recorded rollback."""
        applied = self._serving.in_force(diversion.model)
        if applied.policy is None and applied.epoch == diversion.recorded:
            return self._has_its_effect(diversion)
        return diversion.recorded is not None and applied.epoch >= diversion.recorded

    def _needed(self, diversion: Diversion, *, fresh: bool) -> bool:
        model, attempt = diversion.model, diversion.attempt
        if any(self._awaits_rollback(rollout) for rollout in self._ownership.of_model(model)):
            return True  # regardless of the driver, until its traffic has gone back here too
        if self.overruled(diversion):
            return False
        if not attempt:
            return not self._has_its_effect(diversion)
        return not fresh or any(
            r.attempt == attempt and r.state is not RolloutState.ABORTING for r in self._ownership.of_model(model)
        )

    def overruled(self, diversion: Diversion) -> bool:
        """Returns whether an operator has changed which version answers since. That change takes precedence."""
        applied, answering = self._serving.in_force(diversion.model), self._answering(diversion.model)
        overruled = diversion.since.overruled(applied.epoch, applied.actor, applied.policy, answering)
        return answering != diversion.to and overruled

    def _has_its_effect(self, diversion: Diversion) -> bool:
        """Returns whether the recorded state has the same effect as the rollback by hand."""
        model = diversion.model
        if self._answering(model) != diversion.to:
            return False
        policy = self._serving.in_force(model).policy
        released = any(self._serving.is_released(model, version) for version in diversion.withdrawn)
        return not released and (policy is None or not policy.canaries)

    def _answering(self, model: str) -> Version | None:
        """Returns the version that answers plain requests by the records, ready or not; None if there is none."""
        try:
            return self._serving.model_snapshot(model, ()).answering
        except ModelNotFound:
            return None

    def _awaits_rollback(self, rollout: Rollout) -> bool:
        """Returns whether a rollout is being rolled back, and its traffic or release has not been moved back yet."""
        if rollout.state is not RolloutState.ABORTING:
            return False
        return not is_settled(rollout, self._serving.in_force(rollout.model).policy) or self._still_released(rollout)

    def _still_released(self, rollout: Rollout) -> bool:
        """Returns whether a candidate that is rolled back is still released, although its release must be withdrawn."""
        return rollout.released and self._serving.is_released(rollout.model, rollout.candidate)

    async def _put(self, active: ActiveRollout, desired: Policy, applied: AppliedPolicy) -> None:
        rollout = active.rollout
        statuses = {}
        if rollout.released:
            aborting = rollout.state is RolloutState.ABORTING
            statuses[rollout.candidate] = ReleaseStatus.CANDIDATE if aborting else ReleaseStatus.RELEASED
        change = ChangeOrigin(
            rollout_actor(rollout.attempt), _reason(rollout), applied.epoch, statuses=statuses,
            rollout=(rollout.attempt, active.number),
        )  # fmt: skip
        await self._serving.apply(rollout.model, desired, change)
        # If that took longer than a tick waits, the rollout has moved on meanwhile.
        active.rollout = accept_policy(active.rollout, self._serving.in_force(rollout.model))

    async def _redraw_twin(self, active: ActiveRollout, seconds: float) -> None:
        """Gives the twin other keys, because it gets hardly any requests with a key."""
        rollout = active.rollout
        active.counters.redrawn()
        why = f"{_reason(rollout)}: the keys of the baseline's twin carry too little traffic"
        change = ChangeOrigin(rollout_actor(rollout.attempt), why)
        try:
            await self._store_timeout.wait(self._serving.redraw_twin(rollout.model, change), seconds)
        except (TurnoutError, OSError) as error:
            self._log.warning("a twin was not drawn anew", model=rollout.model, reason=str(error))
            return
        active.rollout = accept_policy(rollout, self._serving.in_force(rollout.model))

    async def _withdraw(self, active: ActiveRollout) -> None:
        rollout, by = active.rollout, rollout_actor(active.rollout.attempt)
        await self._store.in_thread(
            self._store.withdraw, rollout.model, rollout.candidate, actor=by, reason=_reason(rollout),
            rollout=(rollout.attempt, active.number),
        )  # fmt: skip
        await self._serving.follow(traffic=False)

    def _ready(self, rollout: Rollout) -> bool:
        versions = rollout.candidate, rollout.previous
        return all(self._serving.is_ready(rollout.model, version) for version in versions)


def _reason(rollout: Rollout) -> str:
    return f"rollout of {rollout.candidate}, attempt {rollout.attempt}: {rollout.state}"
