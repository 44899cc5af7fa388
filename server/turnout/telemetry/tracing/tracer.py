"""Decides which requests are traced, and passes them to the exporter."""

import asyncio
import math
import random
from collections.abc import Callable, Mapping, Sequence

from turnout.telemetry.tracing.context import SpanContext
from turnout.telemetry.tracing.trace import Operation, ShadowCopy, Trace

_ID_BITS = 64
_AT_ONCE = 64
"""Number of requests whose ids are drawn together, and whose spans are encoded together, which takes half a
millisecond. Encoding them one by one between other work costs three to six times as much, because of cold caches."""

_AT_MOST_SECONDS = 0.2
"""Maximum time that an ended request waits for others to be encoded with, in seconds."""

_SHARE_BITS = 56
"""Number of the lowest bits of a trace id, which decide sampling: W3C requires them to be random, and other tools
sample by them, too."""

_NOTHING = -1
"""The bound for a model whose requests are never traced."""


class Tracer:
    """Starts the traces of requests and collects the ended ones.

    If the caller has made a sampling decision, it applies; otherwise a share of the requests is traced. Used on the
    event loop only.

    Attributes:
        sample_ratio: The configured share, 0 to 1.
    """

    def __init__(
        self,
        sample_ratio: float,
        write_requests: Callable[[Sequence[Trace]], None],
        write_copy: Callable[[ShadowCopy], None],
    ) -> None:
        """Creates the tracer. The functions encode and queue the spans of ended requests, and that of a copy."""
        self.sample_ratio = sample_ratio
        self._random = random.Random()  # noqa: S311 - ids are not secrets
        self._bits = self._random.getrandbits
        self.sample(sample_ratio, {})
        self._write_requests = write_requests
        self._write_copy = write_copy
        self._ended: list[Trace] = []
        self._timer: asyncio.TimerHandle | None = None

    def sample(self, ratio: float | None, by_model: Mapping[str, float | None]) -> None:
        """Changes the shares of the requests that are traced.

        The model of a request is not known when it arrives. So traces are started for the largest share, and `keeps`
        drops those that exceed the share of their model.

        Args:
            ratio: Share for models that are not in `by_model`, 0 to 1, among requests whose callers have not decided.
                None turns tracing off, even for requests that their caller traces.
            by_model: Shares of single models, with the same meaning.
        """
        most = max(share or 0.0 for share in (ratio, *by_model.values()))
        self._log_left_out = math.log1p(-most) if most < 1 else -math.inf
        self._bound = _bound(most)
        self._bounds = {model: _bound(share) for model, share in by_model.items()}
        self._other_bound = _bound(ratio)
        self._drawn = self._draw()
        self._until_next = self._gap()

    def keeps(self, trace: Trace, model: str) -> bool:
        """Returns whether to keep a started trace, now that the request's model is known."""
        bound = self._bounds.get(model, self._other_bound)
        if trace.parent is not None:
            return bound != _NOTHING
        return int.from_bytes(trace.trace_id[-_SHARE_BITS // 8 :]) < bound

    def begin(self, operation: Operation, parent: SpanContext | None) -> Trace | None:
        """Returns the trace of a new request; None if it is not traced. `parent` is the caller's span, if any."""
        if parent is None:
            self._until_next -= 1
            if self._until_next:
                return None
            trace_id, span_id, self._until_next = self._drawn.pop()
            if not self._drawn:
                self._drawn = self._draw()
            return Trace(True, trace_id, span_id, operation, self)
        if parent.sampled:
            return Trace(True, parent.trace_id, self.new_span_id(), operation, self, parent)
        return Trace(False, parent.trace_id, parent.span_id, operation, self)

    def _draw(self) -> list[tuple[bytes, bytes, int]]:
        """Draws many trace ids, ids of their first spans, and gaps between traced requests at once."""
        if not self._bound:
            return []
        trace_ids = [
            self._bits(128 - _SHARE_BITS) << _SHARE_BITS | self._random.randrange(self._bound) for _ in range(_AT_ONCE)
        ]
        return [((trace_id or 1).to_bytes(16), self.new_span_id(), self._gap()) for trace_id in trace_ids]

    def _gap(self) -> int:
        """Returns the number of requests until the next traced one: 1 for the next request, 0 for never.

        Drawing the gap from a geometric distribution is equivalent to a random decision for each request, but adds no
        cost to requests that are not traced.
        """
        if not self._bound:
            return 0
        return 1 + int(math.log1p(-self._random.random()) / self._log_left_out)

    def ended(self, trace: Trace) -> None:
        """Queues an ended request. Its spans are made together with others', after the answer has been sent."""
        self._ended.append(trace)
        if len(self._ended) == _AT_ONCE:
            asyncio.get_running_loop().call_soon(self._write_some)
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_AT_MOST_SECONDS, self._write_some)

    def flush(self) -> None:
        """Makes the spans of all queued requests."""
        ended, self._ended = self._ended, []
        self._write_requests(ended)

    def copied(self, copy: ShadowCopy) -> None:
        """Makes the span of a copy."""
        self._write_copy(copy)

    def _write_some(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        some, self._ended = self._ended[:_AT_ONCE], self._ended[_AT_ONCE:]
        self._write_requests(some)
        if self._ended:  # let the event loop do other work between batches
            asyncio.get_running_loop().call_soon(self._write_some)

    def new_span_id(self) -> bytes:
        """Returns a new span id."""
        return (self._bits(_ID_BITS) or 1).to_bytes(8)

    def new_span_ids(self, count: int) -> bytes:
        """Returns `count` new span ids, concatenated. Zero, an invalid id, has a negligible probability of 2**-64."""
        return self._bits(_ID_BITS * count).to_bytes(8 * count) if count else b""

    def new_trace_id(self) -> bytes:
        """Returns a new trace id."""
        return (self._bits(2 * _ID_BITS) or 1).to_bytes(16)


def _bound(share: float | None) -> int:
    """Returns the upper bound of the lowest bits of a sampled trace id; `_NOTHING` for None."""
    return _NOTHING if share is None else round(share * 2**_SHARE_BITS)
