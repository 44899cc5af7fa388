"""A version's answer to one request of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass

from turnout.serving.sessions.tensor import Array


@dataclass(slots=True)
class BatchedAnswer:
    """What became of one request.

    Attributes:
        outputs: Its own, in the order asked for.
        queue_seconds: From admission to the start of the run.
        compute_seconds: Of the whole batch.
        batch_rows: Of the whole batch; 0 if the version is unbatched.
        batch_requests: Requests that ran together.
        started: `time.monotonic()` when the run started.
    """

    outputs: Sequence[Array]
    queue_seconds: float
    compute_seconds: float
    batch_rows: int
    batch_requests: int = 1
    started: float = 0.0
