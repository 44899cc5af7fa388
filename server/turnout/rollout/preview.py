"""Previews a rollout with a model's present traffic. Changes nothing."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from semver import Version

from turnout.registry.manifest.json_form import JsonForm
from turnout.rollout.engine.local_serving import LocalServing
from turnout.rollout.evidence import GROUPS
from turnout.rollout.plan import Plan
from turnout.rollout.power import LEAST_ERROR_RATE, SLOWDOWN, Detection, TrafficEstimate, detections, missed
from turnout.rollout.thresholds import latencies_in, recent_buckets, recent_latencies, threshold
from turnout.serving.counting.tick_counts import SERVER_FAULTS
from turnout.serving.data_plane.inference import ServingRole
from turnout.serving.versions.catalog import Catalog, VersionEntry

_WINDOW_SECONDS = 60.0
_LEAST_LATENCIES = 20


@dataclass(frozen=True, slots=True)
class WorkerTraffic(JsonForm):
    """What one worker or server has measured of a model's traffic. Other servers report the rate only.

    Attributes:
        server: Name of the worker among the servers that share the state store.
        rate: Unpinned requests per second.
        requests: Number of unpinned requests in the time that `rate` covers.
        keyed: Number of requests with a routing key in that time, by slot group; empty if there was no request.
        answered, failed: Number of requests of the baseline that ended, and of those that the server failed.
        recent: The baseline's latest latencies, in buckets.
    """

    server: str = ""
    rate: float = 0.0
    requests: int = 0
    keyed: tuple[int, ...] = ()
    answered: int = 0
    failed: int = 0
    recent: Mapping[str, int] = field(default_factory=dict)


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

    async def of(self, model: str, candidate: Version, plan: Plan, elsewhere: Sequence[WorkerTraffic] = ()) -> Preview:
        """Previews a rollout. Raises the errors of `LocalServing.refusals`.

        Args:
            model: Name of the model.
            candidate: The candidate.
            plan: Plan of the rollout.
            elsewhere: Traffic that other workers and servers have measured.
        """
        refusals = await self._serving.refusals(model, candidate)
        traffic = self._estimate(model, plan, elsewhere)
        power = [detections(plan, step, traffic) for step in plan.steps]
        return Preview(self._serving.baseline(model), refusals, traffic, power, missed(plan, traffic))

    def rates(self) -> Mapping[str, float]:
        """Returns the unpinned requests per second of each model that gets any, to three digits."""
        found = {model: float(f"{self._rate(model)[1]:.3g}") for model in self._catalog.snapshot.models}
        return {model: rate for model, rate in found.items() if rate}

    def _rate(self, model: str) -> tuple[int, float]:
        """Returns the number of unpinned requests in the last minute, and per second."""
        seen = self._seen.get(model, deque())
        if len(seen) < 2 or seen[-1][0] <= seen[0][0]:
            return 0, 0.0
        requests = max(seen[-1][1] - seen[0][1], 0)
        return requests, requests / (seen[-1][0] - seen[0][0])

    def measured(self, model: str, server: str = "") -> WorkerTraffic:
        """Returns what this worker, which has the name `server`, has measured of a model's traffic."""
        requests, rate = self._rate(model)
        entry = self._baseline(model)
        if entry is None or entry.handle is None:
            return WorkerTraffic(server, rate)
        codes = entry.handle.recorder.role(str(ServingRole.BASELINE)).codes
        failed = sum(count for code, count in codes.items() if code in SERVER_FAULTS)
        keyed = entry.handle.history.since(self._seen[model][0][0]).count(modulus=GROUPS).tolist() if requests else []
        return WorkerTraffic(server, rate, requests, tuple(keyed), sum(codes.values()), failed, recent_buckets(entry))

    def _estimate(self, model: str, plan: Plan, elsewhere: Sequence[WorkerTraffic]) -> TrafficEstimate:
        every = (self.measured(model), *elsewhere)
        answered, failed = sum(one.answered for one in every), sum(one.failed for one in every)
        own = recent_latencies(self._baseline(model))
        recent = np.concatenate([own, *(latencies_in(one.recent) for one in elsewhere)])
        slow = {}
        if len(recent) >= _LEAST_LATENCIES:
            slow = {
                name: (float(np.mean(SLOWDOWN * recent > edge)), float(np.mean(recent > edge)))
                for name in plan.timed
                for edge in (threshold(name, recent),)
            }
        keyed = np.sum([one.keyed for one in every if one.keyed], axis=0)
        shares = keyed / max(sum(one.requests for one in every), int(np.sum(keyed)), 1)
        return TrafficEstimate(
            sum(one.rate for one in every), max(failed / max(answered, 1), LEAST_ERROR_RATE), slow,
            shares.tolist() if np.ndim(shares) else (),
        )  # fmt: skip

    def _baseline(self, model: str) -> VersionEntry | None:
        version = self._serving.baseline(model)
        return self._serving.entry(model, version) if version is not None else None


def _unpinned(entry: VersionEntry) -> int:
    if entry.handle is None:
        return 0
    roles = entry.handle.recorder.roles
    return sum(roles[role].decisions for role in (str(ServingRole.BASELINE), str(ServingRole.CANARY)) if role in roles)
