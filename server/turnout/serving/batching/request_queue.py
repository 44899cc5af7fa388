"""Requests that wait for a runner: in one line for each shape, the lines taking turns. Pure.

A line is *ready* when a runner may take from it now: its requests share runs with nobody, it fills a batch, or one of
them was held for company as long as it may be: by its deadline at most half of the time that it had. A ready line never
waits for one that is held.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from turnout.serving.batching.batch import Line
from turnout.serving.sessions.tensor import Array


@dataclass(frozen=True, slots=True)
class QueueBounds:
    """How much may wait, and how long a runner waits for more.

    Attributes:
        requests: Most requests that wait.
        nbytes: Most bytes of inputs that wait.
        max_delay: Seconds that a free runner waits for a fuller batch; 0.0 takes what is there.
        spin: Seconds that an idle runner looks for requests before it sleeps, one at a time; 0.0 for none.
    """

    requests: int
    nbytes: int
    max_delay: float = 0.0
    spin: float = 0.0


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """A request that waits.

    Attributes:
        inputs: By name.
        outputs: Names of the outputs wanted.
        rows: That it adds to a batch.
        nbytes: Of its inputs.
        line: What it has to have in common with those it shares a run with; None if it runs alone.
        deadline: When its answer is worth nothing any more, seconds of the caller's clock; None for never.
        admitted: When it came, on that clock.
    """

    inputs: Mapping[str, Array]
    outputs: Sequence[str]
    rows: int
    nbytes: int
    line: Line | None
    deadline: float | None
    admitted: float


R = TypeVar("R", bound=QueuedRequest)


@dataclass(slots=True)
class _Waiting(Generic[R]):
    """One line.

    Attributes:
        requests: Each with the time until which it may be held. A dict keeps the order and lets a request leave from
            the middle at once.
        rows: Of all of them.
        due: The earliest of those times.
    """

    requests: dict[R, float] = field(default_factory=dict)
    rows: int = 0
    due: float = math.inf

    @property
    def first(self) -> R:
        return next(iter(self.requests))


class RequestQueue(Generic[R]):
    """The lines of one version's lane. Not thread-safe; takes the time from its caller.

    Attributes:
        requests: That wait.
        nbytes: Of their inputs.
    """

    def __init__(self, max_delay: float) -> None:
        """Makes an empty queue.

        Args:
            max_delay: Most seconds that a line is held until it fills a batch.
        """
        self._max_delay = max_delay
        self._lines: OrderedDict[Line | R, _Waiting[R]] = OrderedDict()  # a request that runs alone is its own line
        self.requests = 0
        self.nbytes = 0

    def add(self, request: R, max_rows: int) -> bool:
        """Queues a request and tells whether its line is ready; batches hold up to `max_rows` rows."""
        key: Line | R = request if request.line is None else request.line
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Waiting()
        line.requests[request] = until = self.held_until(request)
        line.due = min(line.due, until)
        line.rows += request.rows
        self.requests += 1
        self.nbytes += request.nbytes
        return self._due(line, max_rows) <= request.admitted

    def remove(self, request: R) -> None:
        """Takes a request out, if it still waits."""
        key: Line | R = request if request.line is None else request.line
        line = self._lines.get(key)
        if line is not None and request in line.requests:
            self._leave(line, request)
            if line.requests:
                line.due = self._earliest(line)
            else:
                del self._lines[key]

    def held_until(self, request: R) -> float:
        """Returns until when a request may wait for a fuller batch."""
        if not self._max_delay or request.line is None:
            return request.admitted
        left = math.inf if request.deadline is None else request.deadline - request.admitted
        return request.admitted + min(self._max_delay, left / 2)

    def clear(self) -> list[R]:
        """Takes out everything."""
        everything = [request for line in self._lines.values() for request in line.requests]
        self._lines.clear()
        self.requests = self.nbytes = 0
        return everything

    def take(self, now: float, max_rows: int, *, hold: bool = True) -> list[R]:
        """Takes as many requests of the first ready line as one run may hold; the line then waits its turn again.

        Args:
            now: The time.
            max_rows: Most rows of a batch; a request that has more runs alone.
            hold: False if no line is held for company.

        Returns:
            Requests of one line, the first come first, without those whose deadline passed; [] if no line is ready.
        """
        while (key := self._ready(now, max_rows, hold=hold)) is not None:
            line = self._lines[key]
            batch = self._pop(line, now, max_rows)
            if line.requests:
                line.due = self._earliest(line)
                self._lines.move_to_end(key)
            else:
                del self._lines[key]
            if batch:
                return batch
        return []

    def due(self, max_rows: int) -> float | None:
        """Returns when the first line is ready, which may have been long ago; None if nothing waits."""
        return min((self._due(line, max_rows) for line in self._lines.values()), default=None)

    def _ready(self, now: float, max_rows: int, *, hold: bool) -> Line | R | None:
        found = (key for key, line in self._lines.items() if not hold or self._due(line, max_rows) <= now)
        return next(found, None)

    def _due(self, line: _Waiting[R], max_rows: int) -> float:
        return line.first.admitted if line.rows >= max_rows else line.due

    def _earliest(self, line: _Waiting[R]) -> float:
        return min(line.requests.values()) if self._max_delay else line.first.admitted

    def _pop(self, line: _Waiting[R], now: float, max_rows: int) -> list[R]:
        batch: list[R] = []
        rows = 0
        while line.requests and (not batch or rows + line.first.rows <= max_rows):
            request = line.first
            self._leave(line, request)
            if request.deadline is None or request.deadline > now:
                batch.append(request)
                rows += request.rows
        return batch

    def _leave(self, line: _Waiting[R], request: R) -> None:
        del line.requests[request]
        line.rows -= request.rows
        self.requests -= 1
        self.nbytes -= request.nbytes
