"""A version's answer to one request of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass

from turnout.serving.sessions.tensor import Array


@dataclass(slots=True)
class BatchedAnswer:
    """The answer to one request, with the timings of its run.

    Attributes:
        queue_seconds: Seconds from admission to the start of the run.
        compute_seconds: Duration in seconds of the run of the whole batch.
        batch_rows: Number of rows in the whole batch; 0 if the version is unbatched.
        started: `time.monotonic()` when the run started.
    """

    outputs: Sequence[Array]
    queue_seconds: float
    compute_seconds: float
    batch_rows: int
    batch_requests: int = 1
    started: float = 0.0
