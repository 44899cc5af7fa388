"""A rollout that a server drives, and what it sees when it looks: the world made into the facts of one tick."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from semver import Version

from turnout.registry.standing import Standing
from turnout.rollout.actors import is_rollout, rollout_actor
from turnout.rollout.attempt import STEPPING, Entry, Rollout, RolloutState
from turnout.rollout.clock import Clock
from turnout.rollout.counters import Counted, Counters, Place, SlotsInForce
from turnout.rollout.evidence import SLO, STALLED, Count
from turnout.rollout.machine import Facts
from turnout.rollout.plan import Plan
from turnout.rollout.wishes import wished
from turnout.routing.answers import Part, answers_of, parts_text
from turnout.routing.applied import AppliedPolicy, Policies
from turnout.routing.policy import TWIN, Policy
from turnout.routing.rollback import default_version
from turnout.routing.shadow.ledger import Outcome
from turnout.routing.shadow.service import Shadows
from turnout.serving.arms import Rules
from turnout.serving.catalog import Catalog, VersionEntry
from turnout.serving.handle import VersionHandle
from turnout.serving.inference import Role
from turnout.serving.lifecycle import LifecycleState
from turnout.serving.replay import Replays

QUANTILES = {"p90": 0.90, "p95": 0.95, "p99": 0.99}
"""What the latency metrics' thresholds are of the baseline's own latency."""

_STALL_FACTOR = 10.0

_LATE_TICKS = 3
"""A look that comes later than so many ticks counts as that many: a server that stood still made no progress."""


@dataclass(slots=True, eq=False)
class Driven:
    """A rollout that this server drives.

    Attributes:
        rollout: As it stands.
        number: Of the state store's last write.
        counters: Its counts.
        looked: When the last tick was, by the monotonic clock.
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

    def note(self, counted: Sequence[Counted], shadow: Count) -> None:
        """Has what a tick counted recorded with the next write, so that the evidence can be computed again from it."""
        where = {"state": str(self.rollout.state), "weight": self.rollout.canary_weight}
        for one in counted:
            latency = {"canary": _texts(one.canary_latency), "baseline": _texts(one.baseline_latency)}
            self.ticks.append({**one.tick.to_json(), **where, "latency": latency})
        if shadow.requests:
            self.ticks.append({"shadow": [shadow.requests, shadow.bad], **where})


