"""Metrics of each version, and the scrape of all metrics.

All recording happens on the event loop, into plain Python objects that one scrape reads: no lock, about two
microseconds a request. Labels come from the registry and from fixed lists, never from a client.
"""

import time
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from turnout.telemetry.exposition import Exposition, FamilyCollector
from turnout.telemetry.families import Family, Labels
from turnout.telemetry.histogram import LATENCY_BOUNDS, Exemplar, Histogram
from turnout.telemetry.log_writer import dropped_lines
from turnout.telemetry.metrics.batches import BatchSizes
from turnout.telemetry.metrics.faults import FaultRecorder, fault_families
from turnout.telemetry.metrics.process import own_families
from turnout.telemetry.metrics.rollout import RolloutRecorder, rollout_families
from turnout.telemetry.metrics.server import ServerRecorder, server_families
from turnout.telemetry.metrics.shadow import ShadowRecorder, shadow_families
from turnout.telemetry.ratios import Ratio

_RECENT = 4096

_SHOWN_AT_ZERO = ("OK", "INTERNAL", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")
"""Codes that a role has from its first request: otherwise Prometheus would see no increase at the first failure."""

_GRACE_SCRAPES = 2
"""Scrapes for which the series of a version that left are still shown, so that its last counts are not lost."""


class RoleRecorder:
    """Counts about one version in one role.

    Attributes:
        decisions: Requests that routing sent here.
        codes: Requests by status code name.
        duration: Seconds from arrival to answer.
        queue: Seconds from admission to the start of the run.
        compute: Seconds of the run, of the whole batch.
        slo_exceeded: Requests slower than each of the model's SLO edges, in the edges' order.
        recent: Exact seconds from arrival to answer of the latest requests; a rollout's thresholds come from them.
        failed_seconds: Seconds from arrival to error, of all requests that failed.
        answered_last: `time.monotonic()` of the latest answer; 0.0 before the first.
    """

    __slots__ = (
        "answered_last", "codes", "compute", "decisions", "duration", "failed_seconds", "queue", "recent", "slo_edges",
        "slo_exceeded",
    )  # fmt: skip

    def __init__(self, slo_edges: Sequence[float]) -> None:
        self.decisions = 0
        self.codes: defaultdict[str, int] = defaultdict(int, dict.fromkeys(_SHOWN_AT_ZERO, 0))
        self.duration = Histogram(LATENCY_BOUNDS)
        self.queue = Histogram(LATENCY_BOUNDS)
        self.compute = Histogram(LATENCY_BOUNDS)
        self.slo_edges = tuple(slo_edges)
        self.slo_exceeded = [0] * len(self.slo_edges)
        self.recent: deque[float] = deque(maxlen=_RECENT)
        self.failed_seconds = 0.0
        self.answered_last = 0.0

    def answered(self, duration: float, queue: float, compute: float) -> None:
        """Counts an answered request; times in seconds."""
        self.codes["OK"] += 1
        self.recent.append(duration)
        # Histogram.observe, inlined three times: this runs for every request, and calls would dominate its cost.
        self.duration.counts[bisect_left(LATENCY_BOUNDS, duration)] += 1
        self.duration.total += duration
        self.queue.counts[bisect_left(LATENCY_BOUNDS, queue) if queue else 0] += 1
        self.queue.total += queue
        self.compute.counts[bisect_left(LATENCY_BOUNDS, compute)] += 1
        self.compute.total += compute
        if self.slo_edges:
            self._compare(duration)

    def failed(self, code: str, duration: float) -> None:
        """Counts a failed request, after `duration` seconds."""
        self.codes[code] += 1
        self.duration.observe(duration)
        self.failed_seconds += duration
        self._compare(duration)

    def remember(
        self, trace_id: str, duration: float, queue: float | None = None, compute: float | None = None
    ) -> None:
        """Keeps counted times, in seconds, as exemplars of their buckets."""
        now = time.time()
        self.duration.remember(Exemplar(trace_id, duration, now))
        if queue is not None and compute is not None:
            self.queue.remember(Exemplar(trace_id, queue, now))
            self.compute.remember(Exemplar(trace_id, compute, now))

    def _compare(self, duration: float) -> None:
        for index, edge in enumerate(self.slo_edges):
            if duration > edge:
                self.slo_exceeded[index] += 1


@dataclass(slots=True)
class VersionRecorder:
    """Counts about one version; lives as long as its series are exposed.

    Attributes:
        model, version, digest: Labels.
        slo_edges: The model's latency objectives, in seconds.
        roles: Recorders by role.
        batches: Runs that gave answers.
        inflight: Requests admitted and not yet answered.
        queue_depth: Requests that wait for a runner.
        queue_fill: Fill of its fullest queue, 0 to 1, by requests or bytes, whichever is closer to its limit.
        load_seconds: Time of its last load.
        memory_bytes: By device (`cpu`, `cuda:0`).
        isolated_restarts: Its child processes that died and were replaced; None if it has none.
        isolated_processes: Its running child processes.
        cuda_graphs: Number of batch sizes that are captured; None if it does not run on a GPU and captures were not
            requested.
        tensorrt: Whether it runs on TensorRT; None if that was not requested.
        tensorrt_fp16: Whether it runs in FP16; None if that was not requested.
        traffic_weight: By role and kind (`desired`, `applied`), 0 to 1.
        traffic_share: By role: share of the decisions of the policy's present epoch.
        demoted: Number of times that it stopped batching, since an output had the wrong number of rows.
        without_slot: Requests with a routing key that were counted without a slot, since there were too many.
        scrapes_left: None while the version is known; else the number of scrapes that still show it.
    """

    model: str
    version: str
    digest: str
    slo_edges: Sequence[float] = ()
    roles: dict[str, RoleRecorder] = field(default_factory=dict)
    batches: BatchSizes = field(default_factory=BatchSizes)
    inflight: int = 0
    queue_depth: int = 0
    queue_fill: float = 0.0
    load_seconds: float = 0.0
    memory_bytes: dict[str, int] = field(default_factory=dict)
    isolated_restarts: int | None = None
    isolated_processes: int = 0
    cuda_graphs: int | None = None
    tensorrt: bool | None = None
    tensorrt_fp16: bool | None = None
    traffic_weight: dict[tuple[str, str], float] = field(default_factory=dict)
    traffic_share: dict[str, Ratio] = field(default_factory=dict)
    demoted: int = 0
    without_slot: int = 0
    scrapes_left: int | None = None

    def role(self, role: str) -> RoleRecorder:
        """Returns the recorder of `role`, created at first use."""
        recorder = self.roles.get(role)
        if recorder is None:
            recorder = self.roles[role] = RoleRecorder(self.slo_edges)
        return recorder

    @property
    def labels(self) -> dict[str, str]:
        """Labels of the series that differ only by version."""
        return {"model": self.model, "version": self.version}


@dataclass(frozen=True, slots=True)
class KnownVersion:
    """A version that the server knows, loaded or not.

    Attributes:
        state: Its lifecycle state.
        failure: Why loading failed (a `LoadOutcome`); "" if it succeeded or was not tried.
    """

    model: str
    version: str
    digest: str
    state: str
    failure: str = ""


class Metrics:
    """All metrics of one server. Created once by the composition root; there is no global registry.

    Attributes:
        known: Every version that the server knows; the manager replaces it as a whole.
        rollouts: Counts about rollouts.
        server: Counts about the server as a whole.
        faults: Counts of unparsable messages and unexpected errors.
    """

    def __init__(self) -> None:
        self.faults = FaultRecorder()
        self.known: Sequence[KnownVersion] = ()
        self._versions: dict[tuple[str, str], VersionRecorder] = {}
        self._unrouted: dict[tuple[str, str], int] = {}
        self._shadows: dict[tuple[str, str], ShadowRecorder] = {}
        self.rollouts = RolloutRecorder()
        self.server = ServerRecorder()
        self._process = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._process)
        PlatformCollector(registry=self._process)
        GCCollector(registry=self._process)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(FamilyCollector(self.families))
        self._registry.register(self._process)
        self._exposition = Exposition()

    def version(self, model: str, version: str, digest: str, slo_edges: Sequence[float] = ()) -> VersionRecorder:
        """Returns the recorder of a version that comes into service.

        A version that comes back within the grace period keeps its counts.

        Args:
            model: Its model's name.
            version: The exact version.
            digest: Its digest.
            slo_edges: The model's latency objectives, in seconds.
        """
        key = (model, version)
        recorder = self._versions.get(key)
        if recorder is None or recorder.digest != digest:
            recorder = self._versions[key] = VersionRecorder(model, version, digest, slo_edges)
        recorder.scrapes_left = None
        return recorder

    def retire(self, model: str, version: str) -> None:
        """Notes that a version has left: its series disappear after two more scrapes."""
        recorder = self._versions.get((model, version))
        if recorder is not None and recorder.scrapes_left is None:
            recorder.scrapes_left = _GRACE_SCRAPES

    def unrouted(self, model: str, code: str) -> None:
        """Counts a request that reached no version.

        Args:
            model: Name of an existing model, or "": never a name that a client made up.
            code: Status code name.
        """
        key = (model, code)
        self._unrouted[key] = self._unrouted.get(key, 0) + 1

    @property
    def unrouted_requests(self) -> int:
        """Requests that reached no version, since the start."""
        return sum(self._unrouted.values())

    def shadow(self, model: str, version: str) -> ShadowRecorder:
        """Returns the recorder of a version as a shadow, created at first use; its series go with the version's."""
        recorder = self._shadows.get((model, version))
        if recorder is None:
            recorder = self._shadows[model, version] = ShadowRecorder(model, version)
        return recorder

    async def scrape(self, content_type: str) -> AsyncIterator[bytes]:
        """Yields all metrics in a format; counts as a scrape for the grace period of versions that left."""
        versions = list(self._versions.values())
        async for block in self._exposition.render(self._registry, content_type):
            yield block
        self._run_down(versions)

    def snapshot(self) -> Iterator[Family]:
        """Yields every family, those of the process too, for adding up several workers; counts as a scrape."""
        versions = list(self._versions.values())
        yield from self.families()
        self._run_down(versions)
        yield from own_families(self._process.collect())

    def _run_down(self, versions: Iterable[VersionRecorder]) -> None:
        for recorder in versions:
            if recorder.scrapes_left is not None:
                recorder.scrapes_left -= 1
                if recorder.scrapes_left <= 0 and self._versions.get((recorder.model, recorder.version)) is recorder:
                    del self._versions[recorder.model, recorder.version]
                    self._shadows.pop((recorder.model, recorder.version), None)

    def families(self) -> Iterator[Family]:
        """Returns every family of Turnout with its present series."""
        versions = list(self._versions.values())
        yield Family("turnout_requests_total", "counter", "Requests by how they ended.", self._requests(versions))
        yield Family(
            "turnout_route_decisions_total", "counter", "Requests by the version and role that routing chose.",
            ((labels, float(recorder.decisions)) for labels, recorder in _roles(versions) if recorder.decisions),
        )  # fmt: skip
        for name, text, attribute in (
            ("turnout_request_duration_seconds", "From arrival to answer.", "duration"),
            ("turnout_queue_duration_seconds", "From admission to the start of the run.", "queue"),
            ("turnout_compute_duration_seconds", "The model's run, of the whole batch.", "compute"),
        ):
            yield Family(name, "histogram", text, _role_histograms(versions, attribute))
        yield Family(
            "turnout_batch_size", "histogram", "Rows of each batch that gave answers.",
            ((v.labels, v.batches.histogram()) for v in versions if v.batches.runs),
        )  # fmt: skip
        yield Family(
            "turnout_batching_demoted_total", "counter",
            "Times that a version stopped sharing runs, since an output of one did not add up.",
            [(v.labels, float(v.demoted)) for v in versions],
        )  # fmt: skip
        yield Family(
            "turnout_requests_without_slot_total", "counter",
            "Requests with a routing key that were counted as if they had none, for want of room between two ticks.",
            [(v.labels, float(v.without_slot)) for v in versions],
        )  # fmt: skip
        yield Family(
            "turnout_slo_exceeded_total", "counter",
            "Requests slower than the model's own latency objective, counted exactly.",
            (
                (labels | {"threshold": repr(edge)}, float(count))
                for labels, r in _roles(versions)
                for edge, count in zip(r.slo_edges, r.slo_exceeded, strict=True)
            ),
        )  # fmt: skip
        isolated = [v for v in versions if v.isolated_restarts is not None]
        yield Family(
            "turnout_isolated_restarts_total", "counter",
            "Child processes of an isolated version that died and were replaced.",
            [(v.labels, float(v.isolated_restarts or 0)) for v in isolated],
        )  # fmt: skip
        yield Family(
            "turnout_isolated_processes", "gauge", "Child processes of an isolated version that run.",
            [(v.labels, float(v.isolated_processes)) for v in isolated if v.scrapes_left is None],
        )  # fmt: skip
        yield Family(
            "turnout_version_info", "gauge", "1 for each version that the server knows, by its state.",
            [({"model": k.model, "version": k.version, "digest": k.digest, "state": k.state}, 1.0) for k in self.known],
        )  # fmt: skip
        yield Family(
            "turnout_version_failed", "gauge", "1 for each version that could not be loaded, by the reason.",
            [({"model": k.model, "version": k.version, "reason": k.failure}, 1.0) for k in self.known if k.failure],
        )  # fmt: skip
        yield from _gauges(versions)
        yield from shadow_families(list(self._shadows.values()))
        models = dict.fromkeys(k.model for k in self.known)
        yield from rollout_families(self.rollouts, models)
        yield from server_families(self.server, models)
        yield from fault_families(self.faults, dropped_lines())

    def _requests(self, versions: Sequence[VersionRecorder]) -> Iterator[tuple[Labels, float]]:
        for labels, recorder in _roles(versions):
            for code, count in list(recorder.codes.items()):
                yield labels | {"code": code}, count
        for (model, code), count in list(self._unrouted.items()):
            yield {"model": model, "version": "", "role": "", "code": code}, count


