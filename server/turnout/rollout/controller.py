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
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
from semver import Version
from structlog.typing import FilteringBoundLogger

from turnout.errors import ChangeRefused, Conflict, NotFound, TurnoutError, Unavailable
from turnout.registry.compat import refusals
from turnout.rollout import machine
from turnout.rollout.counters import Counters
from turnout.rollout.evidence import SLO, Count
from turnout.rollout.machine import Entry, Facts, Moved, Rollout, RolloutState
from turnout.rollout.plan import Plan
from turnout.routing.applied import AppliedPolicy, Policies
from turnout.routing.policy import Policy
from turnout.routing.shadow.ledger import Outcome
from turnout.routing.shadow.service import Shadows
from turnout.routing.traffic import Change, Traffic
from turnout.serving.arms import Rules
from turnout.serving.catalog import Catalog, VersionEntry
from turnout.serving.lifecycle import LifecycleState
from turnout.state.events import Event, EventKind
from turnout.state.rollouts import Note, RolloutRecord, RolloutWrite
from turnout.state.store import StateStore

_QUANTILES = {"p90": 0.90, "p95": 0.95, "p99": 0.99}
_LEASE_TICKS = 4

Tell = Callable[[str, Rollout, Entry], None]
"""Told of everything that happens to a rollout, with the model's name; quick, and raises nothing."""


@dataclass(slots=True, eq=False)
class Driven:
    """A rollout that this server drives.

    Attributes:
        rollout: As it stands.
        number: Of the state store's last write.
        counters: Its counts.
        looked: `time.monotonic()` of the last tick.
        sample: Number of the last shadow sample that was taken.
        refused: Why the last change of the traffic was refused.
        saved: The state store has it as it stands.
        entries, ticks: What is still to be recorded.
    """

    rollout: Rollout
    number: int
    counters: Counters
    looked: float
    sample: int = 0
    refused: str = ""
    saved: bool = True
    entries: list[Entry] = field(default_factory=list)
    ticks: list[Mapping[str, object]] = field(default_factory=list)


