"""Records a rollout as it stands, and then puts in force what it wishes. What is not recorded goes nowhere.

A verdict alone takes effect in memory while the state store does not answer.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from structlog.typing import FilteringBoundLogger

from turnout.errors import Conflict, TurnoutError, Unavailable
from turnout.registry.standing import Standing
from turnout.rollout.actors import rollout_actor
from turnout.rollout.attempt import Entry, Rollout, RolloutState
from turnout.rollout.changes.operations import Done
from turnout.rollout.driven import Driven, Observer, routed_text, stranger
from turnout.rollout.roster import Roster
from turnout.rollout.wishes import wished
from turnout.routing.applied import AppliedPolicy, Policies
from turnout.routing.policy import Policy
from turnout.routing.traffic import Change, Traffic
from turnout.serving.lifecycle import LifecycleState
from turnout.state.rollouts import Note, RolloutWrite
from turnout.state.store import StateStore

_LEASE_TICKS = 4

_REASON_BYTES = 1000

Tell = Callable[[str, Rollout, Entry], None]
"""Told of everything that happens to a rollout, with the model's name; quick, and raises nothing."""


class Enforcement:
    """What rollouts do to the state store and to the traffic. Used on the event loop only."""

    def __init__(
        self,
        store: StateStore,
        traffic: Traffic,
        policies: Policies,
        observer: Observer,
        roster: Roster,
        refresh: Callable[[], Awaitable[None]],
        tick_seconds: float,
        tell: Tell,
        log: FilteringBoundLogger,
    ) -> None:
        """Takes what it works on.

        Args:
            store: Keeps the rollouts.
            traffic: Changes what is routed.
            policies: What is routed.
            observer: Looks at what is served and routed.
            roster: The rollouts that run.
            refresh: Has what was declared come to be known.
            tick_seconds: Between two looks; a lease lasts for four.
            tell: Told of everything that happens.
            log: Where it is told too.
        """
        self._store = store
        self._traffic = traffic
        self._policies = policies
        self._observer = observer
        self._roster = roster
        self._refresh = refresh
        self._lease_seconds = _LEASE_TICKS * tick_seconds
        self._tell = tell
        self._log = log

    async def decide(self, driven: Driven, after: Rollout, entries: Sequence[Entry]) -> None:
        """Records what somebody decided on a rollout, and puts it in force; where it cannot be recorded, it is void."""
        before, saved, told = driven.rollout, driven.saved, list(driven.entries)
        driven.rollout = after
        driven.entries += entries
        try:
            await self.save(driven, strict=True)
        except TurnoutError:
            driven.rollout, driven.saved, driven.entries = before, saved, told
            raise
        driven.refused = ""
        await self.apply(driven)

    async def save(self, driven: Driven, *, strict: bool) -> None:
        """Records a rollout as it stands. Where the state store does not answer it waits, unless strict."""
        rollout = driven.rollout
        notes = [Note(e.kind, e.text, e.actor) for e in driven.entries]
        wanted = RolloutWrite(
            rollout.attempt, driven.number, str(rollout.state), rollout.state.final, rollout.to_json(),
            self._roster.driver, self._lease_seconds, notes, list(driven.ticks),
            needs=() if driven.number else (rollout.candidate, rollout.previous),
        )  # fmt: skip
        by = next((e.actor for e in driven.entries if e.actor), rollout_actor(rollout.attempt))
        why = driven.entries[0].text.encode()[:_REASON_BYTES].decode(errors="ignore") if driven.entries else ""
        try:
            record = await self._store.in_thread(self._store.put_rollout, rollout.model, wanted, actor=by, reason=why)
        except Unavailable as error:
            driven.saved = False
            if strict:
                raise
            self._log.error(
                "a rollout goes no further: it cannot be recorded", model=rollout.model, reason=error.message
            )
            return
        driven.saved, driven.number = True, record.number
        for entry in driven.entries:
            self._told(rollout, entry)
        driven.entries.clear()
        driven.ticks.clear()

    def _told(self, rollout: Rollout, entry: Entry) -> None:
        self._log.info(
            "rollout moved", model=rollout.model, candidate=str(rollout.candidate), attempt=rollout.attempt,
            kind=entry.kind, said=entry.text, actor=entry.actor,
        )  # fmt: skip
        self._tell(rollout.model, rollout, entry)

    async def apply(self, driven: Driven) -> None:
        """Puts in force what the recorded state wishes."""
        rollout = driven.rollout
        aborting = rollout.state is RolloutState.ABORTING
        applied, policy = self._observer.applied(rollout.model)
        wish = wished(rollout, policy)
        if not driven.saved:
            if aborting:
                self._divert(rollout, wish)  # the verdict holds, recorded or not
            return
        if rollout.state.final:
            self._roster.drop((rollout.model, rollout.attempt))
            self._undivert(rollout.model)
            return
        if not aborting and stranger(rollout, applied):
            # Somebody changed it since this tick looked: the next one says so, and until then nothing of it is undone.
            self._undivert(rollout.model)
            return
        frozen = applied is not None and applied.state.frozen
        if not aborting and wish == policy and driven.counters.starved and not frozen:
            await self._redraw_twin(driven)
        if not aborting and (rollout.pauses or frozen or wish is None or wish == policy or not self._ready(rollout)):
            self._undivert(rollout.model)
            return
        try:
            if wish is not None and wish != policy:
                await self._put(driven, wish, applied)
            elif aborting and rollout.released:
                await self._withdraw(rollout)
        except (Conflict, Unavailable, OSError) as error:
            self._log.warning("a rollout tries again", model=rollout.model, reason=str(error))
            if aborting:
                self._divert(rollout, wish)
            return
        except TurnoutError as error:
            self._log.warning("a rollout's traffic was refused", model=rollout.model, reason=error.message)
            driven.refused = error.message
            if aborting:
                self._divert(rollout, wish)
            return
        driven.refused = ""
        if not aborting:
            self._undivert(rollout.model)

    def _divert(self, rollout: Rollout, wish: Policy | None) -> None:
        """Has what a rollback wishes for hold in memory, where it cannot be recorded now."""
        self._policies.divert(rollout.model, rollout.previous if wish is None else wish.baseline)

    def _undivert(self, model: str) -> None:
        """Has the policy hold again, unless a rollback of the model is still to be recorded."""
        running = (d.rollout for (name, _), d in self._roster.driven.items() if name == model)
        if not any(rollout.state is RolloutState.ABORTING for rollout in running):
            self._policies.undivert(model)

    async def _put(self, driven: Driven, wish: Policy, applied: AppliedPolicy | None) -> None:
        rollout = driven.rollout
        change = Change(rollout_actor(rollout.attempt), _reason(rollout), applied.epoch if applied is not None else 0)
        statuses = {}
        if rollout.released:
            aborting = rollout.state is RolloutState.ABORTING
            statuses[rollout.candidate] = Standing.CANDIDATE if aborting else Standing.RELEASED
        written = (rollout.attempt, driven.number)
        await self._traffic.put(rollout.model, wish, change, statuses=statuses, rollout=written)
        if statuses:
            await self._refresh()
        driven.rollout = self.routed(rollout)

    async def _redraw_twin(self, driven: Driven) -> None:
        """Gives the arm that the canary is compared with other keys, where it has hardly any requests with one."""
        rollout = driven.rollout
        change = Change(rollout_actor(rollout.attempt), f"{_reason(rollout)}: the twin's keys carry too little traffic")
        driven.counters.redrawn()
        try:
            await self._traffic.redraw_twin(rollout.model, change)
        except TurnoutError as error:
            self._log.warning("a twin was not drawn anew", model=rollout.model, reason=error.message)
            return
        driven.rollout = self.routed(rollout)

    async def _withdraw(self, rollout: Rollout) -> None:
        model, candidate = rollout.model, rollout.candidate
        await self._store.in_thread(
            self._store.withdraw, model, candidate, actor=rollout_actor(rollout.attempt), reason=_reason(rollout)
        )
        await self._refresh()

    async def follow(self, done: Done) -> None:
        """Puts in force what was recorded about releases, policies and rollouts, and tells of what ended by it."""
        await self._traffic.refresh()
        await self._refresh()
        await self._roster.take_in()
        self.undivert()
        for rollout, entries in done.endings:
            for entry in entries:
                self._told(rollout, entry)

    def undivert(self) -> None:
        """Has policies hold again where a rollback that was to be recorded has ended otherwise."""
        for model in list(self._policies.diverted):
            self._undivert(model)

    def _ready(self, rollout: Rollout) -> bool:
        entries = (self._observer.entry(rollout.model, version) for version in (rollout.candidate, rollout.previous))
        return all(entry is not None and entry.state is LifecycleState.READY for entry in entries)

    def routed(self, rollout: Rollout) -> Rollout:
        """Returns the rollout that takes the traffic of now for granted."""
        applied, policy = self._observer.applied(rollout.model)
        epoch = applied.epoch if applied is not None else 0
        return replace(rollout, policy_epoch=epoch, routed=routed_text(policy))


def _reason(rollout: Rollout) -> str:
    return f"rollout of {rollout.candidate}, attempt {rollout.attempt}: {rollout.state}"
