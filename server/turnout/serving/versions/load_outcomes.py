"""What became of a load, in the words of the metrics."""

from turnout.errors import ConfigError, DigestMismatch, MemoryBudgetExceeded, ModelFailure, NotTrusted, TurnoutError
from turnout.telemetry.metrics.server import LoadOutcome

_OUTCOMES: tuple[tuple[type[TurnoutError], LoadOutcome], ...] = (
    (DigestMismatch, LoadOutcome.DIGEST_MISMATCH),
    (NotTrusted, LoadOutcome.NOT_TRUSTED),
    (MemoryBudgetExceeded, LoadOutcome.MEMORY),
    (ModelFailure, LoadOutcome.MODEL),
    (ConfigError, LoadOutcome.CONFIG),
)


def load_outcome(error: TurnoutError | None) -> LoadOutcome:
    """Returns what a load came to that ended with `error`; None is success."""
    if error is None:
        return LoadOutcome.READY
    return next((outcome for kind, outcome in _OUTCOMES if isinstance(error, kind)), LoadOutcome.OTHER)
