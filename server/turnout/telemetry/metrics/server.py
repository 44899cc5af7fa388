"""Metrics of the server as a whole: loads, policies and memory."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from turnout.admission.requests import Admission, ReceiveBudget
from turnout.admission.unread import UnsentBudget
from turnout.telemetry.families import Family, counter, families_of, gauge
from turnout.telemetry.metrics.auth import AuthRecorder, auth_families
from turnout.telemetry.metrics.gpu import Gpu
from turnout.telemetry.metrics.tls import TlsRecorder


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
        memory: Memory by device (`cpu`, `cuda:0`) at this scrape, without devices whose limit is unknown.
        gpus: All GPUs that the driver lists, at this scrape; empty if the driver does not answer.
        spans: Empty if tracing is off.
        cache_bytes: None if there is no cache.
        connection_limits: Of the listeners that have one.
        budget: The budget that counts the bytes of partially received requests.
        unsent: The budget that counts the bytes of large answers in memory.
    """

    memory: Mapping[str, DeviceMemory] = field(default_factory=dict)
    gpus: Sequence[Gpu] = ()
    tls: TlsRecorder = field(default_factory=TlsRecorder)
    auth: AuthRecorder = field(default_factory=AuthRecorder)
    admission: Admission = field(default_factory=lambda: Admission(0))
    budget: ReceiveBudget = field(default_factory=lambda: ReceiveBudget(0))
    unsent: UnsentBudget = field(default_factory=lambda: UnsentBudget(0))
    loads: defaultdict[tuple[str, str], int] = counter(
        "turnout_version_loads_total", "Attempts to load a version, by outcome.", "model", "outcome"
    )
    on_demand_loads: defaultdict[tuple[str, str], int] = counter(
        "turnout_version_on_demand_loads_total", "Loads triggered by the first request for a version, by outcome.",
        "model", "outcome",
    )  # fmt: skip
    evictions: defaultdict[str, int] = counter(
        "turnout_version_evictions_total", "Versions unloaded to make room for another in the memory budget.", "model"
    )
    waiting_for_load: Mapping[str, int] = gauge(
        "turnout_version_waiting_requests", "Requests that wait for a version of the model to be loaded.", "model"
    )
    memory_budgets: Mapping[str, int] = gauge(
        "turnout_version_memory_budget_bytes", "Memory budget of all versions together, if there is one.", "device"
    )
    epochs: Mapping[str, int] = gauge(
        "turnout_policy_epoch", "Epoch of the model's traffic policy that is in force on this server.", "model"
    )
    spans: dict[str, int] = counter("turnout_trace_spans_total", "Spans of traced requests, by outcome.", "outcome")
    repository_available: bool = gauge(
        "turnout_repository_available", "1 while the model repository can be read, 0 while it cannot.", default=True
    )
    state_store_available: bool = gauge(
        "turnout_state_store_available", "1 while the state store can be read and written, 0 while it cannot.",
        default=True,
    )  # fmt: skip
    missing_versions: Mapping[str, int] = gauge(
        "turnout_missing_versions", "Versions served from memory whose files are gone from the repository.", "model"
    )
    cache_bytes: int | None = gauge(
        "turnout_cache_bytes", "Size of the files in the cache, for all repositories that share it.", default=None
    )
    fetched_bytes: int = counter("turnout_fetched_bytes_total", "Bytes of versions fetched from a remote repository.")
    connections: Mapping[str, int] = gauge("turnout_connections", "Open connections of a listener.", "listener")
    connection_limits: Mapping[str, int] = gauge(
        "turnout_connections_limit",
        "Maximum number of connections of a listener. At the limit, further connections wait.", "listener",
    )  # fmt: skip


def server_families(recorder: ServerRecorder, models: Collection[str]) -> Iterator[Family]:
    """Returns the families of one scrape.

    Every outcome of each of the `models` starts at 0: Prometheus sees an increase only between two samples, and would
    otherwise miss the first failure.
    """
    loads = dict.fromkeys(((model, str(outcome)) for model in models for outcome in LoadOutcome), 0) | recorder.loads
    fetched = None if recorder.cache_bytes is None else recorder.fetched_bytes
    yield from families_of([recorder], ServerRecorder, loads=loads, fetched_bytes=fetched)
    yield Family(
        "turnout_memory_used_bytes", "gauge", "Memory in use: by the server on the CPU, by all processes on a GPU.",
        [({"device": device}, float(memory.used)) for device, memory in recorder.memory.items()],
    )  # fmt: skip
    yield Family(
        "turnout_memory_limit_bytes", "gauge",
        "Memory limit: of the control group or machine for the CPU, total memory for a GPU.",
        [({"device": device}, float(memory.limit)) for device, memory in recorder.memory.items()],
    )  # fmt: skip
    yield from families_of([recorder.tls], TlsRecorder)
    yield from auth_families(recorder.auth)
    yield Family(
        "turnout_requests_under_way", "gauge", "Requests in progress, gRPC and HTTP. A stream counts as one.",
        [({}, float(recorder.admission.under_way))],
    )  # fmt: skip
    yield Family(
        "turnout_requests_refused_total", "counter",
        "Requests refused before they were read completely: the server was full or draining, or partially received "
        "requests together exceeded their limit; and answers discarded because unsent ones exceeded theirs.",
        [
            ({"reason": "full"}, float(recorder.admission.refused_full)),
            ({"reason": "draining"}, float(recorder.admission.refused_draining)),
            ({"reason": "unfinished"}, float(recorder.budget.refused)),
            ({"reason": "unsent"}, float(recorder.unsent.refused)),
        ],
    )  # fmt: skip
    yield Family(
        "turnout_unfinished_bytes", "gauge", "Size of all partially received requests.",
        [({}, float(recorder.budget.held))],
    )  # fmt: skip
    yield Family(
        "turnout_unsent_bytes", "gauge", "Size of all answers above 64 KiB that clients have not read.",
        [({}, float(recorder.unsent.held))],
    )  # fmt: skip
    yield from families_of(recorder.gpus, Gpu)
