"""Drives rollouts: looks, decides by `turnout.rollout.machine`, records, and only then puts in force.

a tick:     look -> advance (pure) -> state store -> traffic
a command:  the same, with an operator's word in place of the look

What is wished to be routed follows from the recorded state, so that a server that was killed between two of these goes
on where it stood. While the state store does not answer nothing goes forward, and a verdict takes effect in memory.
"""

import asyncio
import functools
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from semver import Version
from structlog.typing import FilteringBoundLogger

from turnout.errors import ChangeRefused, Conflict, NotFound, TurnoutError, Unavailable
from turnout.registry.compat import refusals
from turnout.registry.standing import Standing
from turnout.rollout import machine, overrides
from turnout.rollout.attempt import Entry, Moved, Rollout, RolloutState, moved
from turnout.rollout.driven import Driven, Observer, actor_of, by_rollout, routed_text, stranger
from turnout.rollout.log import RolloutLog, recorded
from turnout.rollout.plan import Plan
from turnout.rollout.wishes import wished
from turnout.routing.applied import AppliedPolicy, Policies
from turnout.routing.policy import Policy
from turnout.routing.traffic import Change, Traffic
from turnout.serving.catalog import Catalog
from turnout.serving.lifecycle import LifecycleState
from turnout.state.rollouts import Note, RolloutRecord, RolloutWrite
from turnout.state.store import StateStore

_LEASE_TICKS = 4

_MOST_RUNNING = 10_000

_REASON_BYTES = 1000

Tell = Callable[[str, Rollout, Entry], None]
"""Told of everything that happens to a rollout, with the model's name; quick, and raises nothing."""

Key = tuple[str, int]
"""Model and attempt."""


