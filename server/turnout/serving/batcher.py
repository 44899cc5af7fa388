"""One version's queue and runner threads: a batch is formed when a runner gets free, out of what waits then.

    event loop:     submit -> queue (bounded in requests and bytes)          future <- call_soon_threadsafe
    runner thread:            take a batch of one shape -> join -> run -> split -^

Requests of different shapes wait in line beside each other and take turns, so that none blocks another. A request whose
deadline passed, or whose caller left, leaves the queue and is never computed.
"""

import asyncio
import contextlib
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from turnout.errors import DeadlineExceeded, ModelFailure, NotLoaded, QueueFull, TurnoutError
from turnout.serving.batch import Line, join, shape_of, split
from turnout.serving.batchability import BatchPlan
from turnout.serving.session import MakeRunner, Run
from turnout.serving.tensor import Array, memory_of

_ALONE = "alone"
"""Begins the line of a request that shares its run with no other."""


@dataclass(frozen=True, slots=True)
class QueueBounds:
    """How much may wait, and how long a runner waits for more.

    Attributes:
        requests: Most requests that wait.
        nbytes: Most bytes of inputs that wait.
        max_delay: Seconds that a free runner waits for a fuller batch; 0.0 takes what is there.
    """

    requests: int
    nbytes: int
    max_delay: float = 0.0


