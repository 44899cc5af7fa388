"""Releases, withdrawals and rollbacks by hand, on a running server: recorded while no tick runs, then followed."""

from semver import Version

from turnout.rollout.changes.operations import Done, Operations
from turnout.rollout.engine.engine import RolloutEngine
from turnout.rollout.engine.ports import World
from turnout.routing.answers import Answers


class Releases:
    """What operators change about who answers. Used on the event loop only."""

    def __init__(self, engine: RolloutEngine, operations: Operations, world: World) -> None:
        """Takes what it works on.

        Args:
            engine: Drives the rollouts that may be in the way.
            operations: Decide and record.
            world: Tells which versions can answer.
        """
        self._engine = engine
        self._operations = operations
        self._world = world

    def answers(self, model: str) -> Answers:
        """Returns who answers what of a model now. Raises as `RolloutEngine.answers`."""
        return self._engine.answers(model)

    async def rollback(
        self,
        model: str,
        to: Version | None,
        actor: str,
        reason: str,
        expected_epoch: int | None = None,
        *,
        keep_released: bool = False,
    ) -> Done:
        """Gives all of a model's traffic back to a version that had it before, and ends its rollouts.

        Args:
            model: Its model.
            to: The version; None for what a rollout goes back to, or the nearest that answered before.
            actor: Who asks.
            reason: Why.
            expected_epoch: That the operator looked at: of the one rollout that runs, or else of the traffic.
            keep_released: What is gone back from stays released.

        Raises:
            ModelNotFound: There is no such model.
            ChangeRefused: There is nothing to go back to, or it is not ready.
            Conflict: It has moved since the operator looked at it.
            Unavailable: The state store does not answer.
        """
        signatures = self._world.signatures(model)

        def trouble(version: Version) -> str:
            ready = self._world.is_ready(model, version)
            return "" if ready else f"it is not ready; `turnout load {model}@{version}` first"

        why = reason or "rolled back by hand"
        return await self._engine.operate(
            lambda: self._operations.rollback(
                model, to, actor=actor, reason=why, keep_released=keep_released, expected_epoch=expected_epoch,
                trouble=trouble, signatures=signatures,
            )
        )  # fmt: skip

    async def release(
        self, model: str, version: Version, actor: str, reason: str, *, traffic: bool = True, supersede: bool = False
    ) -> Done:
        """Declares a version fit for general traffic. Raises as `Operations.release`."""
        return await self._engine.operate(
            lambda: self._operations.release(
                model, version, actor=actor, reason=reason, traffic=traffic, supersede=supersede,
                trouble=lambda exact: self._world.load_failure(model, exact),
            )
        )  # fmt: skip

    async def withdraw(self, model: str, version: Version, actor: str, reason: str) -> Done:
        """Takes a release back. Raises as `Operations.withdraw`."""
        return await self._engine.operate(lambda: self._operations.withdraw(model, version, actor=actor, reason=reason))

    async def discard(self, model: str, attempt: int, actor: str, reason: str) -> Done:
        """Ends rollouts that cannot be read. Raises as `Operations.discard`."""
        signatures = self._world.signatures(model)
        return await self._engine.operate(
            lambda: self._operations.discard(model, attempt, actor=actor, reason=reason, signatures=signatures)
        )
