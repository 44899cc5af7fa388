"""A queue of waiting requests, with one line for each shape; lines take turns. Pure.

A line is *ready* when a runner may take from it now: its request runs alone, it fills a batch, or the time for which
one of its requests may be held back has passed. That time is at most half of what the request had until its deadline. A
ready line never waits for a held one.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from turnout.serving.batching.batch import Line
from turnout.serving.sessions.tensor import Array


@dataclass(frozen=True, slots=True)
class QueueBounds:
    """Bounds of the queue, and how long a runner waits for more requests.

    Attributes:
        nbytes: Maximum size of their inputs in bytes.
        max_delay: Seconds that an idle runner waits for a fuller batch; 0.0 for no wait.
        spin: Seconds that an idle runner spins before it sleeps, one runner at a time; 0.0 for no spinning.
    """

    requests: int
    nbytes: int
    max_delay: float = 0.0
    spin: float = 0.0


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """A waiting request.

    Attributes:
        nbytes: Size of its inputs in bytes.
        line: Properties that requests must share to run with it; None if it runs alone.
        deadline: Time after which its answer is useless, in seconds of the caller's clock; None for no deadline.
        admitted: Time of its arrival on that clock.
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
        requests: Waiting requests, each with the time until which it may be held. A dict keeps their order and allows
            removal from the middle in constant time.
        due: The earliest of those times.
    """

    requests: dict[R, float] = field(default_factory=dict)
    rows: int = 0
    due: float = math.inf

    @property
    def first(self) -> R:
        return next(iter(self.requests))


class RequestQueue(Generic[R]):
    """The lines of one lane of a version, with `nbytes` of inputs. Not thread-safe. The caller supplies the time."""

    def __init__(self, max_delay: float) -> None:
        """Creates an empty queue. Its lines are held for at most `max_delay` seconds to fill a batch."""
        self._max_delay = max_delay
        self._lines: OrderedDict[Line | R, _Waiting[R]] = OrderedDict()  # a request that runs alone is its own line
        self.requests = 0
        self.nbytes = 0

    def add(self, request: R, max_rows: int) -> bool:
        """Queues a request and returns whether its line is ready; batches have at most `max_rows` rows."""
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
        """Removes a request if it still waits."""
        key: Line | R = request if request.line is None else request.line
        line = self._lines.get(key)
        if line is not None and request in line.requests:
            self._leave(line, request)
            if line.requests:
                line.due = self._earliest(line)
            else:
                del self._lines[key]

    def held_until(self, request: R) -> float:
        """Returns the time until which a request may wait for a fuller batch."""
        if not self._max_delay or request.line is None:
            return request.admitted
        left = math.inf if request.deadline is None else request.deadline - request.admitted
        return request.admitted + min(self._max_delay, left / 2)

    def clear(self) -> list[R]:
        """Removes and returns all requests."""
        everything = [request for line in self._lines.values() for request in line.requests]
        self._lines.clear()
        self.requests = self.nbytes = 0
        return everything

    def take(
        self, now: float, max_rows: int, *, share: Callable[[int], int] | None = None, hold: bool = True
    ) -> list[R]:
        """Takes as many requests from the first ready line as fit in one run; the line then moves to the end.

        Args:
            now: Present time.
            max_rows: Maximum number of rows in a batch; a request with more runs alone.
            share: Returns a lower maximum, given the number of rows in the line; None for no lower one. Lines that are
                held to fill batches are not shared.
            hold: Whether lines may be held to fill batches.

        Returns:
            Requests of one line, oldest first, without those whose deadline has passed; [] if no line is ready.
        """
        while (key := self._ready(now, max_rows, hold=hold)) is not None:
            line = self._lines[key]
            batch = self._pop(line, now, max_rows if share is None or self._max_delay else share(line.rows))
            if line.requests:
                line.due = self._earliest(line)
                self._lines.move_to_end(key)
            else:
                del self._lines[key]
            if batch:
                return batch
        return []

    def due(self, max_rows: int) -> float | None:
        """Returns when the first line is ready, possibly in the past; None if no request waits."""
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