@dataclass(slots=True)
class Answer:
    """What became of one request.

    Attributes:
        outputs: Its own, in the order asked for.
        queue_seconds: From admission to the start of the run.
        compute_seconds: Of the whole batch.
        batch_rows: Of the whole batch; 0 where the version is unbatched.
        batch_requests: Requests that ran together.
        started: `time.monotonic()` when the run started.
    """

    outputs: Sequence[Array]
    queue_seconds: float
    compute_seconds: float
    batch_rows: int
    batch_requests: int = 1
    started: float = 0.0


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request in the queue. Its future belongs to the event loop."""

    inputs: Mapping[str, Array]
    outputs: Sequence[str]
    rows: int
    nbytes: int
    line: Line
    deadline: float | None
    admitted: float
    future: "asyncio.Future[Answer]"


@dataclass(slots=True)
class _Outcome:
    """What one run did to each of its requests."""

    batch: Sequence[_Waiting]
    rows: int
    answers: Sequence[Answer | TurnoutError] = field(default_factory=list)


class Batcher:
    """Runs requests of one version on its runners, in batches where its plan allows that.

    Made and used on the event loop; the runners are threads of its own, started as they are first needed, so that a
    hundred idle versions cost no thread.

    Attributes:
        waiting: Requests that wait.
    """

    def __init__(
        self,
        name: str,
        plan: BatchPlan,
        bounds: QueueBounds,
        runners: Sequence[MakeRunner],
        on_batch: Callable[[int], None],
    ) -> None:
        """Prepares the queue.

        Args:
            name: Of the version, for thread names.
            plan: How requests are put together.
            bounds: Of the queue.
            runners: One for each thread.
            on_batch: Told the rows of each batch that ran, on the event loop.
        """
        self._name = name
        self._plan = plan
        self._bounds = bounds
        self._makers = list(runners)
        self._on_batch = on_batch
        self._loop = asyncio.get_running_loop()
        self._threads: list[threading.Thread] = []
        self._ready = threading.Condition()  # guards all that follows
        self._lines: OrderedDict[Line, deque[_Waiting]] = OrderedDict()
        self.waiting = 0
        self._bytes_waiting = 0
        self._idle = 0
        self._closed = False
        self._solo = 0
        self._mean_compute = 0.0

    @property
    def fill(self) -> float:
        """How full the queue is, 0 to 1, by requests or bytes, whichever is nearer its bound.

        More than 1 where a single request is larger than all that may wait: the first is let in whatever its size.
        """
        return max(self.waiting / self._bounds.requests, self._bytes_waiting / self._bounds.nbytes)

    async def submit(self, inputs: Mapping[str, Array], outputs: Sequence[str], deadline: float | None) -> Answer:
        """Queues a request and waits for its answer.

        Args:
            inputs: Valid for the version's signature.
            outputs: Names of the outputs wanted.
            deadline: `time.monotonic()` after which the answer is worth nothing; None for never.

        Raises:
            QueueFull: The queue holds as much as it may.
            DeadlineExceeded: The deadline passed first.
            NotLoaded: The version was closed.
            InputsRefused, ModelFailure, MemoryBudgetExceeded: The run failed.
        """
        waiting = self._admit(inputs, outputs, deadline)
        timer = None if deadline is None else self._loop.call_later(deadline - time.monotonic(), self._expire, waiting)
        try:
            return await waiting.future
        except asyncio.CancelledError:
            self._remove(waiting)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def close(self) -> None:
        """Lets the runners finish what waits, then end. New requests are refused. Does not wait for them."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()

    async def wait_closed(self) -> None:
        """Waits until every runner has ended; a run that hangs is waited for as long as it hangs."""
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _admit(self, inputs: Mapping[str, Array], outputs: Sequence[str], deadline: float | None) -> _Waiting:
        now = time.monotonic()
        if deadline is not None and deadline <= now:
            raise DeadlineExceeded("the deadline had passed when the request arrived")
        shape = shape_of(self._plan, inputs)
        nbytes = memory_of(inputs.values())
        future: asyncio.Future[Answer] = self._loop.create_future()
        with self._ready:
            if self._closed:
                raise NotLoaded(f"{self._name} is being unloaded")
            self._refuse_if_full(nbytes)
            if shape is None:
                self._solo += 1
                shape = (_ALONE, self._solo), 1
            line, rows = shape
            waiting = _Waiting(inputs, outputs, rows, nbytes, line, deadline, now, future)
            self._lines.setdefault(line, deque()).append(waiting)
            self.waiting += 1
            self._bytes_waiting += nbytes
            if self._idle:
                self._ready.notify()
            elif len(self._threads) < len(self._makers):
                self._start_runner()
        return waiting

    def _refuse_if_full(self, nbytes: int) -> None:
        bounds = self._bounds
        if self.waiting >= bounds.requests:
            what = f"{self.waiting} requests wait for {self._name}, the most that may"
        elif self.waiting and self._bytes_waiting + nbytes > bounds.nbytes:
            what = f"{self._bytes_waiting} bytes wait for {self._name}, and {nbytes} more would pass {bounds.nbytes}"
        else:
            return
        # By when the queue of now has been worked off, at the pace of the latest runs.
        expected = self.waiting * self._mean_compute / max(len(self._threads), 1)
        raise QueueFull(what, retry_after=min(max(expected, 0.01), 5.0))

    def _start_runner(self) -> None:
        number = len(self._threads)
        thread = threading.Thread(
            target=self._work, args=(self._makers[number],), name=f"run-{self._name}-{number}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _expire(self, waiting: _Waiting) -> None:
        """On the event loop: the deadline of a request passed."""
        if not waiting.future.done():
            self._remove(waiting)
            waiting.future.set_exception(DeadlineExceeded("the deadline passed before the answer was there"))

    def _remove(self, waiting: _Waiting) -> None:
        """Takes a request out of the queue if it still waits there."""
        with self._ready:
            line = self._lines.get(waiting.line)
            if line is not None and waiting in line:
                line.remove(waiting)
                self._forget(waiting)
                if not line:
                    del self._lines[waiting.line]

    def _forget(self, waiting: _Waiting) -> None:
        self.waiting -= 1
        self._bytes_waiting -= waiting.nbytes

    # What follows runs in the runner threads.

    def _work(self, make_runner: MakeRunner) -> None:
        try:
            with make_runner() as run:
                while batch := self._take():
                    self._hand_over(self._execute(run, batch))
        except Exception as error:  # noqa: BLE001 - a thread that cannot run must not leave its callers waiting
            self._give_up(_unexpected(error))

    def _hand_over(self, outcome: _Outcome) -> None:
        # A closed loop has nobody left to answer; the thread goes on to its own end.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._deliver, outcome)

    def _give_up(self, error: TurnoutError) -> None:
        with self._ready:
            self._closed = True
            left = [waiting for line in self._lines.values() for waiting in line]
            self._lines.clear()
            self.waiting = self._bytes_waiting = 0
            self._ready.notify_all()
        if left:
            self._hand_over(_Outcome(left, 0, [error] * len(left)))

    def _take(self) -> list[_Waiting]:
        """Waits for requests and takes those of the line whose turn it is; nothing once closed and empty."""
        with self._ready:
            while True:
                while not self._lines:
                    if self._closed:
                        return []
                    self._idle += 1
                    self._ready.wait()
                    self._idle -= 1
                line, queue = next(iter(self._lines.items()))
                if (pause := self._worth_waiting(queue)) > 0:
                    self._ready.wait(pause)
                    continue
                batch = self._pop(queue)
                if queue:
                    self._lines.move_to_end(line)
                else:
                    del self._lines[line]
                if batch:
                    return batch

    def _worth_waiting(self, queue: deque[_Waiting]) -> float:
        """Returns seconds that the line's first request may still be held for company; 0.0 or less: go."""
        if not self._bounds.max_delay or self._closed or queue[0].line[0] == _ALONE:
            return 0.0
        if sum(w.rows for w in queue) >= self._plan.max_rows:
            return 0.0
        return queue[0].admitted + self._bounds.max_delay - time.monotonic()

    def _pop(self, queue: deque[_Waiting]) -> list[_Waiting]:
        """Takes from the head of a line as many requests as one run may hold, leaving out those that gave up."""
        batch: list[_Waiting] = []
        rows = 0
        now = time.monotonic()
        while queue and (not batch or rows + queue[0].rows <= self._plan.max_rows):
            waiting = queue.popleft()
            self._forget(waiting)
            if waiting.future.done() or (waiting.deadline is not None and waiting.deadline <= now):
                continue  # its timer, or its caller's, answers it
            batch.append(waiting)
            rows += waiting.rows
        return batch

    def _execute(self, run: Run, batch: Sequence[_Waiting]) -> _Outcome:
        rows = sum(w.rows for w in batch)
        names = list(dict.fromkeys(name for w in batch for name in w.outputs))
        start = time.monotonic()
        try:
            values = run(join(self._plan, [w.inputs for w in batch]), names)
            compute = time.monotonic() - start
            parts = split(
                self._plan, dict(zip(names, values, strict=True)), [w.rows for w in batch], [w.outputs for w in batch]
            )
        except TurnoutError as error:
            return self._failed(run, batch, rows, error)
        except Exception as error:  # noqa: BLE001 - whatever a run raises must reach its callers, not end the runner
            return self._failed(run, batch, rows, _unexpected(error))
        self._mean_compute += 0.2 * (compute / len(batch) - self._mean_compute)
        shown = rows if self._plan.max_rows >= 2 else 0
        return _Outcome(
            batch,
            rows,
            [
                Answer(part, start - w.admitted, compute, shown, len(batch), start)
                for w, part in zip(batch, parts, strict=True)
            ],
        )

    def _failed(self, run: Run, batch: Sequence[_Waiting], rows: int, error: TurnoutError) -> _Outcome:
        """Answers a failed run: a batch is run again one by one, so that one bad request fails no other client's."""
        if len(batch) == 1:
            return _Outcome(batch, rows, [error])
        return _Outcome(batch, rows, [answer for w in batch for answer in self._execute(run, [w]).answers])

    def _deliver(self, outcome: _Outcome) -> None:
        """On the event loop: gives each request of a run its answer."""
        if outcome.rows:
            self._on_batch(outcome.rows)
        for waiting, answer in zip(outcome.batch, outcome.answers, strict=True):
            if waiting.future.done():
                continue
            if isinstance(answer, Answer):
                waiting.future.set_result(answer)
            else:
                waiting.future.set_exception(answer)


def _unexpected(error: Exception) -> ModelFailure:
    failure = ModelFailure(f"the run failed ({type(error).__name__})")
    failure.__cause__ = error
    return failure