class Rollouts:
    """The rollouts of one server. Used on the event loop only."""

    def __init__(
        self,
        store: StateStore,
        traffic: Traffic,
        policies: Policies,
        catalog: Catalog,
        shadows: Shadows,
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
            shadows: Where disagreements are counted.
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
        self._shadows = shadows
        self._wake = wake
        self._refresh = refresh
        self._tick_seconds = tick_seconds
        self._tell = tell
        self._log = log
        self._driver = uuid.uuid4().hex
        self._driven: dict[tuple[str, int], Driven] = {}
        self._foreign: dict[tuple[str, int], Rollout] = {}
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

    async def run(self) -> None:
        """Looks every tick, for as long as the server runs."""
        while True:
            try:
                await self.tick()
            except TurnoutError as error:
                self._log.error("rollouts could not be looked at", reason=error.message)
            await asyncio.sleep(self._tick_seconds)

    async def tick(self) -> None:
        """Looks at every rollout once."""
        async with self._lock:
            try:
                await self._take_in(await asyncio.to_thread(self._store.rollouts, None, running=True))
            except Unavailable as error:
                self._log.warning("rollouts go on from memory", reason=error.message)
            for key, driven in sorted(self._driven.items()):
                if self._is_first(key):
                    await self._look(driven)
        self.last_tick = time.monotonic()
        await self._announce()

    async def wait(self, seconds: float) -> None:
        """Returns after the next tick or command, or after `seconds`."""
        async with self._ticked:
            try:
                await asyncio.wait_for(self._ticked.wait(), seconds)
            except TimeoutError:
                return

    async def start(self, model: str, candidate: Version, plan: Plan, actor: str, reason: str) -> Rollout:
        """Begins a rollout.

        Raises:
            ModelNotFound, VersionNotFound: There is no such model or version.
            ChangeRefused: The candidate is the baseline or does not fit its clients, or another rollout runs.
            Unavailable: The state store does not answer.
        """
        known = self._catalog.snapshot.model(model)
        entry = known.versions.get(candidate)
        if entry is None:
            raise NotFound(f"{model} has no version {candidate}")
        async with self._lock:
            previous = self._baseline(model)
            if previous is None:
                raise ChangeRefused(f"{model} has no version that answers now, so there is nothing to compare with")
            if previous == candidate:
                raise ChangeRefused(f"{candidate} is the baseline of {model} already")
            if reasons := refusals(known.versions[previous].manifest.signature, entry.manifest.signature):
                raise ChangeRefused(f"{candidate} does not fit the baseline's clients: {', '.join(reasons)}")
            records = await asyncio.to_thread(self._store.rollouts, model)
            for record in records:
                if not record.final:
                    await self._newer(record, plan, candidate)
            attempt = max((record.attempt for record in records), default=0) + 1
            rollout = Rollout.start(model, candidate, previous, attempt, plan, actor, reason)
            rollout = replace(rollout, policy_epoch=self._epoch(model))
            driven = self._driven[model, attempt] = Driven(rollout, 0, self._counters(rollout), time.monotonic())
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
        self, model: str, decide: Callable[[Rollout], Moved], expected_epoch: int | None, *, resume: bool = False
    ) -> Rollout:
        """Has an operator's word on the model's rollout.

        Args:
            model: Its model.
            decide: Makes the rollout's next state.
            expected_epoch: That the operator looked at; None for whatever it is.
            resume: The traffic as it is now is taken for granted.

        Raises:
            NotFound: No rollout of the model runs.
            Conflict: The rollout has moved since.
            ChangeRefused: It cannot be done now.
            Unavailable: The state store does not answer.
        """
        async with self._lock:
            await self._take_in(await asyncio.to_thread(self._store.rollouts, None, running=True), mine=True)
            keys = [key for key in sorted(self._driven) if key[0] == model and self._is_first(key)]
            if not keys:
                raise NotFound(f"no rollout of {model} runs")
            driven = self._driven[keys[0]]
            before = driven.rollout
            if expected_epoch not in (None, before.epoch):
                is_at = f"the rollout of {before.candidate} is at epoch {before.epoch} by now ({before.state})"
                raise Conflict(f"{is_at}, not {expected_epoch}; look again")
            resumed = replace(before, policy_epoch=self._epoch(model)) if resume else before
            driven.rollout, entries = decide(resumed)
            driven.entries += entries
            try:
                await self._save(driven, strict=True)
            except TurnoutError:
                driven.rollout, driven.saved = before, True
                driven.entries.clear()
                raise
            await self._apply(driven)
        await self._announce()
        return driven.rollout

    async def retry(self, model: str, actor: str, reason: str) -> Rollout:
        """Begins another attempt with the candidate and the plan of the last one. Raises as `start` and `latest`."""
        _, last = await self.latest(model)
        if not last.state.final:
            raise ChangeRefused(f"attempt {last.attempt} of {model} still runs ({last.state})")
        why = reason or f"again after attempt {last.attempt}"
        return await self.start(model, last.candidate, last.plan, actor, why)

    async def latest(self, model: str) -> tuple[RolloutRecord, Rollout]:
        """Returns the model's latest rollout.

        Raises:
            ModelNotFound: There is no such model.
            NotFound: It never had one.
            Unavailable: The state store does not answer.
        """
        known = await self.history(model, 1)
        if not known:
            raise NotFound(f"{model} has had no rollout")
        return known[0]

    async def record(self, rollout: Rollout) -> RolloutRecord | None:
        """Returns how a rollout is recorded."""
        records = await asyncio.to_thread(self._store.rollouts, rollout.model)
        return next((r for r in records if r.attempt == rollout.attempt), None)

    async def events(self, model: str, attempt: int, limit: int) -> list[Event]:
        """Returns what happened to a rollout, the oldest first."""
        found = await asyncio.to_thread(self._store.events, model, limit * 2)
        own = [e for e in found if e.kind == EventKind.ROLLOUT and e.payload.get("attempt") == attempt]
        return own[:limit][::-1]

    async def ticks(self, model: str, attempt: int) -> list[tuple[datetime, dict[str, Any]]]:
        """Returns when each tick of a rollout was recorded, and what it counted."""
        return await asyncio.to_thread(self._store.rollout_ticks, model, attempt)

    async def history(self, model: str | None, limit: int) -> list[tuple[RolloutRecord, Rollout]]:
        """Returns rollouts of a model, or of all, the newest first.

        Raises:
            ModelNotFound: There is no such model.
            Unavailable: The state store does not answer.
        """
        if model is not None:
            self._catalog.snapshot.model(model)
        records = await asyncio.to_thread(self._store.rollouts, model, limit=limit)
        return [(record, self._current(record)) for record in records]

    async def rollback(self, model: str, to: Version | None, actor: str, reason: str) -> AppliedPolicy:
        """Gives all of a model's traffic to a version that had it before, and ends its rollout.

        Raises:
            ChangeRefused: There is none, or it is not ready.
        """
        running = [d for d in self._driven.values() if d.rollout.model == model and not d.rollout.state.final]
        for driven in running:
            target = driven.rollout.previous
            if to in (None, target):
                why = reason or "rolled back by hand"
                end = functools.partial(machine.abort, why=why, kind="rollback", actor=actor)
                await self.command(model, end, None)
                return self._policies.current[model]
        if running:
            goal = running[0].rollout.previous
            raise ChangeRefused(f"a rollout of {model} runs, and goes back to {goal}: abort it first")
        present = self._baseline(model)
        if to is None:
            states = [state for _, state in await self._traffic.history(model, 1000)]
            earlier = (s.policy.baseline for s in states if s.policy is not None and s.policy.baseline != present)
            to = next(earlier, None)
        if to is None:
            raise ChangeRefused(f"no other version was the baseline of {model} before: say which with --to")
        return await self._traffic.put(model, Policy(to), Change(actor, reason or "rolled back by hand"))

    async def _newer(self, record: RolloutRecord, plan: Plan, candidate: Version) -> None:
        """Deals with a rollout that runs when another is asked for."""
        running = self._current(record)
        if plan.on_newer == "refuse":
            raise ChangeRefused(
                f"{running.candidate} is being rolled out (attempt {record.attempt}, {running.state}): "
                "abort it first, or say on_newer = 'queue' or 'replace'"
            )
        if plan.on_newer == "replace" and (driven := self._driven.get((record.model, record.attempt))) is not None:
            why = f"{candidate} is rolled out in its place"
            driven.rollout, entries = machine.abort(driven.rollout, why, RolloutState.SUPERSEDED, kind="superseded")
            driven.entries += entries
            await self._save(driven, strict=True)
            await self._apply(driven)

    def _current(self, record: RolloutRecord) -> Rollout:
        driven = self._driven.get((record.model, record.attempt))
        return driven.rollout if driven is not None else Rollout.from_json(record.document)

    def _is_first(self, key: tuple[str, int]) -> bool:
        """Tells whether no earlier attempt of the model still runs: one that is queued waits for it."""
        others = (*self._driven, *self._foreign)
        return not any(model == key[0] and attempt < key[1] for model, attempt in others)

    async def _take_in(self, records: Sequence[RolloutRecord], *, mine: bool = False) -> None:
        """Notes what the state store holds; takes up what nobody drives.

        Args:
            records: The rollouts that run.
            mine: Take them up whoever drives them; who did finds out at its next write.
        """
        self._foreign = {}
        present = {(record.model, record.attempt) for record in records}
        for key in [k for k in self._driven if k not in present and self._driven[k].saved]:
            self._driven.pop(key).counters.detach()
        for record in records:
            key = (record.model, record.attempt)
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
            if record.driver == self._driver or mine or time.time() >= record.driven_until.timestamp():
                self._driven[key] = Driven(rollout, record.number, self._counters(rollout), time.monotonic())
                self._log.info("rollout taken up", model=record.model, attempt=record.attempt, state=record.state)
            else:
                self._foreign[key] = rollout
        self._wake()

    async def _look(self, driven: Driven) -> None:
        rollout = driven.rollout
        if rollout.state is RolloutState.PENDING and (baseline := self._baseline(rollout.model)) is not None:
            rollout = replace(rollout, previous=baseline, policy_epoch=self._epoch(rollout.model))
            if baseline == rollout.candidate:
                driven.rollout, entries = machine.abort(rollout, "it is the baseline already", RolloutState.SUPERSEDED)
                driven.entries += entries
        now = time.monotonic()
        facts = self._facts(driven, rollout, now)
        driven.looked = now
        driven.ticks += [tick.to_json() for tick in facts.ticks]
        if facts.shadow.requests:
            driven.ticks.append({"shadow": [facts.shadow.requests, facts.shadow.bad]})
        driven.rollout, entries = machine.advance(rollout, facts)
        driven.entries += entries
        try:
            await self._save(driven, strict=False)
        except Conflict:
            self._driven.pop((rollout.model, rollout.attempt)).counters.detach()
            return
        await self._apply(driven)

    def _facts(self, driven: Driven, rollout: Rollout, now: float) -> Facts:
        """Returns what is so now, and begins the next tick's counts."""
        seconds = min(now - driven.looked, 3 * self._tick_seconds)  # a tick that comes late is no progress
        candidate, previous = self._entry(rollout, rollout.candidate), self._entry(rollout, rollout.previous)
        ready = all(e is not None and e.state is LifecycleState.READY for e in (candidate, previous))
        thresholds, samples, patience = self._thresholds(rollout, previous)
        self._attach(driven, rollout, candidate, previous)
        driven.counters.roll(seconds, now, _rules(rollout), _named(rollout))
        applied = self._policies.current.get(rollout.model)
        policy = applied.state.policy if applied else None
        wished = machine.wished(rollout, policy)
        in_force = wished is None or wished == policy
        other = "" if in_force or applied is None else _stranger(rollout, applied)
        trouble = ""
        if candidate is None:
            trouble = "it is not published any more"
        elif candidate.state is LifecycleState.FAILED:
            trouble = candidate.reason or "it could not be loaded"
        return Facts(
            seconds, driven.counters.closed(now), self._shadowed(driven, rollout), ready, trouble, in_force, other,
            driven.refused, thresholds, samples, patience,
        )  # fmt: skip

    def _attach(
        self, driven: Driven, rollout: Rollout, candidate: VersionEntry | None, previous: VersionEntry | None
    ) -> None:
        if candidate is None or previous is None or candidate.handle is None or previous.handle is None:
            driven.counters.detach()
            return
        roles = ("baseline", "canary") if rollout.promoted else ("canary", "baseline")
        driven.counters.attach(candidate.handle.recorder.role(roles[0]), previous.handle.recorder.role(roles[1]))

    def _thresholds(
        self, rollout: Rollout, previous: VersionEntry | None
    ) -> tuple[Mapping[str, float] | None, int, float]:
        if previous is None or previous.handle is None:
            return None, 0, 0.0
        recent = previous.handle.recorder.role("baseline").recent
        if len(recent) < max(rollout.plan.threshold_samples, 2):
            return None, len(recent), 0.0
        seen = np.fromiter(recent, np.float64, len(recent))
        found = {name: float(np.quantile(seen, _QUANTILES[name])) for name in rollout.plan.timed}
        return found, len(recent), float(np.quantile(seen, 0.5))

    def _shadowed(self, driven: Driven, rollout: Rollout) -> Count:
        """Returns the copies that were compared since the last look, and those that disagreed or failed."""
        if rollout.plan.shadow is None or rollout.state is not RolloutState.SHADOWING:
            return Count()
        for lane in self._shadows.of(rollout.model):
            if lane.pair.shadow == str(rollout.candidate):
                fresh = [s for s in lane.ledger.samples if s.number > driven.sample and s.epoch >= rollout.policy_epoch]
                if fresh:
                    driven.sample = fresh[-1].number
                return Count(len(fresh), sum(s.outcome is not Outcome.AGREED for s in fresh))
        return Count()

    async def _save(self, driven: Driven, *, strict: bool) -> None:
        """Records a rollout as it stands. Where the state store does not answer it waits, unless strict."""
        rollout = driven.rollout
        notes = [Note(e.kind, e.text, e.actor) for e in driven.entries]
        wanted = RolloutWrite(
            rollout.attempt, driven.number, str(rollout.state), rollout.state.final, rollout.to_json(), self._driver,
            _LEASE_TICKS * self._tick_seconds, notes, list(driven.ticks),
        )  # fmt: skip
        by = next((e.actor for e in driven.entries if e.actor), _actor(rollout))
        why = driven.entries[0].text[:300] if driven.entries else ""
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
        if not driven.saved:
            if rollout.state is RolloutState.ABORTING:
                self._policies.divert(rollout.model)  # the verdict holds, recorded or not
            return
        if rollout.state.final:
            driven.counters.detach()
            self._driven.pop((rollout.model, rollout.attempt), None)
            return
        applied = self._policies.current.get(rollout.model)
        policy = applied.state.policy if applied else None
        wished = machine.wished(rollout, policy)
        if wished is None or wished == policy or (rollout.pauses and rollout.state is not RolloutState.ABORTING):
            self._policies.undivert(rollout.model)
            return
        candidate, previous = self._entry(rollout, rollout.candidate), self._entry(rollout, rollout.previous)
        if rollout.state is not RolloutState.ABORTING and not all(
            e is not None and e.state is LifecycleState.READY for e in (candidate, previous)
        ):
            return
        reason = f"rollout of {rollout.candidate}, attempt {rollout.attempt}: {rollout.state}"
        try:
            if rollout.promoted:
                await asyncio.to_thread(
                    self._store.release, rollout.model, rollout.candidate, actor=_actor(rollout), reason=reason
                )
                await self._refresh()
            change = Change(_actor(rollout), reason, applied.epoch if applied else 0)
            after = await self._traffic.put(rollout.model, wished, change)
        except (Conflict, Unavailable) as error:
            self._log.warning("a rollout tries again", model=rollout.model, reason=error.message)
            if rollout.state is RolloutState.ABORTING:
                self._policies.divert(rollout.model)
            return
        except TurnoutError as error:
            driven.refused = error.message
            return
        driven.refused = ""
        self._policies.undivert(rollout.model)
        driven.rollout = replace(rollout, policy_epoch=after.epoch)

    def _counters(self, rollout: Rollout) -> Counters:
        previous = self._entry(rollout, rollout.previous)
        fits = previous.handle.check if previous is not None and previous.handle is not None else None
        return Counters(_rules(rollout), fits)

    def _entry(self, rollout: Rollout, version: Version) -> VersionEntry | None:
        model = self._catalog.snapshot.models.get(rollout.model)
        return model.versions.get(version) if model is not None else None

    def _epoch(self, model: str) -> int:
        applied = self._policies.current.get(model)
        return applied.epoch if applied is not None else 0

    def _baseline(self, model: str) -> Version | None:
        """Returns the version that answers the empty selector now."""
        applied = self._policies.current.get(model)
        if applied is not None and applied.state.policy is not None:
            return applied.state.policy.baseline
        known = self._catalog.snapshot.models.get(model)
        if known is None:
            return None
        fit = [v for v, e in known.versions.items() if e.state is LifecycleState.READY and e.standing == "released"]
        return max(fit, default=None)

    async def _announce(self) -> None:
        async with self._ticked:
            self._ticked.notify_all()


def _actor(rollout: Rollout) -> str:
    return f"turnout rollout {rollout.attempt}"


def _stranger(rollout: Rollout, applied: AppliedPolicy) -> str:
    """Returns who else set the policy in force since the rollout did; "" where nobody did."""
    if applied.epoch == rollout.policy_epoch or applied.actor == _actor(rollout):
        return ""
    return f"epoch {applied.epoch}, by {applied.actor or 'nobody named'}: {applied.reason or applied.action}"


def _named(rollout: Rollout) -> dict[str, float]:
    """Returns the thresholds by metric, the objective's too, seconds."""
    own = dict(rollout.thresholds)
    if rollout.plan.slo_ms is not None:
        own[SLO] = rollout.plan.slo_ms / 1e3
    return own


def _rules(rollout: Rollout) -> Rules:
    plan = rollout.plan
    thresholds = tuple(sorted(_named(rollout).values()))
    return Rules(thresholds, rollout.patience, plan.warm_requests, plan.key_cap, plan.key_window_s)
