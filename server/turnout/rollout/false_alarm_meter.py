"""The false-alarm meter: a rollout of the baseline against itself, while nothing else is rolled out.

Two lanes of the baseline get equal shares of its requests, and are compared exactly as a canary and its twin would be.
Every rollback that results is a false alarm. An attempt ends with a false alarm, after a plan's maximum duration, or if
another version becomes the baseline; then the next one begins. The guarantee is a false alarm in at most a share alpha
of the attempts.
"""

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from structlog.typing import FilteringBoundLogger

from turnout.rollout.counters import Counters, SlotsInForce
from turnout.rollout.engine.local_serving import LocalServing
from turnout.rollout.evidence import ERRORS, STALLED, Evidence
from turnout.rollout.plan import Plan
from turnout.rollout.thresholds import latency_of
from turnout.routing.active_policies import Policies
from turnout.routing.policy import CONTROL, TWIN
from turnout.routing.slots import ORDER_BYTES, SLOTS, Owners, SlotTable
from turnout.serving.counting.tick_counts import Rules
from turnout.serving.versions.catalog import Catalog, VersionEntry
from turnout.telemetry.metrics.rollout import MeterSample

_PLAN = Plan()


@dataclass(slots=True, eq=False)
class _MeterAttempt:
    version: str
    evidence: Evidence
    counters: Counters
    rules: Rules
    thresholds: dict[str, float]
    seconds: float = 0.0


@dataclass(slots=True)
class _Tally:
    alarms: int = 0
    attempts: int = 0
    attempt: _MeterAttempt | None = None
    looked: float = 0.0


@dataclass(eq=False, repr=False)
class FalseAlarmMeters:
    """The meters of one server, which count nothing before the first `tick`. Used on the event loop only.

    `share_of` returns the share of each lane of a model's baseline; 0 for no meter.
    """

    _share_of: Callable[[str], float]
    _catalog: Catalog
    _policies: Policies
    _serving: LocalServing
    _log: FilteringBoundLogger
    _tallies: dict[str, _Tally] = field(init=False, default_factory=dict)

    @property
    def samples(self) -> list[MeterSample]:
        """The current state of all meters."""
        return [_sampled(model, tally) for model, tally in self._tallies.items()]

    def tick(self, now: float) -> None:
        """Updates the meter of every model that has one. `now` is the time of the monotonic clock in seconds."""
        for model in self._catalog.snapshot.models:
            share = self._share_of(model)
            if not share:
                continue
            tally = self._tallies.get(model)
            if tally is None:
                tally = self._tallies[model] = _Tally(looked=now)
                slots = max(round(share * SLOTS), 1)
                table = SlotTable(order=secrets.token_bytes(ORDER_BYTES)).arranged({TWIN: slots, CONTROL: slots})
                self._policies.meter(model, Owners.of(table))
            self._look(model, tally, now)

    def _look(self, model: str, tally: _Tally, now: float) -> None:
        seconds, tally.looked = now - tally.looked, now
        version = self._serving.baseline(model)
        entry = self._serving.entry(model, version) if version is not None else None
        attempt = tally.attempt
        if attempt is not None and (entry is None or entry.handle is None or attempt.version != entry.version_text):
            attempt.counters.detach()
            attempt = tally.attempt = None
        if entry is None or entry.handle is None:
            return
        if attempt is None:
            tally.attempt = self._begun(entry)
            tally.attempts += tally.attempt is not None
            return
        attempt.seconds += seconds
        attempt.counters.attach((entry.handle.arms, CONTROL), (entry.handle.arms, TWIN))
        slots = SlotsInForce(self._policies.meters.get(model), CONTROL, TWIN, ())
        entry.handle.history.fold(now)
        attempt.counters.watch(slots, entry.handle.history, attempt.thresholds, began=attempt.seconds > seconds)
        attempt.counters.roll(seconds, now, attempt.rules, attempt.thresholds)
        for counted in attempt.counters.closed(now):
            attempt.evidence = attempt.evidence.taken(counted.tick)
        if attempt.evidence.worse(_PLAN.alpha):
            tally.alarms += 1
            self._log.warning(
                "a false alarm: the baseline looked worse than itself",
                model=model, version=attempt.version, e_value=attempt.evidence.combined, attempts=tally.attempts,
            )  # fmt: skip
        if attempt.evidence.worse(_PLAN.alpha) or attempt.seconds > _PLAN.max_duration_s:
            attempt.counters.detach()
            tally.attempt = None

    def _begun(self, entry: VersionEntry) -> _MeterAttempt | None:
        """Returns a new attempt; None while too little is known about the baseline's latency."""
        thresholds, _, median = latency_of(_PLAN, entry)
        if thresholds is None or entry.handle is None:
            return None
        stalled = thresholds.get(STALLED, math.inf)
        rules = Rules(tuple(sorted(thresholds.values())), median, _PLAN.warm_requests, stalled)
        evidence = Evidence.start(_PLAN.evidence_metrics, _PLAN.max_duration_s)
        return _MeterAttempt(entry.version_text, evidence, Counters(rules), rules, dict(thresholds))


def _sampled(model: str, tally: _Tally) -> MeterSample:
    if (attempt := tally.attempt) is None:
        return MeterSample({"model": model}, tally.alarms, tally.attempts, {"": 0.0}, {})
    errors = attempt.evidence.accumulators[ERRORS]
    requests = {(attempt.version, CONTROL): errors.canary.requests, (attempt.version, TWIN): errors.baseline.requests}
    e_value = {attempt.version: attempt.evidence.combined}
    return MeterSample({"model": model}, tally.alarms, tally.attempts, e_value, requests)
