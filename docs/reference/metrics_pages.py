"""The page of the metrics, from the families that a server renders.

Labels are declared nowhere but in the series themselves, so one of everything is recorded here first. A family that has
no series after that is an error: its labels would be left out.
"""

from markdown_text import page, prose, table
from turnout.telemetry.families import Family
from turnout.telemetry.histogram import BATCH_BOUNDS, LATENCY_BOUNDS
from turnout.telemetry.metrics.auth import AuthRecorder
from turnout.telemetry.metrics.gpu import Gpu
from turnout.telemetry.metrics.rollout import MeterSample, RolloutSample
from turnout.telemetry.metrics.server import DeviceMemory
from turnout.telemetry.metrics.shadow import DIFFERENCE_BOUNDS
from turnout.telemetry.metrics.tls import TlsRecorder
from turnout.telemetry.metrics.versions import KnownVersion, Metrics
from turnout.telemetry.metrics.workers import worker_families

_INTRODUCTION = """\
Every metric of `GET /metrics`, with its type and labels. [Metrics](../metrics.md) says which metric answers which
question, what labels hold, and what a dashboard may rely on.
"""

_AREAS = {
    "turnout_shadow_": "Shadows",
    "turnout_rollout_": "Rollouts",
    "turnout_probe_": "Rollouts",
    "turnout_version_": "Versions",
    "turnout_traffic_": "Traffic",
    "turnout_policy_": "Traffic",
    "turnout_route_": "Traffic",
    "turnout_memory_": "The server",
    "turnout_missing_": "The server",
    "turnout_repository_": "The server",
    "turnout_state_": "The server",
    "turnout_tls_": "The server",
    "turnout_auth_": "The server",
    "turnout_worker_": "The server",
    "turnout_requests_refused_": "The server",
    "turnout_requests_under_": "The server",
    "turnout_unfinished_": "The server",
    "turnout_unsent_": "The server",
}
"""Headings by the beginnings of names; all else is about requests."""


def metrics_page() -> str:
    """Returns the page's text."""
    areas: dict[str, list[tuple[str, str, str, str]]] = {"Requests": []}
    for family in (*_one_of_everything().families(), *worker_families({0: True}, {0: 0})):
        area = next((title for start, title in _AREAS.items() if family.name.startswith(start)), "Requests")
        row = (f"`{family.name}`", family.kind, ", ".join(_labels(family)), prose(family.help))
        areas.setdefault(area, []).append(row)
    blocks = [
        f"## {title}\n\n" + table(("metric", "type", "labels", ""), sorted(rows)) for title, rows in areas.items()
    ]
    buckets = [
        ("`*_duration_seconds`, `turnout_shadow_lag_seconds`", LATENCY_BOUNDS),
        ("`turnout_batch_size`", BATCH_BOUNDS),
        ("`turnout_shadow_abs_difference`", DIFFERENCE_BOUNDS),
    ]
    rows = [(names, ", ".join(f"{bound:g}" for bound in bounds)) for names, bounds in buckets]
    blocks.append("## Buckets\n\n" + table(("histogram", "upper bounds"), rows))
    return page("Metrics", "`server/turnout/telemetry/`", _INTRODUCTION, *blocks)


def _labels(family: Family) -> list[str]:
    series = list(family.series)
    if not series:
        raise ValueError(f"{family.name}: nothing was recorded for it; do so in docs/reference/metrics_pages.py")
    return list(series[0][0])


def _one_of_everything() -> Metrics:
    metrics = Metrics()
    metrics.known = [KnownVersion("m", "1.0.0", "sha256:", "Failed", "model")]
    version = metrics.version("m", "1.0.0", "sha256:", slo_edges=(0.1,))
    role = version.role("canary")
    role.decisions = 1
    role.answered(0.001, 0.0, 0.001)
    version.batches.observe(1, 0.001)
    version.load_seconds = 1.0
    version.memory_bytes = {"cpu": 1}
    version.isolated_restarts = 1
    version.isolated_processes = 1
    version.cuda_graphs = 4
    version.tensorrt = version.tensorrt_fp16 = True
    version.traffic_weight = {("canary", "applied"): 1.0}
    version.traffic_share = {"canary": 1.0}
    shadow = metrics.shadow("m", "1.0.0")
    shadow.dropped["stale"] = 1
    shadow.mismatches["y", "value"] = 1
    shadow.difference("y", 0.1)
    shadow.lag.observe(0.1)
    shadow.agreement = shadow.noise = 1.0
    metrics.rollouts.running = [
        RolloutSample(
            "m", "1.0.0", {"soaking": 1}, 1, 0.1, {"gate": 1}, {"errors": 1.0}, 100.0, {("canary", "errors"): 1}
        )
    ]
    metrics.rollouts.meters = [MeterSample({"model": "m"}, 0, 1, {"1.0.0": 1.0}, {("1.0.0", "twin"): 1})]
    metrics.rollouts.probes, metrics.rollouts.confirms = ["p"], True
    metrics.rollouts.probe_values = {("p", "m", "1.0.0"): 0.1}
    metrics.rollouts.servers, metrics.rollouts.behind = {"alive": 1}, {("host:8001", "m"): 1}
    metrics.server.epochs = {"m": 1}
    metrics.server.on_demand_loads["m", "ready"] = metrics.server.evictions["m"] = 1
    metrics.server.waiting_for_load, metrics.server.memory_budgets = {"m": 1}, {"cpu": 1}
    metrics.server.memory = {"cpu": DeviceMemory(1, 2)}
    metrics.server.gpus = [Gpu(0, "GPU-1", "cuda:0", 0.5, 1, 2, 1)]
    metrics.server.spans = {"exported": 1}
    metrics.faults.watch("grpc.health.v1.Health")
    metrics.server.missing_versions = {"m": 0}
    metrics.server.cache_bytes = 0
    metrics.server.connections, metrics.server.connection_limits = {"grpc": 1}, {"grpc": 1}
    metrics.server.tls = TlsRecorder({"grpc": 0.0}, {"grpc": 0}, {"grpc": False})
    metrics.server.auth = AuthRecorder(enabled=True, limited={("batch", "rate"): 1}, keys_failed={"corp": False})
    return metrics
