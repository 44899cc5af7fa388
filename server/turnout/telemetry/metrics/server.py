"""Metrics of the server as a whole: loads, policies and memory."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from turnout.admission import Admission, ReceiveBudget
from turnout.telemetry.families import Family
from turnout.telemetry.metrics.auth import AuthRecorder, auth_families
from turnout.telemetry.metrics.gpu import Gpu, gpu_families
from turnout.telemetry.metrics.tls import TlsRecorder, tls_families


class LoadOutcome(StrEnum):
    """The outcome of an attempt to load a version."""

    READY = "ready"
    DIGEST_MISMATCH = "digest_mismatch"
    """The version's files differ from the published ones."""
    NOT_TRUSTED = "not_trusted"
    """The version lacks a required signature by a trusted key."""
    MEMORY = "memory"
    """The version exceeded a memory limit."""
    MODEL = "model"
    """ONNX Runtime cannot load the model, or it failed during warm-up."""
    CONFIG = "config"
    """This machine cannot satisfy a setting."""
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """A device's memory at the time of a scrape, in bytes.

    Attributes:
        used: Memory in use: on `cpu` by this process and the child processes of its versions, on a GPU by all
            processes.
        limit: Maximum that can be used.
    """

    used: int
    limit: int


@dataclass(slots=True)
class ServerRecorder:
    """Counts and current values of the server as a whole.

    Attributes:
        loads: Number of attempts to load a version, by model and outcome.
        on_demand_loads: Number of loads that requests triggered, by model and outcome.
        evictions: Number of versions unloaded to make room in the memory budget, by model.
        waiting_for_load: Number of requests that wait for a version to be loaded, by model.
        memory_budgets: Memory budget of all versions together in bytes, by device that has one.
        epochs: Epoch of the policy in force, by model; 0 if traffic was never changed.
        memory: Memory by device (`cpu`, `cuda:0`) at this scrape, without devices whose limit is unknown.
        spans: Number of spans of requests, by outcome; empty if tracing is off.
        gpus: All GPUs that the driver lists, at this scrape; empty if the driver does not answer.
        repository_available: Whether the last read of the model repository succeeded.
        state_store_available: Whether the last access to the state store succeeded.
        missing_versions: Number of versions in memory whose files are gone from the repository, by model.
        cache_bytes: Size of the files in the cache of a remote repository; None if there is no cache.
        fetched_bytes: Number of bytes that this process has fetched into the cache.
        connections: Number of open connections by listener, at this scrape.
        connection_limits: Maximum number of connections, by listener that has one.
        budget: The budget that counts the bytes of partially received requests.
    """

    loads: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    on_demand_loads: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    evictions: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    waiting_for_load: Mapping[str, int] = field(default_factory=dict)
    memory_budgets: Mapping[str, int] = field(default_factory=dict)
    epochs: Mapping[str, int] = field(default_factory=dict)
    memory: Mapping[str, DeviceMemory] = field(default_factory=dict)
    spans: dict[str, int] = field(default_factory=dict)
    gpus: Sequence[Gpu] = ()
    repository_available: bool = True
    state_store_available: bool = True
    missing_versions: Mapping[str, int] = field(default_factory=dict)
    cache_bytes: int | None = None
    fetched_bytes: int = 0
    tls: TlsRecorder = field(default_factory=TlsRecorder)
    auth: AuthRecorder = field(default_factory=AuthRecorder)
    connections: Mapping[str, int] = field(default_factory=dict)
    connection_limits: Mapping[str, int] = field(default_factory=dict)
    admission: Admission = field(default_factory=lambda: Admission(0))
    budget: ReceiveBudget = field(default_factory=lambda: ReceiveBudget(0))


