"""Releases, withdrawals and rollbacks by hand on a running server. They are recorded while no tick runs."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from semver import Version
from structlog.typing import FilteringBoundLogger

from turnout.errors import Conflict, ModelNotFound, TurnoutError, UnavailableError
from turnout.registry.manifest.signature import Signature
from turnout.rollout.changes.model_snapshot import RollbackOrigin
from turnout.rollout.changes.operations import ChangeResult, Operations
from turnout.rollout.changes.rollback import rollback
from turnout.rollout.engine.engine import RolloutEngine
from turnout.rollout.engine.local_serving import LocalServing
from turnout.rollout.engine.unrecorded_rollbacks import Diversion
from turnout.routing.default_answers import RoutingTable
from turnout.state.release_status import ReleaseStatus

_ROLLBACK_WAIT = 1.0
"""Seconds that a rollback by hand waits for the state store. After that, it is in force before it is recorded."""

_REPOSITORY_WAIT = 3.0
"""Seconds that a release waits for the repository. After that, it relies on what the server has read before."""


@dataclass(eq=False, repr=False)
class Releases:
    """Changes by operators of which versions answer. Used only on the event loop."""

    _engine: RolloutEngine
    _operations: Operations
    _serving: LocalServing
    _log: FilteringBoundLogger
    _recording: asyncio.Future[None] | None = field(init=False, default=None)

    def answers(self, model: str) -> RoutingTable:
        """Returns the versions that answer each selector of a model now. Raises as `RolloutEngine.answers`."""
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
    ) -> ChangeResult:
        """Moves all of a model's traffic back to an earlier version, and ends its rollouts. See `Operations.rollback`.

        If the state store does not respond, the rollback is in force here at once, and is recorded later.
        """
        why = reason or "rolled back by hand"
        await self._engine.rollbacks.followed()  # what is rolled back may have been published and released just now
        try:
            return await self._recorded(model, to, actor, why, expected_epoch, keep_released=keep_released)
        except UnavailableError as error:
            return self._divert(model, to, actor, why, error, keep_released=keep_released)

    async def _recorded(
        self,
        model: str,
        to: Version | None,
        actor: str,
        reason: str,
        expected_epoch: int | None,
        *,
        keep_released: bool,
        since: RollbackOrigin | None = None,
    ) -> ChangeResult:
        signatures = self._serving.signatures(model)

        def trouble(version: Version) -> str:
            ready = self._serving.is_ready(model, version)
            return "" if ready else f"it is not ready; `turnout load {model}@{version}` first"

        return await self._engine.commands.operate(
            lambda: self._operations.rollback(
                model, to, actor=actor, reason=reason, keep_released=keep_released, expected_epoch=expected_epoch,
                since=since, trouble=trouble, signatures=signatures,
            ),
            _ROLLBACK_WAIT,
        )  # fmt: skip

    def record_diversions(self, _: float) -> None:
        """Tries again to record rollbacks by hand that are in force but not recorded. Called at every tick."""
        pending = [one for one in self._engine.diversions.current if not one.attempt and one.recorded is None]
        if pending and (self._recording is None or self._recording.done()):
            self._recording = asyncio.ensure_future(self._record(pending))

    async def _record(self, pending: Sequence[Diversion]) -> None:
        for one in pending:
            why = f"{one.reason} (in force since {one.began.isoformat(timespec='seconds')})"
            try:
                await self._recorded(
                    one.model, one.to, one.actor, why, None, keep_released=one.keep_released, since=one.since
                )
            except Conflict as error:
                self._log.warning(
                    "a rollback that was in force is dropped, and not recorded", model=one.model, reason=error.message
                )
                await self._engine.rollbacks.drop(one.model)
            except TurnoutError as error:
                self._log.warning(
                    "a rollback that is in force cannot be recorded", model=one.model, reason=error.message
                )

    def _divert(
        self, model: str, to: Version | None, actor: str, reason: str, error: UnavailableError, *, keep_released: bool
    ) -> ChangeResult:
        """Applies a rollback in memory because the state store does not respond, with a result that says so."""
        snapshot = self._serving.model_snapshot(model, [r for r in self._engine.running if r.model == model])
        outcome = rollback(snapshot, to, b"", keep_released=keep_released, actor=actor, reason=reason)
        target = snapshot.after(outcome).answering
        if target is None:
            raise error
        since = RollbackOrigin(self._serving.in_force(model).epoch, snapshot.answering)
        gone = tuple(version for version, status in outcome.statuses.items() if status is ReleaseStatus.CANDIDATE)
        now = self._engine.now
        self._engine.diversions.begin(Diversion(model, target, since, 0, actor, reason, now, gone, keep_released))
        sentence = f"{model} went back to {target} on this server; it is recorded once the state store answers"
        return ChangeResult(f"{sentence} ({error.message})", True, self._engine.answers(model), target, since.epoch)

    async def release(
        self, model: str, version: Version, actor: str, reason: str, *, traffic: bool = True, supersede: bool = False
    ) -> ChangeResult:
        """Declares a version fit for general traffic. Raises as `Operations.release`."""
        signatures = await self._signatures(model, version)
        return await self._engine.commands.operate(
            lambda: self._operations.release(
                model, version, actor=actor, reason=reason, traffic=traffic, supersede=supersede,
                trouble=lambda exact: self._serving.load_failure(model, exact), signatures=signatures,
            )
        )  # fmt: skip

    async def withdraw(self, model: str, version: Version, actor: str, reason: str) -> ChangeResult:
        """Withdraws a release. Raises as `Operations.withdraw`."""
        signatures = await self._signatures(model, version)
        return await self._engine.commands.operate(
            lambda: self._operations.withdraw(model, version, actor=actor, reason=reason, signatures=signatures)
        )

    async def discard(self, model: str, attempt: int, actor: str, reason: str) -> ChangeResult:
        """Ends rollouts that cannot be read. Raises as `Operations.discard`."""
        signatures = self._serving.signatures(model)
        return await self._engine.commands.operate(
            lambda: self._operations.discard(model, attempt, actor=actor, reason=reason, signatures=signatures)
        )

    async def _signatures(self, model: str, version: Version) -> Mapping[Version, Signature]:
        """Returns the signatures of a model's versions: those in the repository or, if it hangs, those served here.

        The state store's threads may not wait for the repository: all work on the state store would wait with them.
        """
        try:
            async with asyncio.timeout(_REPOSITORY_WAIT):
                return await self._operations.in_thread(self._operations.signatures, model, version)
        except TimeoutError:
            with suppress(ModelNotFound):
                if version in (served := self._serving.signatures(model)):
                    return served
            why = (
                f"the model repository has not answered within {_REPOSITORY_WAIT:g} s, and {version} is not known here"
            )
            raise UnavailableError(why, retry_after=1.0) from None
