"""Decides which requests are traced, and passes them to the exporter."""

import asyncio
import math
import random
from collections.abc import Callable, Mapping, Sequence

from turnout.telemetry.tracing.context import SpanContext
from turnout.telemetry.tracing.trace import Operation, ShadowCopy, Trace

_ID_BITS = 64
_AT_ONCE = 64
"""Requests whose ids are drawn at once, and whose spans are made at once, which takes half a millisecond. One by one
between other work, each costs three to six times as much, because of cold caches."""

_AT_MOST_SECONDS = 0.2
"""Seconds that an ended request waits for others."""

_SHARE_BITS = 56
_NOTHING = -1
"""The lowest bits of a trace id, which decide sampling: W3C requires them to be random, and others sample by them."""


class Tracer:
    """Starts traces. If the caller has decided, its decision applies; else a share of the requests is traced.

    Used on the event loop only.

    Attributes:
        sample_ratio: The configured share.
    """

    def __init__(
        self,
        sample_ratio: float,
        write_requests: Callable[[Sequence[Trace]], None],
        write_copy: Callable[[ShadowCopy], None],
    ) -> None:
        """Prepares.

        Args:
            sample_ratio: Share of the requests to trace, 0 to 1, if their callers have not decided.
            write_requests: Makes the spans of ended requests.
            write_copy: Makes the span of a copy.
        """
        self.sample_ratio = sample_ratio
        self._random = random.Random()  # noqa: S311 - ids need no secrecy
        self._bits = self._random.getrandbits
        self.sample(sample_ratio, {})
        self._write_requests = write_requests
        self._write_copy = write_copy
        self._ended: list[Trace] = []
        self._timer: asyncio.TimerHandle | None = None

    def sample(self, ratio: float | None, by_model: Mapping[str, float | None]) -> None:
        """Changes the shares of the requests to trace from now on.

        The model of a request is not known when it arrives: traces are started for the largest share, and `keeps` drops
        those that are too many for their model.

        Args:
            ratio: For models that are not in `by_model`, 0 to 1, if callers have not decided. None: nothing is traced,
                whatever they decided.
            by_model: The same, for each of these models.
        """
        most = max(share or 0.0 for share in (ratio, *by_model.values()))
        self._log_left_out = math.log1p(-most) if most < 1 else -math.inf
        self._bound = _bound(most)
        self._bounds = {model: _bound(share) for model, share in by_model.items()}
        self._other_bound = _bound(ratio)
        self._drawn = self._draw()
        self._until_next = self._gap()

    def keeps(self, trace: Trace, model: str) -> bool:
        """Tells whether to keep a started trace, now that the request's model is known."""
        bound = self._bounds.get(model, self._other_bound)
        if trace.parent is not None:
            return bound != _NOTHING
        return int.from_bytes(trace.trace_id[-_SHARE_BITS // 8 :]) < bound

    def begin(self, operation: Operation, parent: SpanContext | None) -> Trace | None:
        """Returns the trace of a new request; None if it is not traced.

        Args:
            operation: The method or route.
            parent: The caller's span, if any.
        """
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
        """Draws ids of traces and of their first spans, and the gaps between traced requests, many at once."""
        if not self._bound:
            return []
        trace_ids = [
            self._bits(128 - _SHARE_BITS) << _SHARE_BITS | self._random.randrange(self._bound) for _ in range(_AT_ONCE)
        ]
        return [((trace_id or 1).to_bytes(16), self.new_span_id(), self._gap()) for trace_id in trace_ids]

    def _gap(self) -> int:
        """Returns how many requests ahead the next traced one is, 1 being the very next; 0 for none.

        Drawing the gap from the geometric distribution is the same as drawing for each request, but costs the others
        nothing.
        """
        if not self._bound:
            return 0
        return 1 + int(math.log1p(-self._random.random()) / self._log_left_out)

    def ended(self, trace: Trace) -> None:
        """Queues a request for its spans, which are made after its answer has left, together with others'."""
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
        """Makes a span of a copy."""
        self._write_copy(copy)

    def _write_some(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        some, self._ended = self._ended[:_AT_ONCE], self._ended[_AT_ONCE:]
        self._write_requests(some)
        if self._ended:  # a burst: let other work of the loop run in between
            asyncio.get_running_loop().call_soon(self._write_some)

    def new_span_id(self) -> bytes:
        """Returns a new span id."""
        return (self._bits(_ID_BITS) or 1).to_bytes(8)

    def new_span_ids(self, count: int) -> bytes:
        """Returns `count` new span ids, concatenated; none is ever zero, which is not a valid id."""
        return self._bits(_ID_BITS * count).to_bytes(8 * count) if count else b""

    def new_trace_id(self) -> bytes:
        """Returns a new trace id."""
        return (self._bits(2 * _ID_BITS) or 1).to_bytes(16)


def _bound(share: float | None) -> int:
    """Returns the upper bound for the lowest bits of a sampled trace id; `_NOTHING` for None."""
    return _NOTHING if share is None else round(share * 2**_SHARE_BITS)
