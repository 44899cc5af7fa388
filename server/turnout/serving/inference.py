"""The data plane that every protocol shares: one request in, one answer out.

This is the narrow port behind which the engine lives: protocols hand in decoded tensors and get tensors back, and know
nothing of sessions, queues or routes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from turnout.serving.catalog import VersionEntry

Array = NDArray[Any]


class Role(StrEnum):
    """How a version came to answer."""

    PINNED = "pinned"
    BASELINE = "baseline"
    CANARY = "canary"
    SHADOW = "shadow"


@dataclass(frozen=True, slots=True)
class Route:
    """Which version answers, and why it does.

    Attributes:
        entry: The version.
        role: How it came to answer.
        epoch: Epoch of the policy that decided; 0 where the model has none.
    """

    entry: VersionEntry
    role: Role
    epoch: int = 0


@dataclass(slots=True)
class InferenceRequest:
    """A decoded request.

    Attributes:
        model: The model's name, as the client wrote it.
        selector: The version selector, as the client wrote it.
        inputs: By name. Strings are object arrays of `str`; bfloat16 is `ml_dtypes.bfloat16`.
        outputs: Names of the outputs wanted, in order; empty means all, in the signature's order.
        request_id: Names the request in logs.
        routing_key: Requests with the same key meet the same version while the weights allow it; "" for none.
        deadline: `time.monotonic()` after which nobody waits for the answer; None for no bound.
    """

    model: str
    selector: str
    inputs: Mapping[str, Array]
    outputs: Sequence[str] = ()
    request_id: str = ""
    routing_key: str = ""
    deadline: float | None = None


@dataclass(slots=True)
class InferenceResult:
    """The answer to an InferenceRequest.

    Attributes:
        outputs: Name and value of each output, in the order asked for.
        route: Which version answered, and why.
        queue_seconds: From admission to the start of the run.
        compute_seconds: Time of the model's run, of the whole batch.
        batch_rows: Rows in the batch that the request ran in; 0 where the version is not batched.
    """

    outputs: Sequence[tuple[str, np.ndarray[Any, Any]]]
    route: Route
    queue_seconds: float
    compute_seconds: float
    batch_rows: int


class Router(Protocol):
    """Decides who answers. `turnout.routing.router` is the one that ships."""

    def route(self, model: str, selector: str, routing_key: str) -> Route:
        """Returns the route of a request.

        Raises:
            InvalidSelector: The selector does not parse.
            ModelNotFound, VersionNotFound: It parses and nothing answers it.
            NotLoaded, VersionLoading: What it names is known but cannot answer now.
            DigestMismatch: What it names was changed on disk since its publication.
        """
        ...

    def describe(self, model: str, selector: str) -> VersionEntry:
        """Returns the version that the selector names, whatever its state. Raises as `route` for what does not exist."""
        ...
