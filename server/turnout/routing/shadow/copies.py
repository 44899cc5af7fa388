"""Copies of requests, with the baseline's answers that they are compared with."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from turnout.errors import TurnoutError, kind_of
from turnout.routing.shadow.ledger import CopyOutcome
from turnout.serving.sessions.tensor import Array
from turnout.telemetry.tracing.trace import ShadowCopy, Trace


@dataclass(frozen=True, slots=True, eq=False)
class Copy:
    """A request and the baseline's answer to it.

    Attributes:
        names: Names of the outputs that the client requested.
        expected: Outputs of the baseline, in that order.
        epoch: Epoch of the policy under which the copy was taken.
        offered: `time.monotonic()` when the answer had been sent.
        nbytes: Size of inputs and outputs in bytes.
        trace: Trace of the request, if it is traced.
    """

    request_id: str
    inputs: Mapping[str, Array]
    names: Sequence[str]
    expected: Sequence[Array]
    epoch: int
    offered: float
    nbytes: int
    trace: Trace | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """The versions whose answers are compared.

    Attributes:
        shadow, baseline: Versions as text.
    """

    model: str
    shadow: str
    baseline: str


def trace_copy(pair: Pair, copy: Copy, outcome: CopyOutcome, error: TurnoutError | None = None) -> None:
    """Creates a span for a copy that was run or dropped, if its request is traced."""
    trace = copy.trace
    if trace is None or not trace.sampled:
        return
    failure, message = ("", "") if error is None else (kind_of(error), error.message)
    trace.sink.copied(
        ShadowCopy(
            trace, pair.model, pair.shadow, pair.baseline, copy.epoch, str(outcome), copy.offered, time.monotonic(),
            failure, message,
        )
    )  # fmt: skip
