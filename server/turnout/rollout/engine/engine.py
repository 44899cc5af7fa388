"""Drives rollouts: observes, decides by `turnout.rollout.machine.machine`, records, and then applies.

a tick:     observe -> advance (pure) -> state store -> traffic
a command:  the same, with an operator's decision in place of the observation

The desired policy follows from the recorded state, so a server that was killed between two of these continues where it
was. While the state store does not respond, nothing progresses. Only a rollback does not wait for it: it takes effect
in memory as soon as it is decided, and is recorded when the store responds.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from semver import Version

from turnout.errors import ChangeRefused, Conflict, TurnoutError, UnavailableError
from turnout.rollout.changes.operations import ChangeResult, refuse_stale
from turnout.rollout.clock import Instant, TickSchedule
from turnout.rollout.engine.active_rollout import ActiveRollout, tick_records
from turnout.rollout.engine.enforcement import Enforcement
from turnout.rollout.engine.ownership import Ownership
from turnout.rollout.engine.peers import OtherServer
from turnout.rollout.engine.policy_origin import refuse_newer, refuse_other_baseline, set_by_rollout, stopped_by_traffic
from turnout.rollout.engine.ports import ExternalChecks, LiveState, RolloutStore
from turnout.rollout.engine.rollbacks import Rollbacks
from turnout.rollout.engine.store_timeouts import StillRunning, StoreTimeout, seconds_until
from turnout.rollout.engine.tick_exchange import TickExchange
from turnout.rollout.engine.unrecorded_rollbacks import Diversion, DiversionFiles, Diversions
from turnout.rollout.engine.writer import EventReporter, RolloutWriter
from turnout.rollout.machine import machine, overrides
from turnout.rollout.machine.attempt import Moved, Rollout, RolloutHistoryEntry, RolloutState, moved
from turnout.rollout.machine.records import UnreadableRollout, recorded
from turnout.rollout.plan import Plan
from turnout.routing.default_answers import RoutingTable
from turnout.serving.versions.hold import Hold
from turnout.state.rollouts import RolloutRecord
from turnout.state.servers import ServersSnapshot
from turnout.threads import Threads

_TICK_WAIT = 0.5
"""Seconds that a tick waits for the state store, which normally takes milliseconds. After that it uses memory."""

_WRITTEN_AT_ONCE = 10
"""Number of rollouts whose counts are recorded in one transaction: at most one MB, with one disk sync."""

_COUNTS_WAIT = 2.0
"""Maximum seconds, at most half a tick, that recording counts waits for the state store. Nothing depends on counts."""

_COMMAND_WAIT = 3.0
"""Seconds that a command waits for the state store. No tick runs meanwhile."""

_COMMAND_PAUSE = 0.01
"""Seconds after which a command is retried if the server that drives the rollout wrote in between."""


class RolloutEngine:
    """The rollouts of one server. Used only on the event loop.

    Operators' commands raise UnavailableError while the state store does not respond.

    Attributes:
        rollbacks: Rollbacks that are not recorded yet, or not in force on this server.
        last_tick: When the last tick ended, by the monotonic clock.
        tick_duration: Duration of the last tick in seconds.
        late_counts: Number of ticks of other servers that arrived too late to be counted.
    """

    def __init__(
        self,
        serving: LiveState,
        store: RolloutStore,
        journal: DiversionFiles,
        schedule: TickSchedule,
        outside: ExternalChecks,
        reports: EventReporter,
    ) -> None:
        """Creates the engine. No rollout is driven before `run`.

        Args:
            serving: What is served and routed.
            store: Store of the rollouts.
            journal: Files of rollbacks that are not recorded in the store.
            schedule: Clock and interval of ticks.
            outside: Probes and the confirm webhook.
            reports: Receivers of events.
        """
        self._serving = serving
        self._store = store
        self._outside = outside
        self._clock = clock = schedule.clock
        self._tick_seconds = schedule.seconds
        self._log = reports.log
        lease_seconds = schedule.lease_seconds
        self._ownership = Ownership(lease_seconds, lambda: store.server)
        self._diversions = Diversions(serving, journal, reports.log)
        self._reads, self._writes = StoreTimeout(), StoreTimeout()
        self._threads = Threads("rollouts")
        self._exchange = TickExchange(serving, store, self._ownership, schedule.seconds, self._threads, reports.log)
        driver = self._ownership.driver
        self._writer = RolloutWriter(store, driver, lease_seconds, self._writes, self._threads, reports)
        self._enforcement = Enforcement(serving, store, self._ownership, self._diversions, self._writes, reports.log)
        self.rollbacks = Rollbacks(serving, store, self._ownership, self._diversions, self._enforcement, clock)
        self._lock = asyncio.Lock()
        self._ticked = asyncio.Condition()
        self._needed: set[tuple[str, int, Version, Version]] = set()
        self.last_tick = clock.monotonic()
        self.tick_duration = 0.0
        self.late_counts = 0

    @property
    def seconds_since_tick(self) -> float:
        """Seconds since the last tick."""
        return self._clock.monotonic() - self.last_tick

    @property
    def active(self) -> Sequence[ActiveRollout]:
        """The rollouts that this server drives."""
        return self._ownership.active

    @property
    def unreadable(self) -> Sequence[UnreadableRollout]:
        """The rollouts that have not ended and that this release cannot read."""
        return self._ownership.unreadable

    @property
    def running(self) -> Sequence[Rollout]:
        """The rollouts that have not ended, including those that other servers drive."""
        return self._ownership.running

    @property
    def now(self) -> datetime:
        """The present time of day of the rollouts' clock."""
        return self._clock.now()

    @property
    def diversions(self) -> Sequence[Diversion]:
        """The rollbacks that are in force but not recorded yet."""
        return self._diversions.current

    @property
    def server(self) -> str:
        """This server's name among the servers."""
        return self._store.server

    @property
    def servers(self) -> Sequence[OtherServer]:
        """The servers that share the state store, including this one, as far as known here."""
        return self._exchange.other_servers.servers

    def holds(self, model: str) -> Mapping[Version, Hold]:
        """Returns the versions of a model that rollouts need in memory, and why."""
        return self._ownership.holds(model)

    async def run(self, *beside: Callable[[float], None]) -> None:
        """Runs ticks until it is cancelled.

        Args:
            beside: Functions called at every tick, before the rollouts, with the monotonic clock's time.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self.rollbacks.run(), name="follow rollbacks")
            while True:
                now = self._clock.monotonic()
                for call in beside:
                    call(now)
                try:
                    await self.tick()
                except TurnoutError as error:
                    self._log.error("rollouts could not be advanced", reason=error.message)
                await asyncio.sleep(self._tick_seconds)

    async def tick(self) -> None:
        """Advances every rollout by one tick."""
        began = self._clock.monotonic()
        async with self._lock:
            fresh = True
            try:
                await self._reconcile(_TICK_WAIT)
            except UnavailableError as error:
                fresh = False
                self._log.warning("rollouts continue from memory", reason=error.message)
            await self._exchange.count(self._clock.monotonic())
            await self._exchange.report(_TICK_WAIT)
            # The policy that ended a rollback's rollout was in force before that was recorded: it must be known here.
            self._enforcement.undivert(
                fresh=fresh and (not self._diversions.current or await self.rollbacks.followed())
            )
            counted: list[ActiveRollout] = []
            for active in self._ownership.active:
                model = active.rollout.model
                if not self._ownership.may_advance(active.rollout):
                    continue
                try:
                    if not await self._advance(active):
                        counted.append(active)
                except TurnoutError as error:  # other rollouts' verdicts must not depend on this one
                    self._log.error("a rollout could not be advanced", model=model, reason=error.message)
                except Exception as error:  # noqa: BLE001 - nor on damaged records
                    self._log.error("a rollout could not be advanced", model=model, exc_info=error)
            for first in range(0, len(counted), _WRITTEN_AT_ONCE):
                await self._save_counts(counted[first : first + _WRITTEN_AT_ONCE])
            advancing = [active for active in self._ownership.active if self._ownership.may_advance(active.rollout)]
            try:
                self._outside.follow([(active.rollout, active.saved) for active in advancing])
            except Exception as error:  # noqa: BLE001 - rollbacks do not depend on external checks
                self._log.error("external checks could not be started", exc_info=error)
        self.last_tick = self._clock.monotonic()
        self.tick_duration = self.last_tick - began
        await self._announce()

    async def wait(self, seconds: float) -> None:
        """Waits for the next tick or command, at most `seconds`."""
        async with self._ticked:
            try:
                await asyncio.wait_for(self._ticked.wait(), seconds)
            except TimeoutError:
                return

    def refusals(self, model: str, candidate: Version) -> list[str]:
        """Returns why a candidate cannot be rolled out. Raises the errors of `LiveState.refusals`."""
        return self._serving.refusals(model, candidate)

    def baseline(self, model: str) -> Version | None:
        """Returns the version that answers plain requests, apart from canaries; None if there is none."""
        return self._serving.baseline(model)

    def answers(self, model: str) -> RoutingTable:
        """Returns the versions that answer each selector of a model now, as far as this server knows.

        Raises:
            ModelNotFound: The model does not exist.
        """
        return self._serving.answers(model, [r for r in self.running if r.model == model])

    async def start(self, model: str, candidate: Version, plan: Plan, actor: str, reason: str) -> Rollout:
        """Starts a rollout.

        Raises:
            InvalidRequest: The plan names a probe that is not configured.
            ModelNotFound, NotFoundError: The model or version does not exist.
            ChangeRefused: `refusals` gives a reason, another rollout is running, or one of the versions was just
                yanked.
        """
        self._outside.check(plan)
        if why := self.refusals(model, candidate):
            raise ChangeRefused("; ".join(why))
        async with self._lock:
            previous = self._serving.baseline(model)
            assert previous is not None
            until = asyncio.get_running_loop().time() + _COMMAND_WAIT
            await self._reconcile(_COMMAND_WAIT, mine=model if plan.on_newer == "replace" else None, patient=True)
            records = await self._reads.wait(self._store.of(model), seconds_until(until), patient=True)
            for record in records:
                if not record.final:
                    await self._newer(record, plan, candidate, until)
            attempt = max((record.attempt for record in records), default=0) + 1
            rollout = Rollout.start(model, candidate, previous, attempt, plan, actor, reason)
            released = self._serving.is_released(model, candidate)
            rollout = replace(self._enforcement.routed(rollout), was_released=released)
            active = ActiveRollout.begin(rollout, 0, self._clock.monotonic())
            active.entries.append(
                RolloutHistoryEntry("start", reason or f"{candidate} is rolled out over {previous}", actor)
            )
            self._ownership.add(active)
            try:
                await self._writer.save(active, seconds_until(until), strict=True)
            except TurnoutError:
                self._ownership.drop(rollout)
                raise
            self._serving.load()
        await self._announce()
        return active.rollout

    async def command(
        self,
        model: str,
        decide: Callable[[Rollout], Moved],
        expected_epoch: int | None,
        *,
        attempt: int = 0,
        resume: bool = False,
    ) -> Rollout:
        """Applies an operator's decision to the model's rollout.

        Args:
            model: Name of the model.
            decide: Returns the rollout's next state.
            expected_epoch: Epoch that the operator's decision was based on; None for any.
            attempt: Number of the attempt; 0 for the one that is running.
            resume: Whether to accept the present policy as the rollout's own.

        Raises:
            NotFoundError: The model has no such running rollout.
            Conflict: The rollout has changed since the operator's decision.
            ChangeRefused: The command is not possible now, or several rollouts are running and none was named.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + _COMMAND_WAIT  # a driver writes at each tick, and a write may take as long as a tick
        while True:
            async with self._lock:
                try:
                    await self._reconcile(_COMMAND_WAIT, mine=model)
                except UnavailableError:
                    self._ownership.take(model)  # in the state known here: a rollback does not wait for the store
                    if not self._ownership.of(model):
                        await self._reconcile(seconds_until(until), mine=model, patient=True)
                active = self._ownership.named(model, attempt)
                if resume:  # the policy that it accepts may have been changed on another server
                    await self.rollbacks.followed()
                before = active.rollout
                refuse_stale(before.candidate, before.epoch, str(before.state), expected_epoch)
                after, entries = decide(self._enforcement.routed(before) if resume else before)
                applied, _ = self._serving.in_force(model)
                refuse_other_baseline(before, after, applied, self._serving.baseline(model))
                if stopped_by_traffic(before) and not stopped_by_traffic(after):
                    after = self._enforcement.routed(after)  # resuming accepts the change that paused the rollout
                try:
                    await self._decide(active, after, entries, until)
                    break
                except Conflict:  # the driver wrote a tick in between, which is no decision
                    self._ownership.lose(before)
                    if loop.time() > until:
                        raise
            await asyncio.sleep(_COMMAND_PAUSE)
        await self._announce()
        return active.rollout

    async def retry(self, last: Rollout, actor: str, reason: str, expected_epoch: int | None = None) -> Rollout:
        """Starts another attempt with the candidate and the plan of the last one.

        Raises:
            ChangeRefused: The last one is still running, or as in `start`.
            Conflict: It has changed since the operator's decision.
        """
        refuse_stale(last.candidate, last.epoch, str(last.state), expected_epoch)
        if not last.state.final:
            raise ChangeRefused(f"attempt {last.attempt} of {last.model} still runs ({last.state})")
        why = reason or f"again after attempt {last.attempt}"
        return await self.start(last.model, last.candidate, last.plan, actor, why)

    async def operate(self, operation: Callable[[], ChangeResult], seconds: float = _COMMAND_WAIT) -> ChangeResult:
        """Makes a change in the state store while no tick runs here, and applies it on this server.

        Args:
            operation: A blocking change, as in `turnout.rollout.changes.operations`.
            seconds: Maximum time to wait for the state store, in seconds. If it is shorter than for a command, the
                change is refused while earlier work is still running.

        Raises:
            TurnoutError: As `operation`.
        """

        async def operate() -> ChangeResult:
            done = await self._store.run(operation)
            found = await self._store.running(self._ownership.driver)
            await self._serving.follow()
            self._take_up(*found)
            self._enforcement.undivert(fresh=True)
            for rollout, entries in done.endings:
                self._writer.report(rollout, entries)
            return done

        async with self._lock:
            done = await self._writes.wait(operate(), seconds, patient=seconds >= _COMMAND_WAIT)
        await self._announce()
        return done

    async def close(self) -> None:
        """Tells other servers that this one stops, and waits until everything that must survive it is saved."""
        with contextlib.suppress(UnavailableError):
            await self._exchange.leave(_TICK_WAIT)
        self.rollbacks.close()
        self._threads.shutdown()

    async def _reconcile(self, seconds: float, *, mine: str | None = None, patient: bool = False) -> None:
        """Reads the state store, and takes over rollouts without a driver, and all rollouts of the model `mine`.

        Raises:
            UnavailableError: The state store does not respond within `seconds`.
        """
        running = self._store.running(self._ownership.driver)
        self._take_up(*await self._reads.wait(running, seconds, patient=patient), mine)

    def _take_up(
        self, records: Sequence[RolloutRecord], servers_snapshot: ServersSnapshot, mine: str | None = None
    ) -> None:
        now = self._clock.monotonic()
        self._exchange.other_servers.update(servers_snapshot, now)
        found = self._ownership.reconcile(records, Instant(now, servers_snapshot.now), mine=mine)
        for unreadable in found.unreadable:
            self._log.error("a rollout cannot be read", model=unreadable.record.model, reason=unreadable.sentence)
        for rollout in found.taken_up:
            self._log.info("rollout taken up", model=rollout.model, attempt=rollout.attempt, state=str(rollout.state))
        self.rollbacks.take_up()
        needed = {(r.model, r.attempt, r.candidate, r.previous) for r in self._ownership.running}
        if needed != self._needed:  # since loading takes 40 ms for a hundred models
            self._needed = needed
            self._serving.load()

    async def _decide(
        self, active: ActiveRollout, after: Rollout, entries: Sequence[RolloutHistoryEntry], until: float
    ) -> None:
        """Records a decision about a rollout by then, and puts it in force; void if it cannot be recorded.

        Only a rollback is in force at once, and stays in force while it cannot be recorded.
        """
        before, saved = active.rollout, active.saved
        active.rollout = after
        active.entries += entries
        aborting = after.state is RolloutState.ABORTING
        if aborting:
            self._enforcement.divert(after, self._clock.now())
        try:
            await self._writer.save(active, seconds_until(until), strict=not aborting)
        except StillRunning:
            raise  # it may still be recorded
        except TurnoutError:
            active.rollout, active.saved = before, saved
            del active.entries[len(active.entries) - len(entries) :]  # those before may have been recorded meanwhile
            if aborting and before.state is not RolloutState.ABORTING:
                self._diversions.end(after.model)
            raise
        active.refused = ""
        await self._enforcement.apply(active, seconds_until(until))
        self._enforcement.undivert(fresh=False)

    async def _newer(self, record: RolloutRecord, plan: Plan, candidate: Version, until: float) -> None:
        """Deals with a running rollout when another is started."""
        refuse_newer(recorded(record), plan, candidate)
        if plan.on_newer == "replace" and (active := self._ownership.find(record.model, record.attempt)) is not None:
            why = f"{candidate} is rolled out in its place"
            moved_on = overrides.abort(active.rollout, why, RolloutState.SUPERSEDED, kind="superseded")
            await self._decide(active, *moved_on, until)

    async def _advance(self, active: ActiveRollout) -> bool:
        """Advances a rollout by one tick; returns False if nothing happened except counts.

        Anything else is recorded and applied at once; recording counts is left to `_save_counts`.
        """
        rollout = active.rollout
        if set_by_rollout(self._serving.in_force(rollout.model)[0]):
            # A change by a concurrent rollout is not an operator's, even if an operator freezes the traffic afterwards.
            rollout = active.rollout = self._enforcement.routed(rollout)
        baseline = self._serving.baseline(rollout.model)
        if rollout.state is RolloutState.PENDING and baseline is not None:
            rollout = self._enforcement.routed(rollout)
            if baseline != rollout.previous:
                rollout = moved(rollout, previous=baseline)
            active.rollout = rollout
            if baseline == rollout.candidate:
                why = "it is the baseline already"
                active.rollout, entries = overrides.abort(rollout, why, RolloutState.SUPERSEDED, kind="superseded")
                active.entries += entries
        now = self._clock.monotonic()
        seconds = active.elapsed(now, self._exchange.longest_tick)
        oldest = self._exchange.other_servers.oldest(now)
        await self._exchange.receive(active)
        collected = active.gather(self._store.server, oldest)
        self.late_counts += collected.late
        facts = self._serving.observe(active, seconds, collected, self._ownership.rivals(rollout.model))
        facts = replace(facts, analysis=self._outside.take(active.rollout))
        active.ticks += await self._threads.run(tick_records, active.rollout, collected, facts.shadow)
        # In a thread, so that requests continue: it takes up to 50 ms if many keys are compared.
        active.rollout, entries = await self._threads.run(machine.advance, active.rollout, facts)
        active.entries += entries
        self._enforcement.divert(active.rollout, self._clock.now())
        if not active.entries and active.number:
            return False
        try:
            await self._writer.save(active, _TICK_WAIT)
        except Conflict:
            self._ownership.lose(rollout)
            return True
        await self._enforcement.apply(active, _TICK_WAIT)
        self._enforcement.undivert(fresh=False)
        return True

    async def _save_counts(self, several: Sequence[ActiveRollout]) -> None:
        """Records counts, and applies what the rollouts require."""
        wait = max(_TICK_WAIT, min(_COUNTS_WAIT, self._tick_seconds / 2))
        try:
            lost = await self._writer.save_counts(several, wait)
        except Exception as error:  # noqa: BLE001 - an error of one rollout must not affect the others
            self._log.error("counts could not be recorded together", exc_info=error)
            lost = [active for active in several if not await self._saved(active)]
        for active in several:
            if active in lost:
                self._ownership.lose(active.rollout)
                continue
            await self._enforcement.apply(active, _TICK_WAIT)
        self._enforcement.undivert(fresh=False)

    async def _saved(self, active: ActiveRollout) -> bool:
        """Records a single rollout; returns False if another server wrote it in the meantime."""
        try:
            await self._writer.save(active, _TICK_WAIT)
        except Conflict:
            return False
        except Exception as error:  # noqa: BLE001 - as above
            active.saved = False
            self._log.error("a rollout could not be recorded", model=active.rollout.model, exc_info=error)
        return True

    async def _announce(self) -> None:
        async with self._ticked:
            self._ticked.notify_all()
