"""Reads the records, events and ticks of rollouts from the state store."""

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
"""Highest number that the state store's column can represent; a higher one would raise an error there."""


class RolloutLog:
    """Reads recorded rollouts. Nothing is reported before it is recorded.

    Every method raises UnavailableError while the state store does not respond.
    """

    def __init__(self, store: StateStore, catalog: Catalog) -> None:
        self._store = store
        self._catalog = catalog

    async def latest(self, model: str, attempt: int = 0) -> tuple[RolloutRecord, Rollout]:
        """Returns one rollout of a model; for attempt 0, the latest.

        Raises:
            ModelNotFound: The model does not exist.
            NotFoundError: It never had a rollout, or has no such attempt.
            Unsupported: The rollout cannot be read; the message says how to resolve it.
        """
        record, _ = await self.found(model, attempt)
        return record, recorded(record)

    async def found(self, model: str, attempt: int = 0) -> tuple[RolloutRecord, Rollout | UnreadableRollout]:
        """Returns one rollout as `latest` does, also if it cannot be read."""
        self._catalog.snapshot.model(model)
        if attempt <= _MOST_ATTEMPTS:
            for record in await self._store.in_thread(self._store.rollouts, model, limit=1, attempt=attempt or None):
                return record, read_record(record)
        raise NotFoundError(
            f"{model} has had no rollout {attempt}"
            if attempt
            else f"{model} has had no rollout; `turnout rollout start {model} --to VERSION` starts one"
        )

    async def history(self, model: str | None, limit: int) -> list[tuple[RolloutRecord, Rollout | UnreadableRollout]]:
        """Returns rollouts of a model, or of all models, newest first, including unreadable ones.

        Raises:
            ModelNotFound: The model does not exist.
        """
        if model is not None:
            self._catalog.snapshot.model(model)
        records = await self._store.in_thread(self._store.rollouts, model, limit=limit)
        return [(record, read_record(record)) for record in records]

    async def record(self, rollout: Rollout) -> RolloutRecord | None:
        """Returns the record of a rollout; None if there is none."""
        records = await self._store.in_thread(self._store.rollouts, rollout.model, attempt=rollout.attempt)
        return next(iter(records), None)

    async def events(self, model: str, attempt: int, limit: int) -> list[Event]:
        """Returns the events of a rollout, oldest first."""
        found = await self._store.in_thread(self._store.events, model, limit, rollout=attempt)
        return found[::-1]

    async def ticks(
        self, model: str, attempt: int, after: int, limit: int
    ) -> list[tuple[int, datetime, dict[str, Any]]]:
        """Returns ticks of a rollout, in order: number, time of recording, and counts."""
        return await self._store.in_thread(self._store.rollout_ticks, model, attempt, after, limit)
