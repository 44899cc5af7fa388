"""Metrics of versions, and the scrape of all metrics.

Everything is recorded on the event loop, in plain Python objects that a scrape reads. This needs no lock and costs
about two microseconds per request. Labels come from the registry and from fixed lists, never from a client.
"""

import time
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from prometheus_client import CollectorRegistry
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from turnout.telemetry.exposition import Exposition, own_families
from turnout.telemetry.families import Family, Labels, counter, families_of, gauge
from turnout.telemetry.histogram import LATENCY_BOUNDS, Exemplar, Histogram
from turnout.telemetry.log_writer import dropped_lines
from turnout.telemetry.metrics.batches import BatchSizes
from turnout.telemetry.metrics.faults import FaultRecorder
from turnout.telemetry.metrics.rollout import RolloutRecorder, rollout_families
from turnout.telemetry.metrics.server import ServerRecorder, server_families
from turnout.telemetry.metrics.shadow import ShadowRecorder, shadow_families
from turnout.telemetry.ratios import Ratio

_RECENT = 4096

_SHOWN_AT_ZERO = ("OK", "INTERNAL", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")
"""Codes that start at 0 with the first request of a role, so that Prometheus sees the first failure as an increase."""

_GRACE_SCRAPES = 2
"""Number of scrapes that still show the series of an unloaded version, so that its last counts are not lost."""


class RoleRecorder:
    """Counts of one version in one role.

    Attributes:
        decisions: Number of requests that were routed to this version in this role.
        codes: Number of requests, by name of the status code.
        duration: Histogram of the seconds from arrival to answer.
        queue: Histogram of the seconds from admission to the start of the run.
        compute: Histogram of the duration of the run, for the whole batch, in seconds.
        slo_edges: The model's latency objectives, in seconds.
        slo_exceeded: Number of requests slower than each latency objective, in the order of `slo_edges`.
        recent: Exact durations of the latest successful requests, in seconds. A rollout derives its thresholds from
            them.
        failed_seconds: Total time from arrival to error of all failed requests, in seconds.
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
        """Counts a successful request. All times are in seconds."""
        self.codes["OK"] += 1
        self.recent.append(duration)
        # Histogram.observe, inlined three times: this runs for every request, and calls would dominate the cost.
        self.duration.counts[bisect_left(LATENCY_BOUNDS, duration)] += 1
        self.duration.total += duration
        self.queue.counts[bisect_left(LATENCY_BOUNDS, queue) if queue else 0] += 1
        self.queue.total += queue
        self.compute.counts[bisect_left(LATENCY_BOUNDS, compute)] += 1
        self.compute.total += compute
        if self.slo_edges:
            self._compare(duration)

    def failed(self, code: str, duration: float) -> None:
        """Counts a request that failed after `duration` seconds."""
        self.codes[code] += 1
        self.duration.observe(duration)
        self.failed_seconds += duration
        self._compare(duration)

    def remember(
        self, trace_id: str, duration: float, queue: float | None = None, compute: float | None = None
    ) -> None:
        """Stores the times of a request, in seconds, as exemplars of their buckets. They must already be counted."""
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
    """Counts of one version. It exists for as long as the version's series are exposed.

    Attributes:
        slo_edges: The model's latency objectives, in seconds.
        scrapes_left: Number of scrapes that still show the version after it was retired; None before.
        memory_bytes: By device (`cpu`, `cuda:0`).
        isolated_restarts, isolated_processes: None if the version runs without child processes.
        cuda_graphs: None if the version does not run on a GPU and captures were not requested.
        tensorrt, tensorrt_fp16: None if that was not requested.
        traffic_weight: By role and kind (`desired`, `applied`).
    """

    model: str
    version: str
    digest: str
    slo_edges: Sequence[float] = ()
    roles: dict[str, RoleRecorder] = field(default_factory=dict)
    batches: BatchSizes = field(default_factory=BatchSizes)
    scrapes_left: int | None = None
    demoted: int = counter(
        "turnout_batching_demoted_total",
        "Times that a version stopped batching because an output had the wrong number of rows.",
    )
    without_slot: int = counter(
        "turnout_requests_without_slot_total",
        "Requests with a routing key that were counted without it, because a tick had too many different keys.",
    )
    isolated_restarts: int | None = counter(
        "turnout_isolated_restarts_total", "Child processes of an isolated version that died and were replaced.",
        default=None,
    )  # fmt: skip
    isolated_processes: int | None = gauge(
        "turnout_isolated_processes", "Running child processes of an isolated version.", default=None
    )
    inflight: int = gauge("turnout_inflight_requests", "Admitted requests that are not yet answered.")
    queue_depth: int = gauge("turnout_queue_depth", "Requests that wait for a runner.")
    queue_fill: float = gauge(
        "turnout_queue_fill_ratio", "Fill level of the version's fullest queue, 0 to 1, by requests or by bytes."
    )
    load_seconds: float | None = gauge(
        "turnout_version_load_duration_seconds", "Duration of the version's last load, including warm-up.", default=None
    )
    memory_bytes: dict[str, int] = gauge(
        "turnout_version_memory_bytes",
        "Memory that loading the version added to the process or device, and the memory of its child processes.",
        "device",
    )
    cuda_graphs: int | None = gauge(
        "turnout_version_cuda_graphs", "Number of batch sizes that are captured as CUDA graphs.", default=None
    )
    tensorrt: bool | None = gauge(
        "turnout_version_tensorrt", "1 if the version runs on TensorRT, 0 if that was requested but is not possible.",
        default=None,
    )  # fmt: skip
    tensorrt_fp16: bool | None = gauge(
        "turnout_version_tensorrt_fp16", "1 if the version runs in FP16, 0 if its golden cases do not allow that.",
        default=None,
    )  # fmt: skip
    traffic_weight: dict[tuple[str, str], float] = gauge(
        "turnout_traffic_weight", "Desired and applied share of the unpinned traffic, 0 to 1.", "role", "kind"
    )
    traffic_share: dict[str, Ratio] = gauge(
        "turnout_traffic_share", "Share of the traffic that the version has received in the policy's current epoch.",
        "role",
    )  # fmt: skip

    def role(self, role: str) -> RoleRecorder:
        """Returns the recorder of `role`, created at first use."""
        recorder = self.roles.get(role)
        if recorder is None:
            recorder = self.roles[role] = RoleRecorder(self.slo_edges)
        return recorder

    @property
    def labels(self) -> dict[str, str]:
        """Labels of the series without further labels."""
        return {"model": self.model, "version": self.version}


@dataclass(frozen=True, slots=True)
class KnownVersion:
    """A version that the server knows, loaded or not.

    Attributes:
        failure: Why loading failed (a `LoadOutcome`); "" if it succeeded or was not attempted.
    """

    model: str
    version: str
    digest: str
    state: str
    failure: str = ""


class Metrics:
    """All metrics of one server. Created once by the composition root; there is no global registry.

    Attributes:
        known: All versions that the server knows. The version manager replaces the whole sequence.
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
        self._exposition = Exposition()

    def version(self, model: str, version: str, digest: str, slo_edges: Sequence[float] = ()) -> VersionRecorder:
        """Returns the recorder of a version that is about to serve requests.

        A version that returns within the grace period keeps its counts.
        """
        key = (model, version)
        recorder = self._versions.get(key)
        if recorder is None or recorder.digest != digest:
            recorder = self._versions[key] = VersionRecorder(model, version, digest, slo_edges)
        recorder.scrapes_left = None
        return recorder

    def retire(self, model: str, version: str) -> None:
        """Retires an unloaded version: its series disappear after two more scrapes."""
        recorder = self._versions.get((model, version))
        if recorder is not None and recorder.scrapes_left is None:
            recorder.scrapes_left = _GRACE_SCRAPES

    def unrouted(self, model: str, code: str) -> None:
        """Counts a request that reached no version. `model` exists or is "", never an arbitrary name from a client."""
        key = (model, code)
        self._unrouted[key] = self._unrouted.get(key, 0) + 1

    @property
    def unrouted_requests(self) -> int:
        """Number of requests that reached no version since the start."""
        return sum(self._unrouted.values())

    def shadow(self, model: str, version: str) -> ShadowRecorder:
        """Returns the recorder of a version as a shadow, created at first use. It is removed with the version's."""
        recorder = self._shadows.get((model, version))
        if recorder is None:
            recorder = self._shadows[model, version] = ShadowRecorder(model, version)
        return recorder

    async def scrape(self, content_type: str) -> AsyncIterator[bytes]:
        """Yields the text of all metrics. Counts as a scrape for the grace period of retired versions."""
        versions = list(self._versions.values())
        families = chain(self.families(), own_families(self._process.collect()))
        async for block in self._exposition.render(families, content_type):
            yield block
        self._run_down(versions)

    def snapshot(self) -> Iterator[Family]:
        """Yields all families, including those of the process, to be merged with other workers'. Counts as a scrape."""
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
        """Yields all families of Turnout with their current series."""
        versions = list(self._versions.values())
        yield Family("turnout_requests_total", "counter", "Requests, by status code.", self._requests(versions))
        yield Family(
            "turnout_route_decisions_total", "counter", "Requests, by the version and role that routing chose.",
            ((labels, float(recorder.decisions)) for labels, recorder in _roles(versions) if recorder.decisions),
        )  # fmt: skip
        for name, text, attribute in (
            ("turnout_request_duration_seconds", "Time from arrival to answer.", "duration"),
            ("turnout_queue_duration_seconds", "Time from admission to the start of the run.", "queue"),
            ("turnout_compute_duration_seconds", "Duration of the model's run, for the whole batch.", "compute"),
        ):
            yield Family(name, "histogram", text, _role_histograms(versions, attribute))
        yield Family(
            "turnout_batch_size", "histogram", "Number of rows of each successful batch.",
            ((v.labels, v.batches.histogram()) for v in versions if v.batches.runs),
        )  # fmt: skip
        yield Family(
            "turnout_slo_exceeded_total", "counter",
            "Requests slower than a latency objective of the model, counted exactly.",
            (
                (labels | {"threshold": repr(edge)}, float(count))
                for labels, r in _roles(versions)
                for edge, count in zip(r.slo_edges, r.slo_exceeded, strict=True)
            ),
        )  # fmt: skip
        yield Family(
            "turnout_version_info", "gauge", "1 for each version that the server knows, by its state.",
            [({"model": k.model, "version": k.version, "digest": k.digest, "state": k.state}, 1.0) for k in self.known],
        )  # fmt: skip
        yield Family(
            "turnout_version_failed", "gauge", "1 for each version that could not be loaded, by reason.",
            [({"model": k.model, "version": k.version, "reason": k.failure}, 1.0) for k in self.known if k.failure],
        )  # fmt: skip
        yield from families_of(versions, VersionRecorder, "counter")
        yield from families_of([v for v in versions if v.scrapes_left is None], VersionRecorder, "gauge")
        yield from shadow_families(list(self._shadows.values()))
        models = dict.fromkeys(k.model for k in self.known)
        yield from rollout_families(self.rollouts, models)
        yield from server_families(self.server, models)
        yield from families_of([self.faults], FaultRecorder, dropped_lines=dropped_lines())

    def _requests(self, versions: Sequence[VersionRecorder]) -> Iterator[tuple[Labels, float]]:
        for labels, recorder in _roles(versions):
            for code, count in list(recorder.codes.items()):
                yield labels | {"code": code}, count
        for (model, code), count in list(self._unrouted.items()):
            yield {"model": model, "version": "", "role": "", "code": code}, count


def _roles(versions: Iterable[VersionRecorder]) -> Iterator[tuple[dict[str, str], RoleRecorder]]:
    """Yields the labels and recorder of each role. Roles may be added during the iteration."""
    for v in versions:
        for role, recorder in list(v.roles.items()):
            yield v.labels | {"role": role}, recorder


def _role_histograms(versions: Iterable[VersionRecorder], attribute: str) -> Iterator[tuple[Labels, Histogram]]:
    for labels, recorder in _roles(versions):
        yield labels, getattr(recorder, attribute)
