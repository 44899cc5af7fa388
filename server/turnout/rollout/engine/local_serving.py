"""What this server serves and routes, as rollouts see and change it."""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from semver import Version

from turnout.errors import NotFoundError, TurnoutError, VersionNotFound
from turnout.registry.compatibility.compat import refusals
from turnout.registry.manifest.signature import Signature
from turnout.rollout.changes.model_snapshot import ModelSnapshot, answers_with_rollouts
from turnout.rollout.counters import ClosedTick, Place, SlotsInForce
from turnout.rollout.engine.active_rollout import ActiveRollout
from turnout.rollout.engine.exchange.server_ticks import CollectedTicks, ShadowTick
from turnout.rollout.engine.policy_origin import newer_baseline, policy_text, set_by_others
from turnout.rollout.evidence import Count
from turnout.rollout.machine.actors import is_rollout
from turnout.rollout.machine.attempt import STEPPING, Rollout, RolloutState
from turnout.rollout.machine.desired_policy import is_settled
from turnout.rollout.machine.machine import Facts
from turnout.rollout.thresholds import latency_of, recent_buckets, rules_of, thresholds_of
from turnout.routing.active_policies import AppliedPolicy, Policies
from turnout.routing.default_answers import RoutingTable, SelectorPart, answers_of, parts_text, standing_in
from turnout.routing.policy import TWIN, Policy
from turnout.routing.rollback import default_version
from turnout.routing.shadow.lane import Lane
from turnout.routing.shadow.service import Shadows
from turnout.routing.traffic import ChangeOrigin, Traffic
from turnout.serving.data_plane.inference import ServingRole
from turnout.serving.data_plane.replay import Replays
from turnout.serving.versions.catalog import Catalog, VersionEntry
from turnout.serving.versions.lifecycle import LifecycleState
from turnout.serving.versions.load_policy import Fallbacks
from turnout.serving.versions.manager import Manager
from turnout.state.release_status import ReleaseStatus

_NEEDS_THRESHOLDS = (RolloutState.VALIDATING, RolloutState.SHADOWING, *STEPPING)
"""States in which the thresholds of the next step are derived from the baseline's latency."""


