"""Previews a rollout with a model's present traffic. Changes nothing."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from semver import Version

from turnout.rollout.engine.adapters.local_serving import LocalServing
from turnout.rollout.evidence import GROUPS
from turnout.rollout.plan import Plan
from turnout.rollout.power import LEAST_ERROR_RATE, SLOWDOWN, Detection, TrafficEstimate, detections, missed
from turnout.rollout.thresholds import threshold
from turnout.serving.counting.tick_counts import SERVER_FAULTS
from turnout.serving.data_plane.inference import ServingRole
from turnout.serving.versions.catalog import Catalog, VersionEntry

_WINDOW_SECONDS = 60.0
_LEAST_LATENCIES = 20


@dataclass(frozen=True, slots=True)
class Preview:
    """What a rollout would do.

    Attributes:
        previous: Version that the candidate would be compared with; None if there is none.
        refusals: Reasons why the rollout would be refused now, as sentences.
        power: By step, the effects that it can detect.
        missed: Effects that the whole plan would miss, as sentences.
    """

    previous: Version | None
    refusals: list[str]
    traffic: TrafficEstimate
    power: list[list[Detection]]
    missed: list[str]


class Previews:
    """Measures each model's traffic, and previews rollouts. Used only on the event loop."""

    def __init__(self, catalog: Catalog, serving: LocalServing) -> None:
        self._catalog = catalog
        self._serving = serving
        self._seen: dict[str, deque[tuple[float, int]]] = {}

    def tick(self, now: float) -> None:
        """Records the number of unpinned requests of each model so far. `now` is the monotonic clock in seconds."""
        for name, known in self._catalog.snapshot.models.items():
            seen = self._seen.setdefault(name, deque())
            seen.append((now, sum(_unpinned(entry) for entry in known.versions.values())))
            while len(seen) > 2 and now - seen[1][0] >= _WINDOW_SECONDS:
                seen.popleft()

    async def of(self, model: str, candidate: Version, plan: Plan) -> Preview:
        """Previews a rollout. Raises the errors of `LocalServing.refusals`."""
        refusals = await self._serving.refusals(model, candidate)
        traffic = self._traffic(model, plan)
        power = [detections(plan, step, traffic) for step in plan.steps]
        return Preview(self._serving.baseline(model), refusals, traffic, power, missed(plan, traffic))

    def _traffic(self, model: str, plan: Plan) -> TrafficEstimate:
        seen = self._seen.get(model, deque())
        requests, rate = 0, 0.0
        if len(seen) >= 2 and seen[-1][0] > seen[0][0]:
            requests = max(seen[-1][1] - seen[0][1], 0)
            rate = requests / (seen[-1][0] - seen[0][0])
        version = self._serving.baseline(model)
        entry = self._serving.entry(model, version) if version is not None else None
        if entry is None or entry.handle is None:
            return TrafficEstimate(rate, LEAST_ERROR_RATE, {})
        recorder = entry.handle.recorder.role(str(ServingRole.BASELINE))
        total = sum(recorder.codes.values())
        failed = sum(count for code, count in recorder.codes.items() if code in SERVER_FAULTS)
        recent = np.fromiter(recorder.recent, np.float64, len(recorder.recent))
        slow = {}
        if len(recent) >= _LEAST_LATENCIES:
            slow = {
                name: (float(np.mean(SLOWDOWN * recent > edge)), float(np.mean(recent > edge)))
                for name in plan.timed
                for edge in (threshold(name, recent),)
            }
        shares: Sequence[float] = ()
        if requests:
            keyed = entry.handle.history.since(seen[0][0]).count(modulus=GROUPS)
            shares = (keyed / max(requests, int(keyed.sum()))).tolist()
        return TrafficEstimate(rate, max(failed / total if total else 0.0, LEAST_ERROR_RATE), slow, shares)


def _unpinned(entry: VersionEntry) -> int:
    if entry.handle is None:
        return 0
    roles = entry.handle.recorder.roles
    return sum(roles[role].decisions for role in (str(ServingRole.BASELINE), str(ServingRole.CANARY)) if role in roles)