class Observer:
    """Looks at what is served and routed. Used on the event loop only."""

    def __init__(
        self,
        catalog: Catalog,
        policies: Policies,
        shadows: Shadows,
        replays: Replays,
        tick_seconds: float,
        clock: Clock,
    ) -> None:
        self._catalog = catalog
        self._policies = policies
        self._shadows = shadows
        self._replays = replays
        self._tick_seconds = tick_seconds
        self._clock = clock

    def driven(self, rollout: Rollout, number: int) -> Driven:
        """Returns a rollout that is driven from now on."""
        return Driven(rollout, number, Counters(_rules(rollout), history=rollout.history), self._clock.monotonic())

    def facts(self, driven: Driven, rivals: int) -> tuple[Facts, Sequence[Counted]]:
        """Returns what is so now, and begins the next tick's counts.

        Args:
            driven: The rollout.
            rivals: Rollouts of its model that run, itself among them.
        """
        rollout, now = driven.rollout, self._clock.monotonic()
        seconds = min(now - driven.looked, _LATE_TICKS * self._tick_seconds)
        driven.looked = now
        candidate = self.entry(rollout.model, rollout.candidate)
        previous = self.entry(rollout.model, rollout.previous)
        thresholds, samples, patience = latency_of(rollout.plan, previous)
        applied, policy = self.applied(rollout.model)
        self._attach(driven, candidate, previous, applied, now)
        driven.counters.roll(seconds, now, _rules(rollout), _thresholds(rollout))
        counted = driven.counters.closed(now)
        wish = wished(rollout, policy)
        released = self._released_over(rollout, policy)
        facts = Facts(
            seconds,
            ticks=[one.tick for one in counted],
            slots=driven.counters.slot_records,
            history=driven.counters.history if not rollout.history else "",
            shadow=self._shadowed(driven),
            ready=all(entry is not None and entry.state is LifecycleState.READY for entry in (candidate, previous)),
            trouble=_trouble(candidate),
            in_force=(wish is None or wish == policy) and not _still_released(rollout, candidate),
            frozen=applied is not None and applied.state.frozen,
            rivals=rivals,
            overtaken=released or _overtaken(rollout, applied),
            overtaken_by="a release" if released is not None else "another rollout",
            traffic=self._plain_text(rollout, policy),
            other=stranger(rollout, applied),
            refused=driven.refused,
            thresholds=thresholds,
            samples=samples,
            patience=patience,
        )
        return facts, counted

    def entry(self, model: str, version: Version) -> VersionEntry | None:
        """Returns a version as the catalog has it; None where it is not there."""
        known = self._catalog.snapshot.models.get(model)
        return known.versions.get(version) if known is not None else None

    def applied(self, model: str) -> tuple[AppliedPolicy | None, Policy | None]:
        """Returns what is in force for a model, and its policy."""
        applied = self._policies.current.get(model)
        return applied, applied.state.policy if applied is not None else None

    def baseline(self, model: str) -> Version | None:
        """Returns the version that answers the empty selector now; None where none does."""
        _, policy = self.applied(model)
        if policy is not None:
            return policy.baseline
        known = self._catalog.snapshot.models.get(model)
        if known is None:
            return None
        fit = [v for v, e in known.versions.items() if e.state is LifecycleState.READY and e.standing == "released"]
        return max((v for v in fit if not v.prerelease), default=None)

    def _released_over(self, rollout: Rollout, policy: Policy | None) -> Version | None:
        """Returns what was released over the version before, which answered plain requests for want of a policy.

        Whether that is ready plays no part: what is released answers as soon as it is.
        """
        known = self._catalog.snapshot.models.get(rollout.model)
        if policy is not None or rollout.routed != routed_text(None) or known is None:
            return None
        default = default_version({v: entry.standing for v, entry in known.versions.items()})
        return default if default is not None and default > rollout.previous else None

    def _plain_text(self, rollout: Rollout, policy: Policy | None) -> str:
        """Returns who answers plain requests, in words; "" where the version before does, and nobody else."""
        known = self._catalog.snapshot.models.get(rollout.model)
        statuses = {v: entry.standing for v, entry in known.versions.items()} if known is not None else {}
        parts = answers_of(policy, statuses).plain
        return "" if parts == (Part(rollout.previous),) else parts_text(parts)

    def _attach(
        self,
        driven: Driven,
        candidate: VersionEntry | None,
        previous: VersionEntry | None,
        applied: AppliedPolicy | None,
        now: float,
    ) -> None:
        new, old = _handle(candidate), _handle(previous)
        if new is None or old is None:
            driven.counters.detach()
            return
        rollout = driven.rollout
        twin = TWIN if rollout.plan.twin else ""
        plain = twin or str(Role.BASELINE)
        rest: Place | None = ((new if rollout.promoted else old).arms, str(Role.BASELINE)) if twin else None
        owners = applied.owners if applied is not None else None
        for handle in (new, old):
            handle.history.fold(now)
        if rollout.promoted:
            places: tuple[Place, Place] = (new.arms, plain), (old.arms, str(Role.CANARY))
            slots = SlotsInForce(owners, twin, str(rollout.previous), ("", TWIN))
        else:
            places = (new.arms, str(Role.CANARY)), (old.arms, plain)
            slots = SlotsInForce(owners, str(rollout.candidate), twin, (str(rollout.candidate),))
        driven.counters.attach(*places, self._replays.on(old), rest, rest_meets_candidate=rollout.promoted)
        began = rollout.state in STEPPING or rollout.promoted
        driven.counters.watch(slots, old.history, _thresholds(rollout), began=began)

    def _shadowed(self, driven: Driven) -> Count:
        """Returns the copies that were compared since the last look, and those that disagreed or failed."""
        rollout = driven.rollout
        if rollout.plan.shadow is None or rollout.state is not RolloutState.SHADOWING:
            return Count()
        for lane in self._shadows.of(rollout.model):
            if lane.pair.shadow == str(rollout.candidate):
                fresh = [s for s in lane.ledger.samples if s.number > driven.sample and s.epoch >= rollout.policy_epoch]
                if fresh:
                    driven.sample = fresh[-1].number
                return Count(len(fresh), sum(s.outcome is not Outcome.AGREED for s in fresh))
        return Count()