@dataclass(eq=False, repr=False)
class LocalServing:
    """What this server serves and routes. Used only on the event loop.

    `signatures`, `refusals`, `model_snapshot` and `answers` raise ModelNotFound if the model does not exist.
    """

    _catalog: Catalog
    _policies: Policies
    _traffic: Traffic
    _shadows: Shadows
    _replays: Replays
    _loader: Manager

    def count(self, active: ActiveRollout, seconds: float, now: float) -> Sequence[ClosedTick]:
        """Ends a rollout's tick on this server, begins the next, and returns the ticks that are closed by now.

        The rollout may be driven elsewhere. The tick had `seconds` active seconds; `now` is the monotonic clock's time.
        """
        rollout = active.rollout
        candidate = self.entry(rollout.model, rollout.candidate)
        previous = self.entry(rollout.model, rollout.previous)
        self._attach(active, candidate, previous, self.in_force(rollout.model), now)
        active.counters.roll(seconds, now, rules_of(rollout), thresholds_of(rollout))
        active.recent = recent_buckets(previous) if rollout.state in _NEEDS_THRESHOLDS else {}
        active.shadow = self._shadowed(active)
        return active.counters.closed(now)

    def observe(self, active: ActiveRollout, seconds: float, collected: CollectedTicks, rivals: int) -> Facts:
        """Returns the present facts about a rollout.

        `seconds` are the active seconds of this tick, `collected` the counts of all servers, and `rivals` the number of
        rollouts of the model that are not queued, including this one.
        """
        rollout = active.rollout
        candidate = self.entry(rollout.model, rollout.candidate)
        previous = self.entry(rollout.model, rollout.previous)
        elsewhere = [part.recent for part in active.elsewhere.values()]
        thresholds, samples, median = latency_of(rollout.plan, previous, elsewhere)
        applied = self.in_force(rollout.model)
        policy = applied.policy
        released = self._released_over(rollout, policy)
        lane = self._lane(rollout)
        withdraws = rollout.released and rollout.state is RolloutState.ABORTING
        still_released = withdraws and self.is_released(rollout.model, rollout.candidate)
        return Facts(
            seconds,
            ticks=collected.ticks,
            taken=collected.taken,
            slots=collected.slots,
            history=active.counters.history if not rollout.history else "",
            shadow=collected.copies,
            incomparable=_obstacle(active),
            uncounted="" if lane is None else lane.ledger.uncounted,
            ready=all(entry is not None and entry.ready for entry in (candidate, previous)),
            trouble=_trouble(candidate),
            in_force=is_settled(rollout, policy) and not still_released,
            frozen=applied.state.frozen,
            rivals=rivals,
            overtaken=released or newer_baseline(rollout, applied),
            overtaken_by="a release" if released is not None else "another rollout",
            traffic=self._plain_text(rollout, policy),
            other=set_by_others(rollout, applied),
            refused=active.refused,
            thresholds=thresholds,
            samples=samples,
            shortest_timeout=median,
        )

    def entry(self, model: str, version: Version) -> VersionEntry | None:
        """Returns the catalog's entry of a version; None if it does not exist."""
        return self._catalog.snapshot.version(model, version)

    def in_force(self, model: str) -> AppliedPolicy:
        """Returns a model's policy in force; `NEVER_SET` if there is none."""
        return self._policies.of(model)

    def baseline(self, model: str, without: Collection[Version] = ()) -> Version | None:
        """Returns the version that answers the empty selector now, if those in `without` are not released."""
        if (policy := self.in_force(model).policy) is not None:
            return policy.baseline
        ready = self._catalog.snapshot.statuses(model, ready=True)
        return default_version({version: status for version, status in ready.items() if version not in without})

    def is_ready(self, model: str, version: Version) -> bool:
        """Returns whether a version can answer."""
        entry = self.entry(model, version)
        return entry is not None and entry.ready

    def is_released(self, model: str, version: Version) -> bool:
        """Returns whether a version is released."""
        entry = self.entry(model, version)
        return entry is not None and entry.release_status is ReleaseStatus.RELEASED

    def load_failure(self, model: str, version: Version) -> str:
        """Returns why a version could not be loaded, as a sentence; "" if it has not failed."""
        entry = self.entry(model, version)
        if entry is None or entry.state is not LifecycleState.FAILED:
            return ""
        return f"it could not be loaded ({entry.reason or 'no reason is known'})"

    def signatures(self, model: str) -> Mapping[Version, Signature]:
        """Returns the signatures of a model's versions."""
        known = self._catalog.snapshot.model(model).versions
        return {version: entry.manifest.signature for version, entry in known.items()}

    async def refusals(self, model: str, candidate: Version) -> list[str]:
        """Returns the reasons why a candidate cannot be rolled out, as sentences, regardless of other rollouts.

        If there are any, the repository and the state store are read first: the candidate may just have been published,
        or a version released, by another process.

        Raises:
            NotFoundError: The version does not exist.
        """
        with contextlib.suppress(NotFoundError):
            if not self._known_refusals(model, candidate):
                return []
        with contextlib.suppress(TurnoutError, OSError):  # then what is known here decides
            await self._traffic.refresh()
            await self._loader.finder.look()
        return self._known_refusals(model, candidate)

    def _known_refusals(self, model: str, candidate: Version) -> list[str]:
        known = self._catalog.snapshot.model(model)
        entry = known.versions.get(candidate)
        if entry is None:
            raise VersionNotFound.of(model, str(candidate), [str(version) for version in known.versions])
        previous = self.baseline(model)
        if previous is None:
            return [f"{model} has no version that answers now, so there is nothing to compare with"]
        if previous == candidate:
            return [f"{candidate} is the baseline of {model} already"]
        if entry.release_status is ReleaseStatus.YANKED:
            return [f"{candidate} was yanked"]
        if reasons := refusals(known.versions[previous].manifest.signature, entry.manifest.signature):
            return [f"{candidate} does not fit the baseline's clients: {', '.join(reasons)}"]
        return []

    def answers(self, model: str, running: Sequence[Rollout]) -> RoutingTable:
        """Returns the versions that answer each selector of a model now, with the canaries of rollouts in `running`."""
        known = self._catalog.snapshot.model(model)
        applied = self.in_force(model)
        policy, stand_in = applied.policy, applied.stand_in
        statuses = self._catalog.snapshot.statuses(model)
        if (diverted := self._policies.diverted.get(model)) is not None:
            policy = Policy(diverted)
            statuses |= dict.fromkeys(self._policies.withdrawn[model], ReleaseStatus.CANDIDATE)
        found = answers_with_rollouts(policy, statuses, running)
        ready = {v: s for v, s in statuses.items() if known.versions[v].ready}
        idle = (LifecycleState.NEW, LifecycleState.UNLOADED)
        states = {v: "not loaded" if e.state in idle else str(e.state) for v, e in known.versions.items()}
        found = replace(found, notes=standing_in(found, answers_with_rollouts(policy, ready, running), states))
        entry = self.entry(model, policy.baseline) if policy is not None else None
        if stand_in is None or entry is None or entry.ready:
            return found
        note = f"{stand_in} answers in place of {entry.version_text} until that is ready here ({entry.state})"
        return replace(found, notes=(note, *found.notes))

    async def apply(self, model: str, policy: Policy, change: ChangeOrigin) -> None:
        """Puts a policy into force, with its release statuses. Raises as `Traffic.put`."""
        await self._traffic.put(model, policy, change)
        if change.statuses:
            await self._loader.refresh()

    async def redraw_twin(self, model: str, change: ChangeOrigin) -> None:
        """Gives the twin other slots if its own carry too little traffic. Raises as `apply`."""
        await self._traffic.redraw_twin(model, change)

    async def follow(self, *, traffic: bool = True, files_within: float | None = None) -> None:
        """Applies recorded releases and, if `traffic`, recorded policies. `files_within` is as for `Manager.refresh`.

        Raises:
            UnavailableError: The state store does not respond.
        """
        if traffic:
            await self._traffic.refresh()
        await self._loader.refresh(files_within)

    def describe(self) -> Mapping[str, Any]:
        """Returns this server's report about itself: versions that are ready, epochs in force, diversions."""
        versions = {
            name: [entry.version_text for entry in known.versions.values() if entry.ready]
            for name, known in self._catalog.snapshot.models.items()
        }
        epochs = {name: applied.epoch for name, applied in self._policies.current.items()}
        diverted = {name: str(to) for name, to in self._policies.diverted.items()}
        return {"versions": versions, "epochs": epochs, "diverted": diverted}

    def load(self) -> None:
        """Starts to load the versions that rollouts newly need."""
        self._loader.reconcile()

    def divert(self, model: str, to: Version, withdrawn: Collection[Version]) -> None:
        """Makes `to` answer in place of the policy, and `withdrawn` count as not released; only in memory."""
        self._policies.divert(model, to, withdrawn)

    def undivert(self, model: str) -> None:
        """Ends a diversion, so that the policy decides again."""
        self._policies.undivert(model)

    def model_snapshot(self, model: str, running: Sequence[Rollout]) -> ModelSnapshot:
        """Returns the state of a model as far as this server knows, without reading the state store."""
        signatures, applied = self.signatures(model), self.in_force(model)
        statuses = self._catalog.snapshot.statuses(model)
        present = default_version(statuses) if applied.policy is None else applied.policy.baseline
        before = self._policies.fallbacks.get(model, Fallbacks()).nearest
        return ModelSnapshot(
            model, signatures, statuses, applied.state,
            tuple(running), (), tuple(v for v in (before, present) if v is not None),
            lambda version: "" if self.is_ready(model, version) else "it is not ready here",
            applied.actor,
        )  # fmt: skip

    def _released_over(self, rollout: Rollout, policy: Policy | None) -> Version | None:
        """Returns a version that was released over the previous one, if that answered plain requests without a policy.

        Whether it is ready does not matter, since a released version answers as soon as it is ready.
        """
        if policy is not None or rollout.routed != policy_text(None):
            return None
        default = default_version(self._catalog.snapshot.statuses(rollout.model))
        return default if default is not None and default > rollout.previous else None

    def _plain_text(self, rollout: Rollout, policy: Policy | None) -> str:
        """Describes which versions answer plain requests; "" if only the previous version does."""
        parts = answers_of(policy, self._catalog.snapshot.statuses(rollout.model)).plain
        return "" if parts == (SelectorPart(rollout.previous),) else parts_text(parts)

    def _attach(
        self,
        active: ActiveRollout,
        candidate: VersionEntry | None,
        previous: VersionEntry | None,
        applied: AppliedPolicy,
        now: float,
    ) -> None:
        new, old = (entry.handle if entry is not None else None for entry in (candidate, previous))
        if new is None or old is None:
            active.counters.detach()
            return
        rollout, counters = active.rollout, active.counters
        twin = TWIN if rollout.plan.twin else ""
        plain = twin or str(ServingRole.BASELINE)
        rest: Place | None = ((new if rollout.promoted else old).arms, str(ServingRole.BASELINE)) if twin else None
        owners = applied.owners if applied.epoch else None
        if rollout.promoted:
            places: tuple[Place, Place] = (new.arms, plain), (old.arms, str(ServingRole.CANARY))
            slots = SlotsInForce(owners, twin, str(rollout.previous), ("", TWIN))
        else:
            places = (new.arms, str(ServingRole.CANARY)), (old.arms, plain)
            slots = SlotsInForce(owners, str(rollout.candidate), twin, (str(rollout.candidate),))
        for handle in (new, old):
            handle.history.fold(now)
        counters.attach(*places, self._replays.on(old), rest, rest_meets_candidate=rollout.promoted)
        began = rollout.state in STEPPING or rollout.promoted
        counters.watch(slots, old.history, thresholds_of(rollout), began=began)

    def _lane(self, rollout: Rollout) -> Lane | None:
        """Returns the lane of a rollout's copies; None if it is not in the shadow stage."""
        if rollout.state is not RolloutState.SHADOWING:
            return None
        candidate = str(rollout.candidate)
        return next((one for one in self._shadows.of(rollout.model) if one.pair.shadow == candidate), None)

    def _shadowed(self, active: ActiveRollout) -> ShadowTick:
        """Returns the copies judged here that are in no part yet, and why copies cannot be compared on this server."""
        rollout = active.rollout
        lane, copies = self._lane(rollout), active.shadow.copies
        if rollout.plan.shadow is None or lane is None:
            return ShadowTick(copies)
        ledger, allowed = lane.ledger, 1.0 - rollout.plan.shadow.agreement
        if lane.closed and active.given_up_at not in (None, rollout.epoch) and not rollout.pauses:
            lane.reopen()  # it was paused for that, and an operator has resumed it
        obstacle = ledger.incomparable
        if not lane.closed or lane.ended:
            active.given_up_at = None
        else:
            active.given_up_at = rollout.epoch
            obstacle = f"{rollout.candidate} takes no more copies ({lane.closed}); to resume is to try again"
        applied = self.in_force(rollout.model)
        # The policy may be known here before the driver's record of its epoch.
        since = max(rollout.policy_epoch, applied.epoch if is_rollout(applied.actor) else 0)
        in_force = is_settled(rollout, applied.policy)
        fresh = [s for s in ledger.samples if s.number > active.sample and s.epoch >= since]
        if in_force and fresh and ledger.judged:
            active.sample = fresh[-1].number
            copies = copies.plus(Count(len(fresh), sum(ledger.bad(s, allowed) for s in fresh)))
        return ShadowTick(copies, obstacle, rollout.epoch)


def _obstacle(active: ActiveRollout) -> str:
    """Returns why copies cannot be compared on this server, or on another that knows the rollout as it is."""
    for name, part in sorted(active.elsewhere.items()):
        if part.shadow.obstacle and part.shadow.epoch == active.rollout.epoch and not active.shadow.obstacle:
            return f"{part.shadow.obstacle} (on {name})"
    return active.shadow.obstacle


def _trouble(candidate: VersionEntry | None) -> str:
    if candidate is None:
        return "it is no longer published"
    if candidate.state is LifecycleState.FAILED:
        return candidate.reason or "it could not be loaded"
    return ""
