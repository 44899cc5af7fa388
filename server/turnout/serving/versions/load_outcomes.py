"""What became of a load: in the words of the metrics, and as requests for the version are told."""

from dataclasses import dataclass

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
from turnout.serving.versions.availability import Availability
from turnout.serving.versions.catalog import VersionEntry
from turnout.serving.versions.lifecycle import LifecycleState
from turnout.telemetry.metrics.server import LoadOutcome
from turnout.telemetry.metrics.versions import Metrics

_OUTCOMES: tuple[tuple[type[TurnoutError], LoadOutcome], ...] = (
    (DigestMismatch, LoadOutcome.DIGEST_MISMATCH),
    (NotTrusted, LoadOutcome.NOT_TRUSTED),
    (MemoryBudgetExceeded, LoadOutcome.MEMORY),
    (ModelFailure, LoadOutcome.MODEL),
    (ConfigError, LoadOutcome.CONFIG),
)


@dataclass(frozen=True, slots=True)
class LoadTelemetry:
    """What is told of loads and unloads.

    Attributes:
        metrics: Counts by version.
        availability: Told whether the repository can be read.
        log: Where loads and unloads are logged.
    """

    metrics: Metrics
    availability: Availability
    log: FilteringBoundLogger


def load_outcome(error: TurnoutError | None) -> LoadOutcome:
    """Returns what a load came to that ended with `error`; None is success."""
    if error is None:
        return LoadOutcome.READY
    return next((outcome for kind, outcome in _OUTCOMES if isinstance(error, kind)), LoadOutcome.OTHER)


LOADING_RETRY_SECONDS = 1.0
"""When to ask again for a version that is loading: loads take from 0.4 seconds to some minutes."""

_MEMORY_RETRY_SECONDS = 30.0
"""When to ask again for a version that did not fit: others leave memory as requests end."""


def load_failure(entry: VersionEntry, away: str = "") -> TurnoutError:
    """Makes the error that says why a version cannot answer: a new one each time, since raising one adds to it.

    Args:
        entry: The version; it is not Ready.
        away: Why nothing can be loaded now, in a sentence; "" where that is not so.
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
    """Returns what is told of an error in a load that nobody foresaw."""
    failure = ModelFailure(f"it cannot be loaded ({type(error).__name__})")
    failure.__cause__ = error
    return failure
