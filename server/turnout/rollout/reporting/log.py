"""What rollouts did: their records, events and ticks, as the state store has them."""

from datetime import datetime
from typing import Any

from turnout.errors import NotFoundError
from turnout.rollout.machine.attempt import Rollout
from turnout.rollout.machine.records import UnreadableRollout, read_record, recorded
from turnout.serving.versions.catalog import Catalog
from turnout.state.event_log.events import Event
from turnout.state.rollouts import RolloutRecord
from turnout.state.store import StateStore

_MOST_ATTEMPTS = 2**63 - 1
"""What a column of the state store holds; a number beyond it would raise there."""


class RolloutLog:
    """Reads what is recorded about rollouts: nothing is told before it is on record.

    Every method raises UnavailableError while the state store does not answer.
    """

    def __init__(self, store: StateStore, catalog: Catalog) -> None:
        """Reads nothing yet.

        Args:
            store: Keeps the records.
            catalog: Tells which models there are.
        """
        self._store = store
        self._catalog = catalog

    async def latest(self, model: str, attempt: int = 0) -> tuple[RolloutRecord, Rollout]:
        """Returns a rollout of a model; of attempt 0, the latest.

        Raises:
            ModelNotFound: There is no such model.
            NotFoundError: It never had one, or no such attempt.
            Unsupported: It cannot be read; the message names the way out.
        """
        record, _ = await self.found(model, attempt)
        return record, recorded(record)

    async def found(self, model: str, attempt: int = 0) -> tuple[RolloutRecord, Rollout | UnreadableRollout]:
        """Returns a rollout as `latest` does, or that it cannot be read."""
        self._catalog.snapshot.model(model)
        if attempt <= _MOST_ATTEMPTS:
            for record in await self._store.in_thread(self._store.rollouts, model, limit=1, attempt=attempt or None):
                return record, read_record(record)
        raise NotFoundError(f"{model} has had no rollout{f' {attempt}' if attempt else ''}")

    async def history(self, model: str | None, limit: int) -> list[tuple[RolloutRecord, Rollout | UnreadableRollout]]:
        """Returns rollouts of a model, or of all, the newest first; those too that cannot be read.

        Raises:
            ModelNotFound: There is no such model.
        """
        if model is not None:
            self._catalog.snapshot.model(model)
        records = await self._store.in_thread(self._store.rollouts, model, limit=limit)
        return [(record, read_record(record)) for record in records]

    async def record(self, rollout: Rollout) -> RolloutRecord | None:
        """Returns how a rollout is recorded."""
        records = await self._store.in_thread(self._store.rollouts, rollout.model, attempt=rollout.attempt)
        return next(iter(records), None)

    async def events(self, model: str, attempt: int, limit: int) -> list[Event]:
        """Returns what happened to a rollout, the oldest first."""
        found = await self._store.in_thread(self._store.events, model, limit, rollout=attempt)
        return found[::-1]

    async def ticks(
        self, model: str, attempt: int, after: int, limit: int
    ) -> list[tuple[int, datetime, dict[str, Any]]]:
        """Returns ticks of a rollout, in order: number, when it was recorded, and what it counted."""
        return await self._store.in_thread(self._store.rollout_ticks, model, attempt, after, limit)
