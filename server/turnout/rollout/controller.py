"""Drives rollouts: looks, decides by `turnout.rollout.machine`, records, and only then puts in force.

a tick:     look -> advance (pure) -> state store -> traffic
a command:  the same, with an operator's word in place of the look

What is wished to be routed follows from the recorded state, so that a server that was killed between two of these goes
on where it stood. While the state store does not answer nothing goes forward, and a verdict takes effect in memory.
"""

import asyncio
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

from semver import Version
from structlog.typing import FilteringBoundLogger

from turnout.errors import ChangeRefused, Conflict, NotFound, TurnoutError, Unavailable
from turnout.registry.compat import refusals
from turnout.registry.standing import Standing
from turnout.rollout import machine, overrides
from turnout.rollout.attempt import Entry, Moved, Rollout, RolloutState, moved
from turnout.rollout.clock import Clock
from turnout.rollout.driven import Driven, Observer, by_rollout, stranger
from turnout.rollout.enforcement import Enforcement
from turnout.rollout.log import RolloutLog, recorded
from turnout.rollout.plan import Plan
from turnout.rollout.roster import Roster
from turnout.routing.applied import AppliedPolicy, Policies
from turnout.routing.policy import Policy
from turnout.routing.traffic import Change, Traffic
from turnout.serving.catalog import Catalog
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
        traffic: Traffic,
        policies: Policies,
        catalog: Catalog,
        observer: Observer,
        roster: Roster,
        enforcement: Enforcement,
        wake: Callable[[], None],
        tick_seconds: float,
        log: FilteringBoundLogger,
        clock: Clock,
    ) -> None:
        """Prepares; nothing is driven before `run`.

        Args:
            store: Keeps the rollouts.
            traffic: Changes what is routed.
            policies: What is routed.
            catalog: What is served.
            observer: Looks at both.
            roster: Who drives which.
            enforcement: Records them, and puts in force what they wish.
            wake: Has versions loaded that the roster newly holds.
            tick_seconds: Between two looks.
            log: Where trouble is told.
            clock: Tells how long the last look at them is ago.
        """
        self._store = store
        self._traffic = traffic
        self._policies = policies
        self._catalog = catalog
        self.observer = observer
        self._wake = wake
        self._tick_seconds = tick_seconds
        self._log = log
        self.log = RolloutLog(store, catalog)
        self._roster = roster
        self._enforcement = enforcement
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
            for key, driven in sorted(self._roster.driven.items()):
                if not self._roster.goes(key):
                    continue
                try:
                    await self._look(driven)
                except TurnoutError as error:  # the others' verdicts must not wait for this one
                    self._log.error("a rollout could not be looked at", model=key[0], reason=error.message)
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
            _refuse_stale(before, expected_epoch)
            after, entries = decide(self._enforcement.routed(before) if resume else before)
            self._refuse_other_baseline(before, after)
            await self._enforcement.decide(driven, after, entries)
        await self._announce()
        return driven.rollout

    async def retry(self, model: str, actor: str, reason: str, expected_epoch: int | None = None) -> Rollout:
        """Begins another attempt with the candidate and the plan of the last one.

        Raises:
            Conflict: The last one has moved since the operator looked at it.
        """
        _, last = await self.log.latest(model)
        _refuse_stale(last, expected_epoch)
        if not last.state.final:
            raise ChangeRefused(f"attempt {last.attempt} of {model} still runs ({last.state})")
        why = reason or f"again after attempt {last.attempt}"
        return await self.start(model, last.candidate, last.plan, actor, why)

    async def rollback(
        self, model: str, to: Version | None, actor: str, reason: str, expected_epoch: int | None = None
    ) -> AppliedPolicy:
        """Gives all of a model's traffic to a version that had it before, and ends its rollouts.

        Args:
            model: Its model.
            to: The version; None for the one that a rollout goes back to, or the last baseline before this.
            actor: Who asks.
            reason: Why.
            expected_epoch: That the operator looked at: of the one rollout that runs, or else of the traffic.

        Raises:
            ModelNotFound: There is no such model.
            ChangeRefused: There is none, or it is not ready.
            Conflict: It has moved since the operator looked at it.
        """
        self._catalog.snapshot.model(model)
        why = reason or "rolled back by hand"
        running = [rollout for rollout in self._roster.known if rollout.model == model]
        if goals := {str(r.previous) for r in running if to not in (None, r.previous)}:
            raise ChangeRefused(f"a rollout of {model} runs, and goes back to {goals.pop()}: abort it first")
        if running:
            for rollout in running:
                _refuse_stale(rollout, expected_epoch)
            for rollout in running:
                end = functools.partial(overrides.abort, why=why, kind="rollback", actor=actor)
                await self.command(model, end, None, attempt=rollout.attempt)
            if model in self._policies.current:
                return self._policies.current[model]
            to = running[0].previous  # none of them had begun, and nothing was ever put in force
        if to is None:
            present = self.observer.baseline(model)
            states = [state for _, state in await self._traffic.history(model, 1000)]
            earlier = (s.policy.baseline for s in states if s.policy is not None and s.policy.baseline != present)
            to = next(earlier, None)
        if to is None:
            raise ChangeRefused(f"no other version was the baseline of {model} before: say which with --to")
        return await self._traffic.put(model, Policy(to), Change(actor, why, expected_epoch))

    def _refuse_other_baseline(self, before: Rollout, after: Rollout) -> None:
        """Refuses to let a rollout go on where somebody has made another version the baseline meanwhile.

        To go on would undo that silently, and compare with a version that has no traffic.
        """
        applied, _ = self.observer.applied(before.model)
        was_stopped = any(p.kind == "traffic" for p in before.pauses) or stranger(before, applied)
        is_stopped = any(p.kind == "traffic" for p in after.pauses)
        if not was_stopped or is_stopped or after.state.final or after.state is RolloutState.ABORTING:
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
            return
        await self._enforcement.apply(driven)

    async def _announce(self) -> None:
        async with self._ticked:
            self._ticked.notify_all()


def _refuse_stale(rollout: Rollout, expected_epoch: int | None) -> None:
    """Refuses what was decided on by another epoch of the rollout than the one it is at."""
    if expected_epoch not in (None, rollout.epoch):
        is_at = f"the rollout of {rollout.candidate} is at epoch {rollout.epoch} by now ({rollout.state})"
        raise Conflict(f"{is_at}, not {expected_epoch}; look again")
