"""The rules for merging the series of several workers, by metric family. Pure."""

from collections.abc import Mapping, Sequence
from enum import Enum, auto


class Rule(Enum):
    """How to merge the values of a series."""

    SUM = auto()
    """The sum: each worker has a part of the total."""
    MOST = auto()
    """The maximum: all workers measure the same value, or the highest value is relevant."""
    LEAST = auto()
    """The minimum: the value is 1 only if it is 1 in every worker, or the earliest time is relevant."""
    MEAN = auto()
    """The mean: the value is a share of the traffic, which is distributed over the workers."""
    EACH = auto()
    """No merging: the value of each worker is shown with the worker's index as a label."""
    DEVICE = auto()
    """The sum for the CPU, where each worker has a part, and the maximum for a GPU, where each reports the total."""
    STATE = auto()
    """One series for each version, with its least advanced state in any worker."""


COUNTERS: Mapping[str, Rule] = {
    # Not the count of one process: a rollout's evidence, which moves with the rollout's lease.
    "turnout_rollout_bad_events_total": Rule.MOST,
}
"""Rules for counters that are not summed."""

_BY_RULE: Mapping[Rule, Sequence[str]] = {
    Rule.SUM: (
        "turnout_isolated_processes", "turnout_inflight_requests", "turnout_queue_depth", "turnout_requests_under_way",
        "turnout_unfinished_bytes", "turnout_unsent_bytes", "turnout_connections", "turnout_connections_limit",
        "turnout_version_memory_bytes", "turnout_version_memory_budget_bytes",
        "turnout_version_waiting_requests", "turnout_traffic_share", "turnout_shadow_agreement_ratio",
        "turnout_shadow_noise_ratio", "turnout_rollout_false_alarm_requests", "turnout_auth_callers",
        "turnout_gpu_process_memory_bytes", "process_virtual_memory_bytes", "process_resident_memory_bytes",
    ),
    Rule.STATE: ("turnout_version_info",),
    Rule.MOST: (
        "turnout_version_failed", "turnout_queue_fill_ratio", "turnout_version_load_duration_seconds",
        "turnout_version_cuda_graphs", "turnout_version_tensorrt", "turnout_version_tensorrt_fp16",
        "turnout_rollout_state", "turnout_rollout_step", "turnout_rollout_weight", "turnout_rollout_paused",
        "turnout_rollout_e_value", "turnout_rollout_threshold", "turnout_rollout_unreadable",
        "turnout_rollout_last_tick_seconds", "turnout_rollout_false_alarm_e_value", "turnout_policy_epoch",
        "turnout_rollout_tick_duration_seconds", "turnout_rollout_unrecorded", "turnout_probe_value", "turnout_servers",
        "turnout_server_epochs_behind", "turnout_memory_limit_bytes", "turnout_cache_bytes", "turnout_missing_versions",
        "turnout_tls_reload_failing", "turnout_auth_policy_reload_failing", "turnout_auth_keys_failing",
        "turnout_gpu_utilization_ratio", "turnout_gpu_memory_used_bytes", "turnout_gpu_memory_total_bytes",
        "python_info",
    ),
    Rule.MEAN: ("turnout_traffic_weight",),
    Rule.DEVICE: ("turnout_memory_used_bytes",),
    Rule.LEAST: (
        "turnout_repository_available", "turnout_state_store_available",
        "turnout_tls_certificate_expiry_timestamp_seconds", "process_start_time_seconds",
    ),
    Rule.EACH: ("process_open_fds", "process_max_fds"),
}  # fmt: skip

GAUGES: Mapping[str, Rule] = {name: rule for rule, names in _BY_RULE.items() for name in names}
"""Rules for gauges. A gauge that is not listed is shown for each worker. Of ratios, numerators and denominators are
summed."""

STATES = ("ready", "unloaded", "draining", "new", "warming", "loading", "failed")
"""States of a version, the best first. A version is `ready` only if it is ready in every worker that knows it."""


def rule_of(name: str, kind: str) -> Rule:
    """Returns the rule for merging a family."""
    if kind == "gauge":
        return GAUGES.get(name, Rule.EACH)
    return COUNTERS.get(name, Rule.SUM)
