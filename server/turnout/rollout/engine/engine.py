"""Drives rollouts: observes, decides by `turnout.rollout.machine.machine`, records, and then applies.

a tick:     observe -> advance (pure) -> state store -> traffic
a command:  the same, with an operator's decision in place of the observation (see `operators.commands`)

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

from turnout.errors import TurnoutError, UnavailableError
from turnout.rollout.analysis.analyses import Analyses
from turnout.rollout.clock import TickSchedule
from turnout.rollout.engine.active_rollout import ActiveRollout, tick_records
from turnout.rollout.engine.commits import RolloutCommits
from turnout.rollout.engine.enforcement import Enforcement
from turnout.rollout.engine.exchange.peers import OtherServer
from turnout.rollout.engine.exchange.presence import ServerPresence
from turnout.rollout.engine.exchange.tick_exchange import TickExchange
from turnout.rollout.engine.local_serving import LocalServing
from turnout.rollout.engine.operators.commands import RolloutCommands
from turnout.rollout.engine.policy_origin import accept_policy
from turnout.rollout.engine.rollbacks import Rollbacks
from turnout.rollout.engine.running_rollouts import RunningRollouts
from turnout.rollout.engine.store_timeouts import TICK_WAIT, StoreTimeout
from turnout.rollout.engine.unrecorded_rollbacks import DiversionFiles, Diversions
from turnout.rollout.engine.writer import EventReporter, RolloutWriter
from turnout.rollout.machine import machine, overrides
from turnout.rollout.machine.actors import is_rollout
from turnout.rollout.machine.attempt import Rollout, RolloutState, moved
from turnout.rollout.machine.records import UnreadableRollout
from turnout.routing.default_answers import RoutingTable
from turnout.serving.versions.hold import Hold
from turnout.threads import Threads

_WRITTEN_AT_ONCE = 10
"""Number of rollouts whose counts are recorded in one transaction: at most one MB, with one disk sync."""

_COUNTS_WAIT = 2.0
"""Maximum seconds, at most half a tick, that recording counts waits for the state store. Nothing depends on counts."""


class RolloutEngine:
    """The rollouts of one server. Used only on the event loop.

    Attributes:
        diversions: Rollbacks that are in force but not recorded yet.
        rollbacks: Follows the rollbacks of other servers.
        last_tick: When the last tick ended, by the monotonic clock.
        tick_duration: Duration of the last tick in seconds.
        late_counts: Number of ticks of other servers that arrived too late to be counted.
    """

    def __init__(
        self,
        serving: LocalServing,
        presence: ServerPresence,
        journal: DiversionFiles,
        schedule: TickSchedule,
        outside: Analyses,
        reports: EventReporter,
    ) -> None:
        """Creates the engine. No rollout is driven before `run`."""
        self._serving = serving
        self._presence = presence
        self._outside = outside
        self._clock = clock = schedule.clock
        self._tick_seconds = schedule.seconds
        self._log = log = reports.log
        self.diversions = diversions = Diversions(serving, journal, log)
        self._rollouts = RunningRollouts(serving, presence, diversions, schedule, log)
        self._ownership = ownership = self._rollouts.ownership
        self._threads = Threads("rollouts")
        self._exchange = TickExchange(serving, presence, self._rollouts, schedule.seconds, self._threads, log)
        store, writes = presence.store, StoreTimeout()
        writer = RolloutWriter(store, ownership.driver, schedule.lease_seconds, writes, self._threads, reports)
        self._enforcement = Enforcement(serving, store, ownership, diversions, writes, log)
        self._commits = RolloutCommits(writer, self._enforcement, ownership, diversions, clock, log)
        self.rollbacks = Rollbacks(self._rollouts, store, diversions, self._enforcement, clock)
        self.commands = RolloutCommands(serving, store, outside, self._rollouts, self._commits, writes)
        self._fresh = True
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
    def server(self) -> str:
        """This server's name among the servers."""
        return self._presence.name

    @property
    def servers(self) -> Sequence[OtherServer]:
        """The servers that share the state store, including this one, as far as known here."""
        return self._rollouts.other_servers.servers

    def holds(self, model: str) -> Mapping[Version, Hold]:
        """Returns the versions of a model that rollouts need in memory, and why."""
        return self._ownership.holds(model)

    async def run(self, *beside: Callable[[float], None]) -> None:
        """Runs ticks until it is cancelled.

        The functions `beside` are called at every tick, before the rollouts, with the monotonic clock's time.
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
        async with self._rollouts.exclusive():
            try:
                await self._rollouts.reconcile(TICK_WAIT)
                fresh = True
            except UnavailableError as error:
                fresh = False
                if self._fresh:
                    self._log.warning("rollouts continue from memory", reason=error.message)
            self._fresh = fresh
            await self._exchange.count(self._clock.monotonic())
            await self._exchange.report(TICK_WAIT)
            # The policy that ended a rollback's rollout was in force before that was recorded: it must be known here.
            self._enforcement.undivert(fresh=fresh and (not self.diversions.current or await self.rollbacks.followed()))
            counted: list[ActiveRollout] = []
            for active in self._ownership.active:
                model = active.rollout.model
                if not self._ownership.may_advance(active.rollout):
                    continue
                try:
                    if await self._commits.catch_up(active) and not await self._advance(active):
                        counted.append(active)
                except TurnoutError as error:  # other rollouts' verdicts must not depend on this one
                    self._log.error("a rollout could not be advanced", model=model, reason=error.message)
                except Exception as error:  # noqa: BLE001 - nor on damaged records
                    self._log.error("a rollout could not be advanced", model=model, exc_info=error)
            wait = max(TICK_WAIT, min(_COUNTS_WAIT, self._tick_seconds / 2))
            for first in range(0, len(counted), _WRITTEN_AT_ONCE):
                await self._commits.save_counts(counted[first : first + _WRITTEN_AT_ONCE], wait)
            advancing = [active for active in self._ownership.active if self._ownership.may_advance(active.rollout)]
            try:
                self._outside.follow([(active.rollout, active.saved) for active in advancing])
            except Exception as error:  # noqa: BLE001 - rollbacks do not depend on external checks
                self._log.error("external checks could not be started", exc_info=error)
            self.last_tick = self._clock.monotonic()
            self.tick_duration = self.last_tick - began

    async def wait(self, seconds: float) -> None:
        """Waits for the next tick or command, at most `seconds`."""
        await self._rollouts.wait(seconds)

    def baseline(self, model: str) -> Version | None:
        """Returns the version that answers plain requests, apart from canaries; None if there is none."""
        return self._serving.baseline(model)

    def answers(self, model: str) -> RoutingTable:
        """Returns the versions that answer each selector of a model now, as far as this server knows.

        Raises:
            ModelNotFound: The model does not exist.
        """
        return self._serving.answers(model, [r for r in self.running if r.model == model])

    async def close(self) -> None:
        """Tells other servers that this one stops, and waits until everything that must survive it is saved."""
        with contextlib.suppress(UnavailableError):
            await self._exchange.leave(TICK_WAIT)
        self.diversions.close()
        self._threads.shutdown()

    async def _advance(self, active: ActiveRollout) -> bool:
        """Advances a rollout by one tick; returns False if nothing happened except counts.

        Anything else is committed at once; recording counts is left to the caller.
        """
        rollout = active.rollout
        applied = self._serving.in_force(rollout.model)
        if is_rollout(applied.actor):
            # A change by a concurrent rollout is not an operator's, even if an operator freezes the traffic afterwards.
            rollout = active.rollout = accept_policy(rollout, applied)
        baseline = self._serving.baseline(rollout.model)
        if rollout.state is RolloutState.PENDING and baseline is not None:
            rollout = accept_policy(rollout, applied)
            if baseline != rollout.previous:
                rollout = moved(rollout, previous=baseline)
            active.rollout = rollout
            if baseline == rollout.candidate:
                why = "it is the baseline already"
                active.rollout, entries = overrides.abort(rollout, why, RolloutState.SUPERSEDED, kind="superseded")
                active.entries += entries
        now = self._clock.monotonic()
        seconds = active.elapsed(now, self._exchange.longest_tick)
        oldest = self._rollouts.other_servers.oldest(now)
        await self._exchange.receive(active)
        collected = active.gather(self._presence.name, oldest)
        self.late_counts += collected.late
        facts = self._serving.observe(active, seconds, collected, self._ownership.rivals(rollout.model))
        facts = replace(facts, analysis=self._outside.take(active.rollout))
        active.ticks += await self._threads.run(tick_records, active.rollout, collected, facts.shadow)
        # In a thread, so that requests continue: it takes up to 50 ms if many keys are compared.
        active.rollout, entries = await self._threads.run(machine.advance, active.rollout, facts)
        active.entries += entries
        return await self._commits.advance(active)