def _roles(versions: Iterable[VersionRecorder]) -> Iterator[tuple[dict[str, str], RoleRecorder]]:
    """Yields labels and recorder of each role, even if roles are added meanwhile."""
    for v in versions:
        for role, recorder in list(v.roles.items()):
            yield v.labels | {"role": role}, recorder


def _role_histograms(versions: Iterable[VersionRecorder], attribute: str) -> Iterator[tuple[Labels, Histogram]]:
    for labels, recorder in _roles(versions):
        yield labels, getattr(recorder, attribute)


def _gauges(versions: Sequence[VersionRecorder]) -> Iterator[Family]:
    present = [v for v in versions if v.scrapes_left is None]
    yield Family(
        "turnout_inflight_requests", "gauge", "Requests admitted and not yet answered.",
        [(v.labels, v.inflight) for v in present],
    )  # fmt: skip
    yield Family(
        "turnout_queue_depth", "gauge", "Requests that wait for a runner.", [(v.labels, v.queue_depth) for v in present]
    )
    yield Family(
        "turnout_queue_fill_ratio", "gauge", "How full its fullest queue is, 0 to 1, by requests or by bytes.",
        [(v.labels, v.queue_fill) for v in present],
    )  # fmt: skip
    yield Family(
        "turnout_version_load_duration_seconds", "gauge", "Time of the version's last load, warm-up included.",
        [(v.labels, v.load_seconds) for v in present if v.load_seconds],
    )  # fmt: skip
    yield Family(
        "turnout_version_memory_bytes", "gauge",
        "Growth of the process, or of the device, while it loaded, and what its child processes have.",
        [(v.labels | {"device": d}, n) for v in present for d, n in v.memory_bytes.items()],
    )  # fmt: skip
    yield Family(
        "turnout_version_cuda_graphs", "gauge", "Sizes of batches for which its runs are captured; 0 if none are.",
        [(v.labels, v.cuda_graphs) for v in present if v.cuda_graphs is not None],
    )  # fmt: skip
    yield Family(
        "turnout_version_tensorrt", "gauge", "1 if it runs on TensorRT, 0 if it should and runs on something else.",
        [(v.labels, int(v.tensorrt)) for v in present if v.tensorrt is not None],
    )  # fmt: skip
    yield Family(
        "turnout_version_tensorrt_fp16", "gauge", "1 if it runs in FP16, 0 if its golden cases rule that out.",
        [(v.labels, int(v.tensorrt_fp16)) for v in present if v.tensorrt_fp16 is not None],
    )  # fmt: skip
    yield Family(
        "turnout_traffic_weight", "gauge", "Share of the unpinned traffic, 0 to 1, desired and in force.",
        [(v.labels | {"role": r, "kind": k}, w) for v in present for (r, k), w in v.traffic_weight.items()],
    )  # fmt: skip
    yield Family(
        "turnout_traffic_share", "gauge", "Share that the version got since the policy's epoch began.",
        [(v.labels | {"role": role}, share) for v in present for role, share in v.traffic_share.items()],
    )  # fmt: skip