def latency_of(plan: Plan, entry: VersionEntry | None) -> tuple[Mapping[str, float] | None, int, float]:
    """Returns a baseline's own latency: quantiles by metric (None: too few requests), requests seen, and the median.

    Seconds; of the latest 4,096 requests that it answered as a baseline.
    """
    handle = _handle(entry)
    if handle is None:
        return None, 0, 0.0
    recent = handle.recorder.role(str(Role.BASELINE)).recent
    if len(recent) < max(plan.threshold_samples, 2):
        return None, len(recent), 0.0
    seen = np.fromiter(recent, np.float64, len(recent))
    found = {name: threshold(name, seen) for name in plan.thresholded}
    return found, len(recent), float(np.quantile(seen, 0.5))


def threshold(metric: str, latencies: NDArray[np.float64]) -> float:
    """Returns the threshold of a latency metric, seconds, by a baseline's own latencies.

    A stall is slower than ten times the p99: where a candidate that hangs takes the baseline's cores as well, most
    requests of both pass the quantiles, and the shares that pass tell no difference any more.
    """
    if metric == STALLED:
        return _STALL_FACTOR * float(np.quantile(latencies, QUANTILES["p99"]))
    return float(np.quantile(latencies, QUANTILES[metric]))


def routed_text(policy: Policy | None) -> str:
    """Returns a policy as text, for comparison."""
    return "" if policy is None else json.dumps(policy.to_json(), sort_keys=True)


def _handle(entry: VersionEntry | None) -> VersionHandle | None:
    return entry.handle if entry is not None else None


def _trouble(candidate: VersionEntry | None) -> str:
    if candidate is None:
        return "it is not published any more"
    if candidate.state is LifecycleState.FAILED:
        return candidate.reason or "it could not be loaded"
    return ""


def _still_released(rollout: Rollout, candidate: VersionEntry | None) -> bool:
    """Tells whether a candidate that is taken back still has the release that the rollout gave it."""
    if rollout.state is not RolloutState.ABORTING or not rollout.released or candidate is None:
        return False
    return candidate.standing is Standing.RELEASED


def _overtaken(rollout: Rollout, applied: AppliedPolicy | None) -> Version | None:
    """Returns the baseline that another rollout brought since this one began."""
    policy = applied.state.policy if applied is not None else None
    if applied is None or policy is None or policy.baseline in (rollout.previous, rollout.candidate):
        return None
    return policy.baseline if by_rollout(applied) and applied.actor != rollout_actor(rollout.attempt) else None


def by_rollout(applied: AppliedPolicy | None) -> bool:
    """Tells whether a rollout, and nobody else, put the policy in force."""
    return applied is not None and is_rollout(applied.actor)


def stranger(rollout: Rollout, applied: AppliedPolicy | None) -> str:
    """Returns who else set the policy in force since the rollout did; "" where nobody did."""
    policy = applied.state.policy if applied is not None else None
    if applied is None or routed_text(policy) == rollout.routed or by_rollout(applied):
        return ""
    return f"epoch {applied.epoch}, by {applied.actor or 'nobody named'}: {applied.reason or applied.action}"


def _thresholds(rollout: Rollout) -> dict[str, float]:
    """Returns the thresholds by metric, the objective's too, seconds."""
    own = dict(rollout.thresholds)
    if rollout.plan.slo_ms is not None:
        own[SLO] = rollout.plan.slo_ms / 1e3
    return own


def _rules(rollout: Rollout) -> Rules:
    plan = rollout.plan
    thresholds = tuple(sorted(_thresholds(rollout).values()))
    return Rules(thresholds, rollout.patience, plan.warm_requests, rollout.thresholds.get(STALLED, math.inf))


def _texts(buckets: Mapping[int, int]) -> dict[str, int]:
    return {str(bucket): count for bucket, count in sorted(buckets.items())}