class Rollouts:
    """The rollouts of one server. Used on the event loop only.

    Attributes:
        observer: Looks at what is served and routed.
        log: What rollouts did.
        last_tick: `time.monotonic()` of the last look at them.
    """

    def __init__(
        self,
        store: StateStore,
        traffic: Traffic,
        policies: Policies,
        catalog: Catalog,
        observer: Observer,
        wake: Callable[[], None],
        refresh: Callable[[], Awaitable[None]],
        tick_seconds: float,
        tell: Tell,
        log: FilteringBoundLogger,
    ) -> None:
        """Prepares; nothing is driven before `run`.

        Args:
            store: Keeps the rollouts.
            traffic: Changes what is routed.
            policies: What is routed.
            catalog: What is served.
            observer: Looks at both.
            wake: Has versions loaded that `held` newly names.
            refresh: Has what was declared come to be known.
            tick_seconds: Between two looks.
            tell: Told of everything that happens.
            log: Where it is told too.
        """
        self._store = store
        self._traffic = traffic
        self._policies = policies
        self._catalog = catalog
        self.observer = observer
        self._wake = wake
        self._refresh = refresh
        self._tick_seconds = tick_seconds
        self._tell = tell
        self._log = log
        self.log = RolloutLog(store, catalog)
        self._driver = uuid.uuid4().hex
        self._driven: dict[Key, Driven] = {}
        self._foreign: dict[Key, Rollout] = {}
        self._seen: dict[Key, tuple[int, float]] = {}
        self._lock = asyncio.Lock()
        self._ticked = asyncio.Condition()
        self.last_tick = time.monotonic()

    def held(self, model: str) -> Mapping[Version, str]:
        """Returns the versions that rollouts need in memory, and as what."""
        found: dict[Version, str] = {}
        for rollout in (*(d.rollout for d in self._driven.values()), *self._foreign.values()):
            if rollout.model == model and not rollout.state.final:
                found[rollout.previous] = "what a rollout would go back to"
                found[rollout.candidate] = "what is rolled out"
        return found

    @property
    def driven(self) -> Sequence[Driven]:
        """The rollouts that this server drives."""
        return list(self._driven.values())

    @property
    def running(self) -> Sequence[Rollout]:
        """The rollouts that have not ended, whoever drives them."""
        known = (*(d.rollout for d in self._driven.values()), *self._foreign.values())
        return sorted((r for r in known if not r.state.final), key=lambda r: (r.model, r.attempt))

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
                await self._take_in()
            except Unavailable as error:
                self._log.warning("rollouts go on from memory", reason=error.message)
            for key, driven in sorted(self._driven.items()):
                if not self._goes(key):
                    continue
                try:
                    await self._look(driven)
                except TurnoutError as error:  # the others' verdicts must not wait for this one
                    self._log.error("a rollout could not be looked at", model=key[0], reason=error.message)
        self.last_tick = time.monotonic()
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
            await self._take_in(mine=model if plan.on_newer == "replace" else None)
            records = await asyncio.to_thread(self._store.rollouts, model)
            for record in records:
                if not record.final:
                    await self._newer(record, plan, candidate)
            attempt = max((record.attempt for record in records), default=0) + 1
            rollout = Rollout.start(model, candidate, previous, attempt, plan, actor, reason)
            entry = self.observer.entry(model, candidate)
            released = entry is not None and entry.standing is Standing.RELEASED
            driven = self.observer.driven(replace(self._routed(rollout), was_released=released), 0)
            self._driven[model, attempt] = driven
            driven.entries.append(Entry("start", reason or f"{candidate} is rolled out over {previous}", actor))
            try:
                await self._save(driven, strict=True)
            except TurnoutError:
                del self._driven[model, attempt]
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
            await self._take_in(mine=model)
            driven = self._named(model, attempt)
            before = driven.rollout
            _refuse_stale(before, expected_epoch)
            after, entries = decide(self._routed(before) if resume else before)
            self._refuse_other_baseline(before, after)
            await self._decided(driven, after, entries)
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
        known = (*(d.rollout for d in self._driven.values()), *self._foreign.values())
        running = [rollout for rollout in known if rollout.model == model and not rollout.state.final]
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

    async def _decided(self, driven: Driven, after: Rollout, entries: Sequence[Entry]) -> None:
        """Records what somebody decided on a rollout, and puts it in force; where it cannot be recorded, it is void."""
        before, saved, told = driven.rollout, driven.saved, list(driven.entries)
        driven.rollout = after
        driven.entries += entries
        try:
            await self._save(driven, strict=True)
        except TurnoutError:
            driven.rollout, driven.saved, driven.entries = before, saved, told
            raise
        driven.refused = ""
        await self._apply(driven)

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

    def _named(self, model: str, attempt: int) -> Driven:
        keys = [key for key in sorted(self._driven) if key[0] == model and attempt in (0, key[1])]
        going = [key for key in keys if self._goes(key)] if not attempt else keys
        if not going:
            raise NotFound(f"no rollout {f'{attempt} ' if attempt else ''}of {model} runs")
        if len(going) > 1:
            several = ", ".join(f"{number} ({self._driven[model, number].rollout.candidate})" for _, number in going)
            raise ChangeRefused(f"several rollouts of {model} run: say which attempt, {several}")
        return self._driven[going[0]]

    def _goes(self, key: Key) -> bool:
        """Tells whether a rollout may go on: one that is queued waits for those that came before it."""
        driven = self._driven.get(key)
        rollout = driven.rollout if driven is not None else self._foreign.get(key)
        if rollout is not None and rollout.plan.on_newer == "beside":
            return True
        others = (*self._driven, *self._foreign)
        return not any(model == key[0] and attempt < key[1] for model, attempt in others)

    def _rivals(self, model: str) -> int:
        return sum(key[0] == model and self._goes(key) for key in (*self._driven, *self._foreign))

    async def _newer(self, record: RolloutRecord, plan: Plan, candidate: Version) -> None:
        """Deals with a rollout that runs when another is asked for."""
        running = recorded(record)
        if plan.on_newer == "refuse" or (plan.on_newer == "beside" and running.candidate == candidate):
            raise ChangeRefused(
                f"{running.candidate} is being rolled out (attempt {record.attempt}, {running.state}): "
                "abort it first, or say on_newer = 'queue', 'replace' or 'beside'"
            )
        if plan.on_newer == "replace" and (driven := self._driven.get((record.model, record.attempt))) is not None:
            why = f"{candidate} is rolled out in its place"
            after, entries = overrides.abort(driven.rollout, why, RolloutState.SUPERSEDED, kind="superseded")
            await self._decided(driven, after, entries)

    def _routed(self, rollout: Rollout) -> Rollout:
        """Returns the rollout that takes the traffic of now for granted."""
        applied, policy = self.observer.applied(rollout.model)
        epoch = applied.epoch if applied is not None else 0
        return replace(rollout, policy_epoch=epoch, routed=routed_text(policy))

    async def _take_in(self, *, mine: str | None = None) -> None:
        """Notes what the state store holds; takes up what nobody drives.

        Args:
            mine: Take up this model's whoever drives them; who did finds out at its next write.

        Raises:
            Unavailable: The state store does not answer.
        """
        records = await asyncio.to_thread(self._store.rollouts, None, running=True, limit=_MOST_RUNNING)
        self._foreign = {}
        present = {(record.model, record.attempt) for record in records}
        self._seen = {key: seen for key, seen in self._seen.items() if key in present}
        for key in [k for k in self._driven if k not in present and self._driven[k].saved]:
            self._driven.pop(key).counters.detach()
        for record in records:
            key = (record.model, record.attempt)
            lapsed = self._lapsed(key, record)
            driven = self._driven.get(key)
            if driven is not None and (driven.number == record.number or not driven.saved):
                continue
            try:
                rollout = Rollout.from_json(record.document)
            except ValueError as error:
                self._log.error("a rollout cannot be read", model=record.model, reason=str(error))
                continue
            if driven is not None:
                driven.counters.detach()
                del self._driven[key]
            if record.driver == self._driver or mine == record.model or lapsed:
                self._driven[key] = self.observer.driven(rollout, record.number)
                self._log.info("rollout taken up", model=record.model, attempt=record.attempt, state=record.state)
            else:
                self._foreign[key] = rollout
        self._wake()

    def _lapsed(self, key: Key, record: RolloutRecord) -> bool:
        """Tells whether nobody drives a rollout any more.

        Its lease is over by the clock on the wall; or, since such clocks jump and differ, nothing was written for as
        long as a lease lasts by this server's own.
        """
        now = time.monotonic()
        number, since = self._seen.get(key, (0, now))
        if number != record.number:
            since = now
        self._seen[key] = (record.number, since)
        lease = (record.driven_until - record.changed).total_seconds()
        return time.time() >= record.driven_until.timestamp() or now - since >= lease

    async def _look(self, driven: Driven) -> None:
        rollout = driven.rollout
        if by_rollout(self.observer.applied(rollout.model)[0]):
            # What a rival brought is no stranger's, whoever freezes it afterwards.
            rollout = driven.rollout = self._routed(rollout)
        baseline = self.observer.baseline(rollout.model)
        if rollout.state is RolloutState.PENDING and baseline is not None:
            rollout = self._routed(rollout)
            if baseline != rollout.previous:
                rollout = moved(rollout, previous=baseline)
            driven.rollout = rollout
            if baseline == rollout.candidate:
                why = "it is the baseline already"
                driven.rollout, entries = overrides.abort(rollout, why, RolloutState.SUPERSEDED, kind="superseded")
                driven.entries += entries
        facts, counted = self.observer.facts(driven, self._rivals(rollout.model))
        driven.note(counted, facts.shadow)
        driven.rollout, entries = machine.advance(driven.rollout, facts)
        driven.entries += entries
        try:
            await self._save(driven, strict=False)
        except Conflict:
            self._driven.pop((rollout.model, rollout.attempt)).counters.detach()
            return
        await self._apply(driven)

    async def _save(self, driven: Driven, *, strict: bool) -> None:
        """Records a rollout as it stands. Where the state store does not answer it waits, unless strict."""
        rollout = driven.rollout
        notes = [Note(e.kind, e.text, e.actor) for e in driven.entries]
        wanted = RolloutWrite(
            rollout.attempt, driven.number, str(rollout.state), rollout.state.final, rollout.to_json(), self._driver,
            _LEASE_TICKS * self._tick_seconds, notes, list(driven.ticks),
            needs=() if driven.number else (rollout.candidate, rollout.previous),
        )  # fmt: skip
        by = next((e.actor for e in driven.entries if e.actor), actor_of(rollout))
        why = driven.entries[0].text.encode()[:_REASON_BYTES].decode(errors="ignore") if driven.entries else ""
        try:
            record = await asyncio.to_thread(self._store.put_rollout, rollout.model, wanted, actor=by, reason=why)
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

    async def _apply(self, driven: Driven) -> None:
        """Puts in force what the recorded state wishes."""
        rollout = driven.rollout
        aborting = rollout.state is RolloutState.ABORTING
        applied, policy = self.observer.applied(rollout.model)
        wish = wished(rollout, policy)
        if not driven.saved:
            if aborting:
                self._divert(rollout, wish)  # the verdict holds, recorded or not
            return
        if rollout.state.final:
            driven.counters.detach()
            self._driven.pop((rollout.model, rollout.attempt), None)
            self._undivert(rollout.model)
            return
        frozen = applied is not None and applied.state.frozen
        if not aborting and (rollout.pauses or frozen or wish is None or wish == policy or not self._ready(rollout)):
            self._undivert(rollout.model)
            return
        try:
            if wish is not None and wish != policy:
                await self._put(driven, wish, applied)
            if aborting and rollout.released:
                await self._declare(rollout, released=False)
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
        running = (d.rollout for (name, _), d in self._driven.items() if name == model)
        if not any(rollout.state is RolloutState.ABORTING for rollout in running):
            self._policies.undivert(model)

    async def _put(self, driven: Driven, wish: Policy, applied: AppliedPolicy | None) -> None:
        rollout = driven.rollout
        if rollout.promoted and rollout.released:
            await self._declare(rollout, released=True)
        change = Change(actor_of(rollout), _reason(rollout), applied.epoch if applied is not None else 0)
        await self._traffic.put(rollout.model, wish, change)
        driven.rollout = self._routed(rollout)

    async def _declare(self, rollout: Rollout, *, released: bool) -> None:
        say = self._store.release if released else self._store.withdraw
        model, candidate = rollout.model, rollout.candidate
        await asyncio.to_thread(say, model, candidate, actor=actor_of(rollout), reason=_reason(rollout))
        await self._refresh()

    def _ready(self, rollout: Rollout) -> bool:
        entries = (self.observer.entry(rollout.model, version) for version in (rollout.candidate, rollout.previous))
        return all(entry is not None and entry.state is LifecycleState.READY for entry in entries)

    async def _announce(self) -> None:
        async with self._ticked:
            self._ticked.notify_all()


def _refuse_stale(rollout: Rollout, expected_epoch: int | None) -> None:
    """Refuses what was decided on by another epoch of the rollout than the one it is at."""
    if expected_epoch not in (None, rollout.epoch):
        is_at = f"the rollout of {rollout.candidate} is at epoch {rollout.epoch} by now ({rollout.state})"
        raise Conflict(f"{is_at}, not {expected_epoch}; look again")


def _reason(rollout: Rollout) -> str:
    return f"rollout of {rollout.candidate}, attempt {rollout.attempt}: {rollout.state}"
