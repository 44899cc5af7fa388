"""Records rollouts and reports their events. Nothing is reported before it is recorded."""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from structlog.typing import FilteringBoundLogger

from turnout.errors import Conflict, UnavailableError
from turnout.rollout.engine.active_rollout import ActiveRollout
from turnout.rollout.engine.store_timeouts import StillRunning, StoreTimeout
from turnout.rollout.machine.actors import rollout_actor
from turnout.rollout.machine.attempt import Rollout, RolloutHistoryEntry
from turnout.state.rollouts import Note, RolloutWrite
from turnout.state.store import StateStore
from turnout.threads import Threads

_REASON_BYTES = 1000

Notify = Callable[[str, Rollout, RolloutHistoryEntry], None]
"""Called with the model's name for each event of a rollout. It must be quick and never raise."""


@dataclass(frozen=True, slots=True)
class EventReporter:
    """The receivers of events."""

    notify: Notify
    log: FilteringBoundLogger


@dataclass(eq=False, repr=False)
class RolloutWriter:
    """Records the present state of rollouts. Used only on the event loop.

    The driver owns the leases, during which no other server may write. Documents are serialized in threads, so that
    requests continue.
    """

    _store: StateStore
    _driver: str
    _lease_seconds: float
    _store_timeout: StoreTimeout
    _threads: Threads
    _reports: EventReporter
    _away: bool = field(init=False, default=False)

    async def save(self, active: ActiveRollout, seconds: float, *, strict: bool = False) -> None:
        """Records the present state of a rollout. If the store does not respond in `seconds`, a later call records it.

        Raises:
            Conflict: Another server wrote it in the meantime, as this write found or an earlier one that came late.
            StillRunning: It is strict, and may still be recorded.
            UnavailableError: It is strict, and the state store does not respond.
        """
        if active.overtaken:
            raise Conflict(f"attempt {active.rollout.attempt} of {active.rollout.model} was written by another server")
        if strict:  # a tick's write may go on, and what follows it has to name it
            seconds = await self._store_timeout.rest(seconds)
        rollout = active.rollout
        wanted = await self._wanted(active)
        by = next((e.actor for e in active.entries if e.actor), rollout_actor(rollout.attempt))
        why = active.entries[0].text.encode()[:_REASON_BYTES].decode(errors="ignore") if active.entries else ""
        entries, ticks = active.entries, active.ticks
        reported, counted = len(entries), len(ticks)

        async def write() -> None:
            put = self._store.put_rollout
            try:
                record = await self._store.in_thread(put, rollout.model, wanted, actor=by, reason=why)
            except Conflict:
                active.overtaken = True
                raise
            active.recorded(rollout, record.number)
            self.report(rollout, entries[:reported])
            del entries[:reported], ticks[:counted]

        await self._wait(write(), seconds, [active], strict=strict)

    async def save_counts(self, several: Sequence[ActiveRollout], seconds: float) -> Sequence[ActiveRollout]:
        """Records several rollouts for which nothing changed except counts, in one transaction.

        If the state store does not respond in `seconds`, a later call records them.

        Returns:
            The rollouts that another server wrote in the meantime.
        """
        lost = [active for active in several if active.overtaken]
        several = [active for active in several if not active.overtaken]
        if not several:
            return lost
        before = [(active.rollout, active.ticks) for active in several]
        writes = [(active.rollout.model, await self._wanted(active)) for active in several]

        async def write() -> None:
            records = await self._store.in_thread(self._store.put_counts, writes)
            for active, (rollout, ticks), (_, wanted), record in zip(several, before, writes, records, strict=True):
                if record is None:
                    active.overtaken = True
                    lost.append(active)
                    continue
                active.recorded(rollout, record.number)
                del ticks[: len(wanted.ticks)]

        await self._wait(write(), seconds, several)
        return lost

    async def _wait(
        self, work: Coroutine[Any, Any, None], seconds: float, several: Sequence[ActiveRollout], *, strict: bool = False
    ) -> None:
        """Waits at most `seconds` for the record of some rollouts. If it is `strict`, raises if there is none."""
        try:
            await self._store_timeout.wait(work, seconds)
        except UnavailableError as error:
            for active in several:
                active.saved, active.late = False, True
            if strict:
                raise
            if not self._away or isinstance(error, StillRunning):
                self._reports.log.error(
                    "rollouts do not progress: they cannot be recorded",
                    model=several[0].rollout.model, reason=error.message,
                )  # fmt: skip
            self._away = True
        else:
            self._away = False

    async def _wanted(self, active: ActiveRollout) -> RolloutWrite:
        rollout = active.rollout
        document = await self._threads.run(rollout.to_json)
        return RolloutWrite(
            rollout.attempt, active.number, str(rollout.state), rollout.state.final, document,
            self._driver, self._lease_seconds, [Note(e.kind, e.text, e.actor) for e in active.entries],
            list(active.ticks), needs=() if active.number else (rollout.candidate, rollout.previous),
            counted=dict(active.delivered),
        )  # fmt: skip

    def report(self, rollout: Rollout, entries: Sequence[RolloutHistoryEntry]) -> None:
        """Reports recorded events."""
        for entry in entries:
            self._reports.log.info(
                "rollout moved", model=rollout.model, candidate=str(rollout.candidate), attempt=rollout.attempt,
                kind=entry.kind, text=entry.text, actor=entry.actor,
            )  # fmt: skip
            self._reports.notify(rollout.model, rollout, entry)
