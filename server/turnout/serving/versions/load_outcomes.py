"""Reports the outcome of loads: in metrics, in the log, and as errors for requests."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from structlog.typing import FilteringBoundLogger

from turnout.errors import (
    ConfigError,
    DigestMismatch,
    MemoryBudgetExceeded,
    ModelFailure,
    NotLoaded,
    NotTrusted,
    TurnoutError,
    UnavailableError,
    VersionLoading,
)
from turnout.serving.loading.loaded_version import LoadedVersion
from turnout.serving.sessions.providers import TENSORRT
from turnout.serving.versions.availability import Availability
from turnout.serving.versions.catalog import VersionEntry
from turnout.serving.versions.lifecycle import LifecycleState
from turnout.telemetry.metrics.server import LoadOutcome
from turnout.telemetry.metrics.versions import Metrics, VersionRecorder

_OUTCOMES: tuple[tuple[type[TurnoutError], LoadOutcome], ...] = (
    (DigestMismatch, LoadOutcome.DIGEST_MISMATCH),
    (NotTrusted, LoadOutcome.NOT_TRUSTED),
    (MemoryBudgetExceeded, LoadOutcome.MEMORY),
    (ModelFailure, LoadOutcome.MODEL),
    (ConfigError, LoadOutcome.CONFIG),
)


@dataclass(frozen=True, slots=True)
class LoadTelemetry:
    """Telemetry for loads and unloads."""

    metrics: Metrics
    availability: Availability
    log: FilteringBoundLogger


def load_outcome(error: TurnoutError | None) -> LoadOutcome:
    """Returns the outcome of a load that ended with `error`; None is success."""
    if error is None:
        return LoadOutcome.READY
    return next((outcome for kind, outcome in _OUTCOMES if isinstance(error, kind)), LoadOutcome.OTHER)


def count_loaded(recorder: VersionRecorder, loaded: LoadedVersion) -> None:
    """Records in a version's metrics how it was loaded."""
    recorder.load_seconds = loaded.seconds
    recorder.memory_bytes = dict(loaded.memory_bytes)
    recorder.cuda_graphs = len(loaded.graphs.buckets) if loaded.graphs.reason else None
    recorder.tensorrt = loaded.providers[0] == TENSORRT if loaded.tensorrt else None
    recorder.tensorrt_fp16 = loaded.precision.fp16 if loaded.precision.reason else None


def tell_loaded(log: FilteringBoundLogger, entry: VersionEntry, loaded: LoadedVersion) -> None:
    """Logs how a version was loaded."""
    log.info(
        "version ready", model=entry.model, version=entry.version_text, seconds=round(loaded.seconds, 3),
        providers=loaded.providers, batching=loaded.plan.reason, isolation=str(loaded.isolation),
        **({"cuda_graphs": loaded.graphs.reason} if loaded.graphs.reason else {}),
        **({"tensorrt": loaded.tensorrt} if loaded.tensorrt else {}),
    )  # fmt: skip
    if loaded.warmth.warning:
        log.warning("warm-up incomplete", model=entry.model, version=entry.version_text, reason=loaded.warmth.warning)


def of_loaded(loaded: LoadedVersion) -> Mapping[str, Any]:
    """Returns the fields of a version's entry that describe how it was loaded. A new entry has their defaults."""
    return {
        "providers": loaded.providers,
        "max_batch_rows": loaded.plan.max_rows,
        "batching": loaded.plan.reason,
        "load_seconds": loaded.seconds,
        "isolation": str(loaded.isolation),
        "cuda_graphs": loaded.graphs.reason,
        "tensorrt": loaded.tensorrt,
    }


LOADING_RETRY_SECONDS = 1.0
"""Retry delay in seconds for a version that is loading: loads take from 0.4 seconds to some minutes."""

_MEMORY_RETRY_SECONDS = 30.0
"""Retry delay in seconds for a version that did not fit: others leave memory as requests end."""


def load_failure(entry: VersionEntry, away: str = "") -> TurnoutError:
    """Returns the error that explains why a version cannot answer. It is a new object, since raising changes it.

    `away` says why nothing can be loaded now, as a sentence; "" if loading is possible.
    """
    name = f"{entry.model} {entry.version}"
    if entry.state in (LifecycleState.LOADING, LifecycleState.WARMING):
        what = f": {entry.reason}" if entry.reason else ""
        return VersionLoading(f"{name} is {entry.state}{what}", retry_after=LOADING_RETRY_SECONDS)
    if isinstance(entry.failure, DigestMismatch):
        return type(entry.failure)(entry.failure.message, violations=entry.failure.violations)
    if entry.state is LifecycleState.FAILED:
        message = f"{name} could not be loaded: {entry.reason or 'no reason is known'}"
        if entry.on_demand and isinstance(entry.failure, MemoryBudgetExceeded):
            return MemoryBudgetExceeded(message, retry_after=_MEMORY_RETRY_SECONDS)
        if isinstance(entry.failure, UnavailableError):  # such as a store that does not answer; it is tried again
            return UnavailableError(message, retry_after=entry.failure.retry_after or LOADING_RETRY_SECONDS)
        return NotLoaded(message)
    if away:
        message = f"{name} is not in memory, and cannot be loaded now: {away}"
        return UnavailableError(message, retry_after=LOADING_RETRY_SECONDS)
    why = {
        LifecycleState.NEW: "is published but not loaded",
        LifecycleState.DRAINING: "is being unloaded",
        LifecycleState.UNLOADED: "was unloaded",
    }[entry.state]
    return NotLoaded(f"{name} {why}{': ' + entry.reason if entry.reason else ''}")


def unexpected(error: Exception) -> ModelFailure:
    """Returns the error to report for an unexpected exception in a load."""
    failure = ModelFailure(f"it cannot be loaded ({type(error).__name__})")
    failure.__cause__ = error
    return failure
