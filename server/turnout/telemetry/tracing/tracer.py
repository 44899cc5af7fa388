"""Which requests are traced, and their way to the exporter."""

import asyncio
import math
import random
from collections.abc import Callable, Mapping, Sequence

from turnout.telemetry.tracing.context import SpanContext
from turnout.telemetry.tracing.trace import Operation, ShadowCopy, Trace

_ID_BITS = 64
_AT_ONCE = 64
"""Requests whose ids are drawn in one go, and whose spans are made so, which takes half a millisecond. One by one among
other work, each costs three to six times as much: the caches have long forgotten how."""

_AT_MOST_SECONDS = 0.2
"""How long a request that ended waits for others."""

_SHARE_BITS = 56
_NOTHING = -1
"""Of a trace id's lowest bits, those that tell of the share: W3C asks them to be random, and others sample by them."""


class Tracer:
    """Begins traces. The caller's decision holds where there is one; else a share of the requests is traced.

    Used on the event loop only.

    Attributes:
        sample_ratio: The share that it began with.
    """

    def __init__(
        self,
        sample_ratio: float,
        write_requests: Callable[[Sequence[Trace]], None],
        write_copy: Callable[[ShadowCopy], None],
    ) -> None:
        """Prepares.

        Args:
            sample_ratio: Share of the requests that are traced, 0 to 1, where their callers have not decided.
            write_requests: Makes spans of requests that ended.
            write_copy: Makes a span of a copy.
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
        """Has other shares of the requests traced from now on.

        Which model a request is for is not known when it comes: as many are begun as the largest share asks for, and
        `keeps` leaves out those that are too many of theirs.

        Args:
            ratio: Of all models that are not named in `by_model`, 0 to 1, where callers have not decided. None: nothing
                is traced, whatever they decided.
            by_model: Of each of these models, likewise.
        """
        most = max(share or 0.0 for share in (ratio, *by_model.values()))
        self._log_left_out = math.log1p(-most) if most < 1 else -math.inf
        self._bound = _bound(most)
        self._bounds = {model: _bound(share) for model, share in by_model.items()}
        self._other_bound = _bound(ratio)
        self._drawn = self._draw()
        self._until_next = self._gap()

    def keeps(self, trace: Trace, model: str) -> bool:
        """Tells whether a trace that was begun goes on, now that the request's model is known."""
        bound = self._bounds.get(model, self._other_bound)
        if trace.parent is not None:
            return bound != _NOTHING
        return int.from_bytes(trace.trace_id[-_SHARE_BITS // 8 :]) < bound

    def begin(self, operation: Operation, parent: SpanContext | None) -> Trace | None:
        """Returns the trace of a request that comes; None if nothing is to be noted of it.

        Args:
            operation: What is called.
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
        """Makes up ids of traces and of their first spans, and how far it is from each to the next, many at once."""
        if not self._bound:
            return []
        trace_ids = [
            self._bits(128 - _SHARE_BITS) << _SHARE_BITS | self._random.randrange(self._bound) for _ in range(_AT_ONCE)
        ]
        return [((trace_id or 1).to_bytes(16), self.new_span_id(), self._gap()) for trace_id in trace_ids]

    def _gap(self) -> int:
        """Returns which of the requests to come is the next that is traced, 1 being the next one; 0 for none.

        Drawing how many are left out, of the geometric distribution, is drawing for each of them whether it is, and
        costs the others nothing.
        """
        if not self._bound:
            return 0
        return 1 + int(math.log1p(-self._random.random()) / self._log_left_out)

    def ended(self, trace: Trace) -> None:
        """Has spans made of a request, once its answer has left and others have ended too."""
        self._ended.append(trace)
        if len(self._ended) == _AT_ONCE:
            asyncio.get_running_loop().call_soon(self._write_some)
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_AT_MOST_SECONDS, self._write_some)

    def flush(self) -> None:
        """Makes the spans that are still to be made."""
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
        if self._ended:  # a burst; what else waits for the loop comes between
            asyncio.get_running_loop().call_soon(self._write_some)

    def new_span_id(self) -> bytes:
        """Makes up a span's id."""
        return (self._bits(_ID_BITS) or 1).to_bytes(8)

    def new_span_ids(self, count: int) -> bytes:
        """Makes up ids of `count` spans, one after another; none will ever be zero, which is not an id."""
        return self._bits(_ID_BITS * count).to_bytes(8 * count) if count else b""

    def new_trace_id(self) -> bytes:
        """Makes up a trace's id."""
        return (self._bits(2 * _ID_BITS) or 1).to_bytes(16)


def _bound(share: float | None) -> int:
    """Returns what the lowest bits of a trace's id are below if it is one of a share; `_NOTHING` for None."""
    return _NOTHING if share is None else round(share * 2**_SHARE_BITS)