def server_families(recorder: ServerRecorder, models: Collection[str]) -> Iterator[Family]:
    """Returns the families of one scrape.

    Every outcome of each of the `models` starts at 0: Prometheus sees an increase only between two samples, and would
    otherwise miss the first failure.
    """
    pairs = dict.fromkeys((model, str(outcome)) for model in models for outcome in LoadOutcome)
    yield Family(
        "turnout_version_loads_total", "counter", "Attempts to load a version, by outcome.",
        [({"model": m, "outcome": o}, float(recorder.loads.get((m, o), 0))) for m, o in pairs | dict(recorder.loads)],
    )  # fmt: skip
    yield Family(
        "turnout_version_on_demand_loads_total", "counter",
        "Loads triggered by the first request for a version, by outcome.",
        [({"model": m, "outcome": o}, float(count)) for (m, o), count in recorder.on_demand_loads.items()],
    )  # fmt: skip
    yield Family(
        "turnout_version_evictions_total", "counter",
        "Versions unloaded to make room for another in the memory budget.",
        [({"model": model}, float(count)) for model, count in recorder.evictions.items()],
    )  # fmt: skip
    yield Family(
        "turnout_version_waiting_requests", "gauge", "Requests that wait for a version of the model to be loaded.",
        [({"model": model}, float(count)) for model, count in recorder.waiting_for_load.items()],
    )  # fmt: skip
    yield Family(
        "turnout_version_memory_budget_bytes", "gauge", "Memory budget of all versions together, if there is one.",
        [({"device": device}, float(budget)) for device, budget in recorder.memory_budgets.items()],
    )  # fmt: skip
    yield Family(
        "turnout_policy_epoch", "gauge", "Epoch of the model's traffic policy that is in force on this server.",
        [({"model": model}, float(epoch)) for model, epoch in recorder.epochs.items()],
    )  # fmt: skip
    yield Family(
        "turnout_memory_used_bytes", "gauge", "Memory in use: by the server on the CPU, by all processes on a GPU.",
        [({"device": device}, float(memory.used)) for device, memory in recorder.memory.items()],
    )  # fmt: skip
    yield Family(
        "turnout_memory_limit_bytes", "gauge",
        "Memory limit: of the control group or machine for the CPU, total memory for a GPU.",
        [({"device": device}, float(memory.limit)) for device, memory in recorder.memory.items()],
    )  # fmt: skip
    yield Family(
        "turnout_trace_spans_total", "counter", "Spans of traced requests, by outcome.",
        [({"outcome": outcome}, float(count)) for outcome, count in recorder.spans.items()],
    )  # fmt: skip
    yield Family(
        "turnout_repository_available", "gauge", "1 while the model repository can be read, 0 while it cannot.",
        [({}, float(recorder.repository_available))],
    )  # fmt: skip
    yield Family(
        "turnout_state_store_available", "gauge", "1 while the state store can be read and written, 0 while it cannot.",
        [({}, float(recorder.state_store_available))],
    )  # fmt: skip
    yield Family(
        "turnout_missing_versions", "gauge", "Versions served from memory whose files are gone from the repository.",
        [({"model": model}, float(count)) for model, count in recorder.missing_versions.items()],
    )  # fmt: skip
    remote = recorder.cache_bytes is not None
    yield Family(
        "turnout_cache_bytes", "gauge", "Size of the files in the cache, for all repositories that share it.",
        [({}, float(recorder.cache_bytes or 0))] if remote else [],
    )  # fmt: skip
    yield Family(
        "turnout_fetched_bytes_total", "counter", "Bytes of versions fetched from a remote repository.",
        [({}, float(recorder.fetched_bytes))] if remote else [],
    )  # fmt: skip
    yield from tls_families(recorder.tls)
    yield from auth_families(recorder.auth)
    yield Family(
        "turnout_connections", "gauge", "Open connections of a listener.",
        [({"listener": listener}, float(count)) for listener, count in recorder.connections.items()],
    )  # fmt: skip
    yield Family(
        "turnout_connections_limit", "gauge",
        "Maximum number of connections of a listener. At the limit, further connections wait.",
        [({"listener": listener}, float(limit)) for listener, limit in recorder.connection_limits.items()],
    )  # fmt: skip
    yield Family(
        "turnout_requests_under_way", "gauge", "Requests in progress, gRPC and HTTP. A stream counts as one.",
        [({}, float(recorder.admission.under_way))],
    )  # fmt: skip
    yield Family(
        "turnout_requests_refused_total", "counter",
        "Requests refused before they were read completely: the server was full or draining, or partially received "
        "requests together exceeded their limit.",
        [
            ({"reason": "full"}, float(recorder.admission.refused_full)),
            ({"reason": "draining"}, float(recorder.admission.refused_draining)),
            ({"reason": "unfinished"}, float(recorder.budget.refused)),
        ],
    )  # fmt: skip
    yield Family(
        "turnout_unfinished_bytes", "gauge", "Size of all partially received requests.",
        [({}, float(recorder.budget.held))],
    )  # fmt: skip
    yield from gpu_families(recorder.gpus)
