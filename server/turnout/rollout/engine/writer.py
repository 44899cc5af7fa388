"""Records rollouts, and reports what was recorded: nobody is told of what is not on record."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from turnout.errors import Unavailable
from turnout.rollout.actors import rollout_actor
from turnout.rollout.attempt import Entry, Rollout
from turnout.rollout.engine.active import ActiveRollout
from turnout.rollout.engine.patience import Patience, StillRunning
from turnout.rollout.engine.ports import RolloutStore
from turnout.state.rollouts import Note, RolloutWrite
from turnout.threads import Threads

_REASON_BYTES = 1000

Notify = Callable[[str, Rollout, Entry], None]
"""Told of everything that happens to a rollout, with the model's name; quick, and raises nothing."""


@dataclass(frozen=True, slots=True)
class Reports:
    """Where it is reported what happens.

    Attributes:
        notify: Told of everything that happens to a rollout.
        log: Where that is logged too, and trouble.
    """

    notify: Notify
    log: FilteringBoundLogger


class RolloutWriter:
    """Records rollouts as they stand. Used on the event loop only."""

    def __init__(
        self,
        store: RolloutStore,
        driver: str,
        lease_seconds: float,
        patience: Patience,
        threads: Threads,
        reports: Reports,
    ) -> None:
        """Takes where it writes.

        Args:
            store: Keeps the rollouts.
            driver: Who writes: the lease's owner.
            lease_seconds: For which nobody else may.
            patience: Bounds the wait for the store.
            threads: Where documents are made, so that requests go on meanwhile.
            reports: Told of what was recorded.
        """
        self._store = store
        self._driver = driver
        self._lease_seconds = lease_seconds
        self._patience = patience
        self._threads = threads
        self._reports = reports
        self._away = False

    async def save(self, active: ActiveRollout, seconds: float, *, strict: bool = False) -> None:
        """Records a rollout as it stands. If the state store does not answer, a later call does, unless it is strict.

        Args:
            active: The rollout.
            seconds: To wait for the store, at most.
            strict: It has to be recorded.

        Raises:
            Conflict: Another server wrote it meanwhile.
            StillRunning: It is strict, and may still be recorded.
            Unavailable: The state store does not answer, and it is strict.
        """
        rollout = active.rollout
        document = await self._threads.run(rollout.to_json)
        notes = [Note(e.kind, e.text, e.actor) for e in active.entries]
        wanted = RolloutWrite(
            rollout.attempt, active.number, str(rollout.state), rollout.state.final, document,
            self._driver, self._lease_seconds, notes, list(active.ticks),
            needs=() if active.number else (rollout.candidate, rollout.previous),
            counted=dict(active.delivered),
        )  # fmt: skip
        by = next((e.actor for e in active.entries if e.actor), rollout_actor(rollout.attempt))
        why = active.entries[0].text.encode()[:_REASON_BYTES].decode(errors="ignore") if active.entries else ""
        entries, ticks = active.entries, active.ticks
        told, counted = len(entries), len(ticks)

        async def write() -> None:
            record = await self._store.write(rollout.model, wanted, actor=by, reason=why)
            # It may come later than anybody waited for, when the rollout has moved on.
            active.saved, active.number = active.rollout is rollout, record.number
            self.report(rollout, entries[:told])
            del entries[:told], ticks[:counted]
            if active.saved:
                active.delivered.clear()

        try:
            await self._patience.wait(write(), seconds)
        except Unavailable as error:
            active.saved = False
            if strict:
                raise
            if not self._away or isinstance(error, StillRunning):
                self._reports.log.error(
                    "rollouts go no further: they cannot be recorded", model=rollout.model, reason=error.message
                )
            self._away = True
        else:
            self._away = False

    def report(self, rollout: Rollout, entries: Sequence[Entry]) -> None:
        """Tells of what was recorded."""
        for entry in entries:
            self._reports.log.info(
                "rollout moved", model=rollout.model, candidate=str(rollout.candidate), attempt=rollout.attempt,
                kind=entry.kind, said=entry.text, actor=entry.actor,
            )  # fmt: skip
            self._reports.notify(rollout.model, rollout, entry)
