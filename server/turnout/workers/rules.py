"""The rules for merging the series of several workers, by metric family. Pure."""

from collections.abc import Mapping
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

GAUGES: Mapping[str, Rule] = {
    "turnout_isolated_processes": Rule.SUM,
    "turnout_version_info": Rule.STATE,
    "turnout_version_failed": Rule.MOST,
    "turnout_inflight_requests": Rule.SUM,
    "turnout_queue_depth": Rule.SUM,
    "turnout_requests_under_way": Rule.SUM,
    "turnout_unfinished_bytes": Rule.SUM,
    "turnout_connections": Rule.SUM,
    "turnout_connections_limit": Rule.SUM,
    "turnout_queue_fill_ratio": Rule.MOST,
    "turnout_version_load_duration_seconds": Rule.MOST,
    "turnout_version_cuda_graphs": Rule.MOST,
    "turnout_version_tensorrt": Rule.MOST,
    "turnout_version_tensorrt_fp16": Rule.MOST,
    "turnout_version_memory_bytes": Rule.SUM,
    "turnout_version_memory_budget_bytes": Rule.SUM,
    "turnout_version_waiting_requests": Rule.SUM,
    "turnout_traffic_weight": Rule.MEAN,
    "turnout_traffic_share": Rule.SUM,  # a ratio, whose numerators and denominators are summed
    "turnout_shadow_agreement_ratio": Rule.SUM,
    "turnout_shadow_noise_ratio": Rule.SUM,
    "turnout_rollout_state": Rule.MOST,
    "turnout_rollout_step": Rule.MOST,
    "turnout_rollout_weight": Rule.MOST,
    "turnout_rollout_paused": Rule.MOST,
    "turnout_rollout_e_value": Rule.MOST,
    "turnout_rollout_threshold": Rule.MOST,
    "turnout_rollout_unreadable": Rule.MOST,
    "turnout_rollout_last_tick_seconds": Rule.MOST,
    "turnout_rollout_false_alarm_e_value": Rule.MOST,
    "turnout_rollout_false_alarm_requests": Rule.SUM,
    "turnout_policy_epoch": Rule.MOST,
    "turnout_rollout_tick_duration_seconds": Rule.MOST,
    "turnout_rollout_unrecorded": Rule.MOST,
    "turnout_probe_value": Rule.MOST,
    "turnout_servers": Rule.MOST,
    "turnout_server_epochs_behind": Rule.MOST,
    "turnout_memory_used_bytes": Rule.DEVICE,
    "turnout_memory_limit_bytes": Rule.MOST,
    "turnout_repository_available": Rule.LEAST,
    "turnout_cache_bytes": Rule.MOST,
    "turnout_state_store_available": Rule.LEAST,
    "turnout_missing_versions": Rule.MOST,
    "turnout_tls_certificate_expiry_timestamp_seconds": Rule.LEAST,
    "turnout_tls_reload_failing": Rule.MOST,
    "turnout_auth_callers": Rule.SUM,
    "turnout_auth_policy_reload_failing": Rule.MOST,
    "turnout_auth_keys_failing": Rule.MOST,
    "turnout_gpu_utilization_ratio": Rule.MOST,
    "turnout_gpu_memory_used_bytes": Rule.MOST,
    "turnout_gpu_memory_total_bytes": Rule.MOST,
    "turnout_gpu_process_memory_bytes": Rule.SUM,
    "python_info": Rule.MOST,
    "process_virtual_memory_bytes": Rule.SUM,
    "process_resident_memory_bytes": Rule.SUM,
    "process_start_time_seconds": Rule.LEAST,
    "process_open_fds": Rule.EACH,
    "process_max_fds": Rule.EACH,
}
"""Rules for gauges. A gauge that is not listed is shown for each worker."""

STATES = ("ready", "unloaded", "draining", "new", "warming", "loading", "failed")
"""States of a version, the best first. A version is `ready` only if it is ready in every worker that knows it."""


def rule_of(name: str, kind: str) -> Rule:
    """Returns the rule for merging a family."""
    if kind == "gauge":
        return GAUGES.get(name, Rule.EACH)
    return COUNTERS.get(name, Rule.SUM)
