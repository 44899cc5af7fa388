"""The port `RolloutStore` on the state store."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from semver import Version

from turnout.state.rollouts import RolloutRecord, RolloutWrite
from turnout.state.store import StateStore

_MOST_RUNNING = 10_000

T = TypeVar("T")


class StoredRollouts:
    """Rollouts as the state store has them; each call runs in one of the store's threads."""

    def __init__(self, store: StateStore) -> None:
        self._store = store

    async def running(self) -> Sequence[RolloutRecord]:
        """Returns the rollouts that have not ended."""
        return await self._store.in_thread(self._store.rollouts, None, running=True, limit=_MOST_RUNNING)

    async def of(self, model: str) -> Sequence[RolloutRecord]:
        """Returns the latest rollouts of a model, the newest first."""
        return await self._store.in_thread(self._store.rollouts, model)

    async def write(self, model: str, wanted: RolloutWrite, *, actor: str, reason: str) -> RolloutRecord:
        """Writes a rollout, its ticks and events, in one transaction. Raises as `StateStore.put_rollout`."""
        return await self._store.in_thread(self._store.put_rollout, model, wanted, actor=actor, reason=reason)

    async def withdraw(
        self, model: str, version: Version, *, actor: str, reason: str, rollout: tuple[int, int]
    ) -> None:
        """Takes a release back. Raises as `StateStore.withdraw`."""
        await self._store.in_thread(self._store.withdraw, model, version, actor=actor, reason=reason, rollout=rollout)

    async def run(self, operation: Callable[[], T]) -> T:
        """Runs a blocking change of the store in one of its threads."""
        return await self._store.in_thread(operation)
