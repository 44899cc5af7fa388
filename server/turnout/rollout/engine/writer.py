"""Records rollouts, and reports what was recorded: nobody is told of what is not on record."""

from collections.abc import Callable, Sequence

from structlog.typing import FilteringBoundLogger

from turnout.errors import Unavailable
from turnout.rollout.actors import rollout_actor
from turnout.rollout.attempt import Entry, Rollout
from turnout.rollout.engine.active import ActiveRollout
from turnout.rollout.engine.ports import RolloutStore
from turnout.state.rollouts import Note, RolloutWrite

_REASON_BYTES = 1000

Notify = Callable[[str, Rollout, Entry], None]
"""Told of everything that happens to a rollout, with the model's name; quick, and raises nothing."""


class RolloutWriter:
    """Records rollouts as they stand. Used on the event loop only."""

    def __init__(
        self, store: RolloutStore, driver: str, lease_seconds: float, notify: Notify, log: FilteringBoundLogger
    ) -> None:
        """Takes where it writes.

        Args:
            store: Keeps the rollouts.
            driver: Who writes: the lease's owner.
            lease_seconds: For which nobody else may.
            notify: Told of everything that happens.
            log: Where that is logged too.
        """
        self._store = store
        self._driver = driver
        self._lease_seconds = lease_seconds
        self._notify = notify
        self._log = log

    async def save(self, active: ActiveRollout, *, strict: bool) -> None:
        """Records a rollout as it stands. If the state store does not answer it waits, unless strict.

        Raises:
            Conflict: Another server wrote it meanwhile.
            Unavailable: The state store does not answer, and it is strict.
        """
        rollout = active.rollout
        notes = [Note(e.kind, e.text, e.actor) for e in active.entries]
        wanted = RolloutWrite(
            rollout.attempt, active.number, str(rollout.state), rollout.state.final, rollout.to_json(),
            self._driver, self._lease_seconds, notes, list(active.ticks),
            needs=() if active.number else (rollout.candidate, rollout.previous),
        )  # fmt: skip
        by = next((e.actor for e in active.entries if e.actor), rollout_actor(rollout.attempt))
        why = active.entries[0].text.encode()[:_REASON_BYTES].decode(errors="ignore") if active.entries else ""
        try:
            record = await self._store.write(rollout.model, wanted, actor=by, reason=why)
        except Unavailable as error:
            active.saved = False
            if strict:
                raise
            self._log.error(
                "a rollout goes no further: it cannot be recorded", model=rollout.model, reason=error.message
            )
            return
        active.saved, active.number = True, record.number
        self.report(rollout, active.entries)
        active.entries.clear()
        active.ticks.clear()

    def report(self, rollout: Rollout, entries: Sequence[Entry]) -> None:
        """Tells of what was recorded."""
        for entry in entries:
            self._log.info(
                "rollout moved", model=rollout.model, candidate=str(rollout.candidate), attempt=rollout.attempt,
                kind=entry.kind, said=entry.text, actor=entry.actor,
            )  # fmt: skip
            self._notify(rollout.model, rollout, entry)
