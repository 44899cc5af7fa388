"""Operators' commands on rollouts. Each is made while no tick runs, and is recorded before it is answered."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from semver import Version

from turnout.errors import AlreadyExistsError, ChangeRefused, Conflict, NotFoundError, TurnoutError, UnavailableError
from turnout.rollout.analysis.analyses import Analyses
from turnout.rollout.changes.operations import ChangeResult, refuse_stale
from turnout.rollout.engine.commits import RolloutCommits
from turnout.rollout.engine.local_serving import LocalServing
from turnout.rollout.engine.policy_origin import accept_policy, refuse_newer, refuse_other_baseline, stopped_by_traffic
from turnout.rollout.engine.running_rollouts import RunningRollouts
from turnout.rollout.engine.store_timeouts import StoreTimeout, seconds_until
from turnout.rollout.machine import overrides
from turnout.rollout.machine.attempt import Moved, Rollout, RolloutHistoryEntry, RolloutState
from turnout.rollout.machine.records import recorded
from turnout.rollout.plan import Plan
from turnout.state.rollouts import RolloutRecord
from turnout.state.store import StateStore

_COMMAND_WAIT = 3.0
"""Seconds that a command waits for the state store. No tick runs meanwhile."""

_COMMAND_PAUSE = 0.01
"""Seconds after which a command is retried if the server that drives the rollout wrote in between."""


@dataclass(eq=False, repr=False)
class RolloutCommands:
    """Starts rollouts, and applies operators' decisions to them. Used only on the event loop.

    Every method raises UnavailableError while the state store does not respond.
    """

    _serving: LocalServing
    _store: StateStore
    _outside: Analyses
    _rollouts: RunningRollouts
    _commits: RolloutCommits
    _store_timeout: StoreTimeout

    async def start(self, model: str, candidate: Version, plan: Plan, actor: str, reason: str) -> Rollout:
        """Starts a rollout. If one of the same candidate with the same plan is running, returns that, unless the plan
        says what to do about it: a job that lost the answer, or runs again, starts nothing twice.

        Raises:
            InvalidRequest: The plan names a probe that is not configured.
            ModelNotFound, NotFoundError: The model or version does not exist.
            AlreadyExistsError: The candidate is the baseline already.
            ChangeRefused: `LocalServing.refusals` gives another reason, another rollout is running, or a version was
                just yanked.
        """
        self._outside.check(plan)
        refusals = list(await self._rollouts.refusals(model, candidate, _COMMAND_WAIT))
        async with self._rollouts.exclusive():
            previous = self._serving.baseline(model)
            until = asyncio.get_running_loop().time() + _COMMAND_WAIT
            mine = model if plan.on_newer == "replace" else None
            await self._rollouts.reconcile(_COMMAND_WAIT, mine=mine, patient=True)
            records = await self._rollouts.records(model, seconds_until(until))
            running = [record for record in records if not record.final]
            same = [rollout for rollout in map(recorded, running) if rollout.candidate == candidate]
            for rollout in same:
                if rollout.plan == plan and plan.on_newer == "refuse" and rollout.state is not RolloutState.ABORTING:
                    return rollout
            if refusals:
                watched = same if previous == candidate else []
                refusals += [f"attempt {one.attempt} may still take it back ({one.state})" for one in watched]
                raise (ChangeRefused if watched or previous != candidate else AlreadyExistsError)("; ".join(refusals))
            assert previous is not None
            for record in running:
                await self._make_way(record, plan, candidate, until)
            attempt = max((record.attempt for record in records), default=0) + 1
            rollout = Rollout.start(model, candidate, previous, attempt, plan, actor, reason)
            released = self._serving.is_released(model, candidate)
            rollout = replace(accept_policy(rollout, self._serving.in_force(model)), was_released=released)
            entry = RolloutHistoryEntry("start", reason or f"{candidate} is rolled out over {previous}", actor)
            active = await self._commits.begin(rollout, entry, until)
            self._serving.load()
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

        `decide` returns the rollout's next state. `expected_epoch` is the epoch that the operator's decision was based
        on, None for any; `attempt` is 0 for the running one. To `resume` accepts the present policy as the rollout's
        own.

        Raises:
            NotFoundError: The model has no such running rollout.
            Conflict: The rollout has changed since the operator's decision.
            ChangeRefused: The command is not possible now, or several rollouts are running and none was named.
        """
        loop, ownership = asyncio.get_running_loop(), self._rollouts.ownership
        until = loop.time() + _COMMAND_WAIT  # a driver writes at each tick, and a write may take as long as a tick
        refused: Rollout | None = None  # what could not be recorded, since another server had written in between
        while True:
            async with self._rollouts.exclusive():
                try:
                    await self._rollouts.reconcile(_COMMAND_WAIT, mine=model)
                    # Another server may have changed the policy.
                    await self._rollouts.followed(seconds_until(until), patient=True)
                except UnavailableError:
                    ownership.take(model)  # in the state known here: a rollback does not wait for the store
                    if not ownership.of(model):
                        await self._rollouts.reconcile(seconds_until(until), mine=model, patient=True)
                try:
                    active = ownership.named(model, attempt)
                except NotFoundError:
                    if refused is not None and (ended := await self._ended(refused, until)) is not None:
                        return ended
                    raise
                before = active.rollout
                refuse_stale(before.candidate, before.epoch, str(before.state), expected_epoch)
                applied = self._serving.in_force(model)
                after, entries = decide(accept_policy(before, applied) if resume else before)
                refuse_other_baseline(before, after, applied, self._serving.baseline(model))
                if stopped_by_traffic(before) and not stopped_by_traffic(after):
                    after = accept_policy(after, applied)  # resuming accepts the change that paused the rollout
                try:
                    await self._commits.decide(active, after, entries, until)
                except Conflict:  # the driver wrote a tick in between, which is no decision
                    refused = after
                    ownership.lose(before)
                    if loop.time() > until:
                        raise
                else:
                    return active.rollout
            await asyncio.sleep(_COMMAND_PAUSE)

    async def _ended(self, wanted: Rollout, until: float) -> Rollout | None:
        """Returns the recorded rollout if it has ended as it should, although another server has ended it.

        That may be for the same reason: a server on this machine takes up a rollback that is in force and not recorded.
        """
        records = await self._rollouts.records(wanted.model, seconds_until(until))
        for record in records:
            if record.attempt == wanted.attempt and record.final and wanted.state is RolloutState.ABORTING:
                ended = recorded(record)
                return ended if ended.state is wanted.end else None
        return None

    async def operate(self, operation: Callable[[], ChangeResult], seconds: float = _COMMAND_WAIT) -> ChangeResult:
        """Makes a blocking change in the state store while no tick runs here, and applies it on this server.

        If `seconds` are fewer than for a command, the change is refused while earlier work is still running.

        Raises:
            TurnoutError: As `operation`.
        """

        async def operate() -> ChangeResult:
            done = await self._store.in_thread(operation)
            try:
                found = await self._store.in_thread(self._store.running_rollouts, self._rollouts.ownership.driver)
                await self._serving.follow(files_within=seconds / 2)
            except (TurnoutError, OSError) as error:  # the change is recorded; ticks and `follow` apply it later
                self._commits.ended(done.endings, fresh=False)
                why = error.message if isinstance(error, TurnoutError) else error.strerror or type(error).__name__
                return replace(done, sentence=f"{done.sentence}; this server does not follow it yet: {why}")
            self._rollouts.update(*found)
            self._commits.ended(done.endings, fresh=True)
            return done

        async with self._rollouts.exclusive():
            return await self._store_timeout.wait(operate(), seconds, patient=seconds >= _COMMAND_WAIT)

    async def _make_way(self, record: RolloutRecord, plan: Plan, candidate: Version, until: float) -> None:
        """Ends a running rollout when another is started, or refuses that, as the new one's plan says."""
        refuse_newer(recorded(record), plan, candidate)
        active = self._rollouts.ownership.find(record.model, record.attempt)
        if plan.on_newer == "replace" and active is not None:
            why = f"{candidate} is rolled out in its place"
            moved_on = overrides.abort(active.rollout, why, RolloutState.SUPERSEDED, kind="superseded")
            await self._commits.decide(active, *moved_on, until)
