"""Drives rollouts: looks, decides by `turnout.rollout.machine`, records, and only then puts in force.

a tick:     look -> advance (pure) -> state store -> traffic
a command:  the same, with an operator's word in place of the look

What is wished to be routed follows from the recorded state, so that a server that was killed between two of these goes
on where it stood. While the state store does not answer nothing goes forward, and a verdict takes effect in memory.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from semver import Version
from structlog.typing import FilteringBoundLogger

from turnout.errors import ChangeRefused, Conflict, NotFound, TurnoutError, Unavailable
from turnout.registry.compat import refusals
from turnout.registry.standing import Standing
from turnout.rollout import machine, overrides
from turnout.rollout.attempt import Entry, Moved, Rollout, RolloutState, moved
from turnout.rollout.changes.operations import Done, Operations, refuse_stale
from turnout.rollout.changes.situation import situation_answers
from turnout.rollout.clock import Clock
from turnout.rollout.driven import Driven, Observer, by_rollout, stranger
from turnout.rollout.enforcement import Enforcement
from turnout.rollout.log import RolloutLog
from turnout.rollout.plan import Plan
from turnout.rollout.records import UnreadableRollout, recorded
from turnout.rollout.roster import Roster
from turnout.routing.answers import Answers, standing_in
from turnout.routing.applied import Policies
from turnout.routing.policy import Policy
from turnout.serving.catalog import Catalog
from turnout.serving.lifecycle import LifecycleState
from turnout.state.rollouts import RolloutRecord
from turnout.state.store import StateStore


class Rollouts:
    """The rollouts of one server. Used on the event loop only.

    Attributes:
        observer: Looks at what is served and routed.
        log: What rollouts did.
        last_tick: When the last look at them was, by the monotonic clock.
    """

    def __init__(
        self,
        store: StateStore,
        policies: Policies,
        catalog: Catalog,
        observer: Observer,
        roster: Roster,
        enforcement: Enforcement,
        operations: Operations,
        wake: Callable[[], None],
        tick_seconds: float,
        log: FilteringBoundLogger,
        clock: Clock,
    ) -> None:
        """Prepares; nothing is driven before `run`.

        Args:
            store: Keeps the rollouts.
            policies: What is routed.
            catalog: What is served.
            observer: Looks at both.
            roster: Who drives which.
            enforcement: Records them, and puts in force what they wish.
            operations: Releases and rolls back.
            wake: Has versions loaded that the roster newly holds.
            tick_seconds: Between two looks.
            log: Where trouble is told.
            clock: Tells how long the last look at them is ago.
        """
        self._store = store
        self._policies = policies
        self._catalog = catalog
        self.observer = observer
        self._wake = wake
        self._tick_seconds = tick_seconds
        self._log = log
        self.log = RolloutLog(store, catalog)
        self._roster = roster
        self._enforcement = enforcement
        self._operations = operations
        self._lock = asyncio.Lock()
        self._ticked = asyncio.Condition()
        self._clock = clock
        self.last_tick = clock.monotonic()

    @property
    def seconds_since_tick(self) -> float:
        """How long the last look at them is ago."""
        return self._clock.monotonic() - self.last_tick

    @property
    def driven(self) -> Sequence[Driven]:
        """The rollouts that this server drives."""
        return list(self._roster.driven.values())

    @property
    def unreadable(self) -> Sequence[UnreadableRollout]:
        """The rollouts that have not ended and that this release cannot read."""
        return list(self._roster.unreadable.values())

    @property
    def running(self) -> Sequence[Rollout]:
        """The rollouts that have not ended, whoever drives them."""
        return self._roster.known

    async def run(self, *beside: Callable[[], None]) -> None:
        """Looks every tick, for as long as the server runs.

        Args:
            beside: Called every tick, before the rollouts are looked at.
        """
        while True:
            for call in beside:
                call()
            try:
                await self.tick()
            except TurnoutError as error:
                self._log.error("rollouts could not be looked at", reason=error.message)
            await asyncio.sleep(self._tick_seconds)

    async def tick(self) -> None:
        """Looks at every rollout once."""
        async with self._lock:
            try:
                await self._roster.take_in()
            except Unavailable as error:
                self._log.warning("rollouts go on from memory", reason=error.message)
            self._enforcement.undivert()
            for key, driven in sorted(self._roster.driven.items()):
                if not self._roster.goes(key):
                    continue
                try:
                    await self._look(driven)
                except TurnoutError as error:  # the others' verdicts must not wait for this one
                    self._log.error("a rollout could not be looked at", model=key[0], reason=error.message)
                except Exception as error:  # noqa: BLE001 - nor end with it: what is recorded may be damaged
                    self._log.error("a rollout could not be looked at", model=key[0], exc_info=error)
        self.last_tick = self._clock.monotonic()
        await self._announce()

    async def wait(self, seconds: float) -> None:
        """Returns after the next tick or command, or after `seconds`."""
        async with self._ticked:
            try:
                await asyncio.wait_for(self._ticked.wait(), seconds)
            except TimeoutError:
                return

    def refusals(self, model: str, candidate: Version) -> list[str]:
        """Returns why a candidate cannot be rolled out, in sentences, whatever else runs.

        Raises:
            ModelNotFound: There is no such model.
            NotFound: It has no such version.
        """
        known = self._catalog.snapshot.model(model)
        entry = known.versions.get(candidate)
        if entry is None:
            raise NotFound(f"{model} has no version {candidate}")
        previous = self.observer.baseline(model)
        if previous is None:
            return [f"{model} has no version that answers now, so there is nothing to compare with"]
        if previous == candidate:
            return [f"{candidate} is the baseline of {model} already"]
        if entry.standing is Standing.YANKED:
            return [f"{candidate} was yanked"]
        if reasons := refusals(known.versions[previous].manifest.signature, entry.manifest.signature):
            return [f"{candidate} does not fit the baseline's clients: {', '.join(reasons)}"]
        return []

    async def start(self, model: str, candidate: Version, plan: Plan, actor: str, reason: str) -> Rollout:
        """Begins a rollout.

        Raises:
            ModelNotFound, NotFound: There is no such model or version.
            ChangeRefused: `refusals` says why, another rollout runs, or one of its versions was yanked in this moment.
            Unavailable: The state store does not answer.
        """
        if why := self.refusals(model, candidate):
            raise ChangeRefused("; ".join(why))
        async with self._lock:
            previous = self.observer.baseline(model)
            assert previous is not None
            await self._roster.take_in(mine=model if plan.on_newer == "replace" else None)
            records = await self._store.in_thread(self._store.rollouts, model)
            for record in records:
                if not record.final:
                    await self._newer(record, plan, candidate)
            attempt = max((record.attempt for record in records), default=0) + 1
            rollout = Rollout.start(model, candidate, previous, attempt, plan, actor, reason)
            entry = self.observer.entry(model, candidate)
            released = entry is not None and entry.standing is Standing.RELEASED
            driven = self.observer.driven(replace(self._enforcement.routed(rollout), was_released=released), 0)
            self._roster.driven[model, attempt] = driven
            driven.entries.append(Entry("start", reason or f"{candidate} is rolled out over {previous}", actor))
            try:
                await self._enforcement.save(driven, strict=True)
            except TurnoutError:
                self._roster.drop((model, attempt))
                raise
            self._wake()
        await self._announce()
        return driven.rollout

    async def command(
        self,
        model: str,
        decide: Callable[[Rollout], Moved],
        expected_epoch: int | None,
        *,
        attempt: int = 0,
        resume: bool = False,
    ) -> Rollout:
        """Has an operator's word on the model's rollout.

        Args:
            model: Its model.
            decide: Makes the rollout's next state.
            expected_epoch: That the operator looked at; None for whatever it is.
            attempt: Which; 0 for the one that runs.
            resume: The traffic as it is now is taken for granted.

        Raises:
            NotFound: No such rollout of the model runs.
            Conflict: The rollout has moved since.
            ChangeRefused: It cannot be done now, or several run and none was named.
            Unavailable: The state store does not answer.
        """
        async with self._lock:
            await self._roster.take_in(mine=model)
            driven = self._roster.named(model, attempt)
            before = driven.rollout
            refuse_stale(before.candidate, before.epoch, str(before.state), expected_epoch)
            after, entries = decide(self._enforcement.routed(before) if resume else before)
            self._refuse_other_baseline(before, after)
            if _stopped_by_traffic(before) and not _stopped_by_traffic(after):
                after = self._enforcement.routed(after)  # whoever has it go on takes what stopped it for granted
            await self._enforcement.decide(driven, after, entries)
        await self._announce()
        return driven.rollout

    async def retry(self, model: str, actor: str, reason: str, expected_epoch: int | None = None) -> Rollout:
        """Begins another attempt with the candidate and the plan of the last one.

        Raises:
            Conflict: The last one has moved since the operator looked at it.
        """
        _, last = await self.log.latest(model)
        refuse_stale(last.candidate, last.epoch, str(last.state), expected_epoch)
        if not last.state.final:
            raise ChangeRefused(f"attempt {last.attempt} of {model} still runs ({last.state})")
        why = reason or f"again after attempt {last.attempt}"
        return await self.start(model, last.candidate, last.plan, actor, why)

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
        known = self._catalog.snapshot.model(model)

        def trouble(version: Version) -> str:
            entry = known.versions.get(version)
            ready = entry is not None and entry.state is LifecycleState.READY
            return "" if ready else f"it is not ready; `turnout load {model}@{version}` first"

        why = reason or "rolled back by hand"
        return await self._operate(
            lambda: self._operations.rollback(
                model, to, actor=actor, reason=why, keep_released=keep_released, expected_epoch=expected_epoch,
                trouble=trouble, signatures={v: entry.manifest.signature for v, entry in known.versions.items()},
            )
        )  # fmt: skip

    async def release(
        self, model: str, version: Version, actor: str, reason: str, *, traffic: bool = True, supersede: bool = False
    ) -> Done:
        """Declares a version fit for general traffic. Raises as `Operations.release`."""

        def trouble(exact: Version) -> str:
            entry = self.observer.entry(model, exact)
            failed = entry is not None and entry.state is LifecycleState.FAILED
            return f"it could not be loaded ({entry.reason or 'no reason is known'})" if entry and failed else ""

        return await self._operate(
            lambda: self._operations.release(
                model, version, actor=actor, reason=reason, traffic=traffic, supersede=supersede, trouble=trouble
            )
        )

    async def withdraw(self, model: str, version: Version, actor: str, reason: str) -> Done:
        """Takes a release back. Raises as `Operations.withdraw`."""
        return await self._operate(lambda: self._operations.withdraw(model, version, actor=actor, reason=reason))

    async def discard(self, model: str, attempt: int, actor: str, reason: str) -> Done:
        """Ends rollouts that cannot be read. Raises as `Operations.discard`."""
        known = self._catalog.snapshot.model(model).versions
        signatures = {version: entry.manifest.signature for version, entry in known.items()}
        return await self._operate(
            lambda: self._operations.discard(model, attempt, actor=actor, reason=reason, signatures=signatures)
        )

    def answers(self, model: str) -> Answers:
        """Returns who answers what of a model now, as far as this server knows.

        Raises:
            ModelNotFound: There is no such model.
        """
        known = self._catalog.snapshot.model(model)
        applied, policy = self.observer.applied(model)
        if (diverted := self._policies.diverted.get(model)) is not None:
            policy = Policy(diverted)
        statuses = {version: entry.standing for version, entry in known.versions.items()}
        running = [r for r in self._roster.known if r.model == model]
        found = situation_answers(policy, statuses, running)
        ready = {v: s for v, s in statuses.items() if known.versions[v].state is LifecycleState.READY}
        idle = (LifecycleState.NEW, LifecycleState.UNLOADED)
        states = {v: "not loaded" if e.state in idle else str(e.state) for v, e in known.versions.items()}
        found = replace(found, notes=standing_in(found, situation_answers(policy, ready, running), states))
        stand_in = applied.stand_in if applied is not None else None
        entry = self.observer.entry(model, policy.baseline) if policy is not None else None
        if stand_in is None or entry is None or entry.state is LifecycleState.READY:
            return found
        note = f"{stand_in} answers in place of {entry.version_text} until that is ready here ({entry.state})"
        return replace(found, notes=(note, *found.notes))

    async def _operate(self, operation: Callable[[], Done]) -> Done:
        """Has something changed in the state store while no tick runs here, and follows it."""
        async with self._lock:
            done = await self._store.in_thread(operation)
            await self._enforcement.follow(done)
        await self._announce()
        return done

    def _refuse_other_baseline(self, before: Rollout, after: Rollout) -> None:
        """Refuses to let a rollout go on where somebody has made another version the baseline meanwhile.

        To go on would undo that silently, and compare with a version that has no traffic.
        """
        applied, _ = self.observer.applied(before.model)
        was_stopped = _stopped_by_traffic(before) or stranger(before, applied)
        if not was_stopped or _stopped_by_traffic(after) or after.state.final or after.state is RolloutState.ABORTING:
            return
        baseline = self.observer.baseline(before.model)
        if baseline not in ((before.candidate, before.previous) if before.promoted else (before.previous,)):
            raise ChangeRefused(
                f"{baseline or 'nothing'} is the baseline of {before.model} by now, and this rollout compares with "
                f"{before.previous}: abort it and begin anew"
            )

    async def _newer(self, record: RolloutRecord, plan: Plan, candidate: Version) -> None:
        """Deals with a rollout that runs when another is asked for."""
        running = recorded(record)
        if plan.on_newer == "refuse" or (plan.on_newer == "beside" and running.candidate == candidate):
            raise ChangeRefused(
                f"{running.candidate} is being rolled out (attempt {record.attempt}, {running.state}): "
                "abort it first, or say on_newer = 'queue', 'replace' or 'beside'"
            )
        if (
            plan.on_newer == "replace"
            and (driven := self._roster.driven.get((record.model, record.attempt))) is not None
        ):
            why = f"{candidate} is rolled out in its place"
            after, entries = overrides.abort(driven.rollout, why, RolloutState.SUPERSEDED, kind="superseded")
            await self._enforcement.decide(driven, after, entries)

    async def _look(self, driven: Driven) -> None:
        rollout = driven.rollout
        if by_rollout(self.observer.applied(rollout.model)[0]):
            # What a rival brought is no stranger's, whoever freezes it afterwards.
            rollout = driven.rollout = self._enforcement.routed(rollout)
        baseline = self.observer.baseline(rollout.model)
        if rollout.state is RolloutState.PENDING and baseline is not None:
            rollout = self._enforcement.routed(rollout)
            if baseline != rollout.previous:
                rollout = moved(rollout, previous=baseline)
            driven.rollout = rollout
            if baseline == rollout.candidate:
                why = "it is the baseline already"
                driven.rollout, entries = overrides.abort(rollout, why, RolloutState.SUPERSEDED, kind="superseded")
                driven.entries += entries
        facts, counted = self.observer.facts(driven, self._roster.rivals(rollout.model))
        driven.note(counted, facts.shadow)
        driven.rollout, entries = machine.advance(driven.rollout, facts)
        driven.entries += entries
        try:
            await self._enforcement.save(driven, strict=False)
        except Conflict:
            self._roster.drop((rollout.model, rollout.attempt))
            self._enforcement.undivert()
            return
        await self._enforcement.apply(driven)

    async def _announce(self) -> None:
        async with self._ticked:
            self._ticked.notify_all()


def _stopped_by_traffic(rollout: Rollout) -> bool:
    """Tells whether somebody else's change of the traffic has it stand still."""
    return any(pause.kind == "traffic" for pause in rollout.pauses)
