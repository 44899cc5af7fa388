"""One version's queue and runner threads: a free runner forms a batch of the requests that wait.

    event loop:     submit -> queue (bounded in requests and bytes)          future <- hand back, in groups
    runner thread:            take a batch of one shape -> join -> run -> split -^

Requests of different shapes wait in line beside each other and take turns, so that none blocks another. A request whose
deadline passed, or whose caller left, leaves the queue and is never computed.

A request calls a runner: one that is idle, else a new one. A runner that was called is idle no more, though it may not
have woken yet, so that requests that come at once find a runner each. Where lines are held for company, one idle runner
keeps the time for all of them; when it takes a batch it calls another to keep it. Of the others one may look for
requests for a while before it sleeps (`turnout.serving.batching.spin`), and is the first to be called.

Requests that shared a run whose outputs do not add up run again alone, and no request of the version shares one after.
"""

import asyncio
import functools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from turnout.errors import DeadlineExceededError, ModelFailure, NotLoaded, QueueFull, TurnoutError
from turnout.serving.batching.active_plan import PlanInForce
from turnout.serving.batching.answer import BatchedAnswer
from turnout.serving.batching.batch import BatchSizeMismatch, Lines, join, split
from turnout.serving.batching.batchability import BatchPlan
from turnout.serving.batching.hand_back import HandBack
from turnout.serving.batching.request_queue import QueueBounds, QueuedRequest, RequestQueue
from turnout.serving.batching.spin import Spin, look
from turnout.serving.sessions.prepared_runner import PreparedRunner
from turnout.serving.sessions.session import EndableRun, MakeRunner, Run
from turnout.serving.sessions.tensor import Array


@dataclass(slots=True, eq=False)
class _Pending(QueuedRequest):
    """A request that is not answered. Its future belongs to the event loop."""

    future: "asyncio.Future[BatchedAnswer]"


@dataclass(slots=True, eq=False)
class _Runner:
    """A thread, and what it waits by.

    Attributes:
        make: Makes what it runs with.
        ended: Done when the thread is about to end. Belongs to the event loop.
        called: Released by who calls it out of its idleness.
        in_hand: Requests that it took and did not answer.
    """

    make: MakeRunner
    ended: "asyncio.Future[None]"
    called: threading.Lock = field(default_factory=threading.Lock)
    in_hand: Sequence[_Pending] = ()

    def __post_init__(self) -> None:
        self.called.acquire()


@dataclass(slots=True)
class _Outcome:
    """What one run did to each of its requests."""

    requests: Sequence[_Pending]
    rows: int
    answers: Sequence[BatchedAnswer | TurnoutError]


class Batcher:
    """Runs requests of one version on its runners, in batches where its plan allows that.

    Made and used on the event loop; the runners are threads of its own, started as they are first needed, so that a
    hundred idle versions cost no thread. One that dies is replaced when the next request calls for it.
    """

    def __init__(
        self,
        name: str,
        in_force: PlanInForce,
        bounds: QueueBounds,
        runners: Sequence[MakeRunner],
        on_batch: Callable[[int, float], None],
        on_demoted: Callable[[str], None],
    ) -> None:
        """Prepares the queue.

        Args:
            name: Of the version, for thread names.
            in_force: How requests are put together; demoted by the first run whose outputs do not add up.
            bounds: Of the queue.
            runners: One for each thread.
            on_batch: Told the rows and seconds of each batch that gave answers, on the event loop.
            on_demoted: Told why the version is batched no more, on the event loop; as often as lanes find out.
        """
        self._name = name
        self._in_force = in_force
        self._bounds = bounds
        self._on_batch = on_batch
        self._on_demoted = on_demoted
        self._lines = Lines()
        self._loop = asyncio.get_running_loop()
        self._hand_back = HandBack(self._loop)
        self._lock = threading.Lock()  # guards all that follows
        self._queue: RequestQueue[_Pending] = RequestQueue(bounds.max_delay)
        self._unused = list(runners)[::-1]
        self._runners: set[_Runner] = set()
        self._idle: list[_Runner] = []  # the last to become so first: its caches are warmest
        self._spin = Spin(bounds.spin)
        self._spinning = False
        self._timekeeper: _Runner | None = None
        self._kept_until = 0.0  # when the timekeeper looks at the queue of its own accord
        self._closed = False
        self._started = 0
        self._mean_compute = 0.0

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return self._queue.requests

    @property
    def runners(self) -> int:
        """Runner threads that were started and have not ended."""
        return len(self._runners)

    @property
    def fill(self) -> float:
        """How full the queue is, 0 to 1, by requests or bytes, whichever is nearer its bound.

        More than 1 where a single request is larger than all that may wait: the first is let in whatever its size.
        """
        return max(self._queue.requests / self._bounds.requests, self._queue.nbytes / self._bounds.nbytes)

    async def submit(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], deadline: float | None, kind: object = None
    ) -> BatchedAnswer:
        """Queues a request and waits for its answer.

        Args:
            inputs: Valid for the version's signature.
            outputs: Names of the outputs wanted.
            deadline: `time.monotonic()` after which the answer is worth nothing; None for never.
            kind: As of `InferenceRequest`: the line of one request is that of the next.

        Raises:
            QueueFull: The queue holds as much as it may, or no thread can be had to run it.
            DeadlineExceededError: The deadline passed first.
            NotLoaded: The version was closed.
            InputsRefused, ModelFailure, MemoryBudgetExceeded: The run failed.
        """
        pending = self._admit(inputs, outputs, deadline, kind)
        timer = None if deadline is None else self._loop.call_later(deadline - time.monotonic(), self._expire, pending)
        try:
            return await pending.future
        except asyncio.CancelledError:
            self._remove(pending)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def close(self) -> None:
        """Lets the runners finish what waits, then end. New requests are refused. Does not wait for them."""
        with self._lock:
            self._closed = True
            idle = [*self._idle, self._timekeeper] if self._timekeeper is not None else self._idle
            self._idle, self._timekeeper = [], None
            for runner in idle:
                runner.called.release()

    async def wait_closed(self) -> None:
        """Waits until every runner has ended; a run that hangs is waited for as long as it hangs, by no thread."""
        while ends := self._ends():  # a runner that finishes what waits may call one that had not started
            await asyncio.wait(ends)

    def _ends(self) -> "Sequence[asyncio.Future[None]]":
        with self._lock:
            return [runner.ended for runner in self._runners]

    def _admit(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], deadline: float | None, kind: object
    ) -> _Pending:
        now = time.monotonic()
        if deadline is not None and deadline <= now:
            raise DeadlineExceededError("the deadline had passed when the request arrived")
        _, line, rows, nbytes = self._lines.of(self._in_force.plan, inputs, kind)
        pending = _Pending(inputs, outputs, rows, nbytes, line, deadline, now, self._loop.create_future())
        with self._lock:
            if self._closed:
                raise NotLoaded(f"{self._name} is being unloaded")
            self._refuse_if_full(nbytes)
            ready = self._queue.add(pending, self._in_force.plan.max_rows)
            try:
                self._call_runner(None if ready else self._queue.held_until(pending))
            except QueueFull:
                self._queue.remove(pending)
                raise
        return pending

    def _refuse_if_full(self, nbytes: int) -> None:
        bounds, queue = self._bounds, self._queue
        if queue.requests >= bounds.requests:
            what = f"{queue.requests} requests wait for {self._name}, the most that may"
        elif queue.requests and queue.nbytes + nbytes > bounds.nbytes:
            what = f"{queue.nbytes} bytes wait for {self._name}, and {nbytes} more would pass {bounds.nbytes}"
        else:
            return
        # By when the queue of now has been worked off, at the pace of the latest runs.
        expected = queue.requests * self._mean_compute / max(len(self._runners), 1)
        raise QueueFull(what, retry_after=min(max(expected, 0.01), 5.0))

    def _expire(self, pending: _Pending) -> None:
        """On the event loop: the deadline of a request passed."""
        if not pending.future.done():
            self._remove(pending)
            pending.future.set_exception(_too_late())

    def _remove(self, pending: _Pending) -> None:
        """Takes a request out of the queue if it still waits there."""
        with self._lock:
            self._queue.remove(pending)

    def _deliver(self, outcome: _Outcome) -> None:
        """On the event loop: gives each request of a run its answer."""
        if isinstance(first := outcome.answers[0], BatchedAnswer):
            self._on_batch(outcome.rows, first.compute_seconds)
        for pending, answer in zip(outcome.requests, outcome.answers, strict=True):
            if pending.future.done():
                continue
            if isinstance(answer, BatchedAnswer):
                pending.future.set_result(answer)
            else:
                pending.future.set_exception(answer)

    # What follows is called with the lock held, by the event loop or a runner.

    def _call_runner(self, due: float | None = None) -> None:
        """Has a runner look at the queue, if one has reason to.

        Args:
            due: When a line can be taken; None for now. Until then it is enough that somebody keeps the time.

        Raises:
            QueueFull: No runner lives, and no thread can be started.
        """
        if due is not None and self._timekeeper is not None and due >= self._kept_until:
            return
        if self._idle and (due is None or self._timekeeper is None):
            self._idle.pop().called.release()
        elif self._timekeeper is not None:
            self._timekeeper.called.release()
            self._timekeeper = None
        elif self._unused:
            self._start_runner()

    def _start_runner(self) -> None:
        runner = _Runner(self._unused.pop(), self._loop.create_future())
        self._runners.add(runner)
        name, work = f"run-{self._name}-{self._started}", functools.partial(self._work, runner)
        try:
            if not (isinstance(runner.make, PreparedRunner) and runner.make.start(work)):
                threading.Thread(target=work, name=name, daemon=True).start()
        except RuntimeError as error:  # the system has no thread left
            self._runners.remove(runner)
            self._unused.append(runner.make)
            if not self._runners:
                raise QueueFull(f"no thread can be started for {self._name}", retry_after=1.0) from error
        else:
            self._started += 1

    # What follows runs in the runner threads.

    def _work(self, runner: _Runner) -> None:
        trouble: BaseException | None = None
        try:
            with runner.make() as run:
                while batch := self._take(runner):
                    self._serve(runner, run, batch)
                    del batch  # an idle runner keeps nothing of what it ran
        except BaseException as error:  # noqa: BLE001 - a thread that cannot run must not leave its callers waiting
            trouble = error
        self._end(runner, trouble)

    def _take(self, runner: _Runner) -> Sequence[_Pending]:
        """Waits until a line is ready and takes from it; nothing once closed and empty."""
        with self._lock:
            while True:
                max_rows = self._in_force.plan.max_rows
                taken = self._queue.take(time.monotonic(), max_rows, hold=not self._closed)
                if batch := [pending for pending in taken if not pending.future.done()]:
                    runner.in_hand = batch
                    if self._queue.requests and self._bounds.max_delay:
                        self._call_runner(self._queue.due(max_rows))  # somebody has to keep the time of what is held
                    return batch
                if not self._queue.requests and self._closed:
                    return ()
                if not taken:
                    self._wait(runner, max_rows)

    def _wait(self, runner: _Runner, max_rows: int) -> None:
        """Waits until the runner is called, or until a held line is due if no other keeps the time."""
        due = None if self._timekeeper is not None else self._queue.due(max_rows)
        if due is None:
            self._idle_until_called(runner)
            return
        self._timekeeper, self._kept_until = runner, due
        self._lock.release()
        called = runner.called.acquire(timeout=max(due - time.monotonic(), 0.0))
        self._lock.acquire()
        if called:
            return
        if self._timekeeper is runner:
            self._timekeeper = None
        else:
            runner.called.acquire()  # it was called in the moment that the time was over

    def _idle_until_called(self, runner: _Runner) -> None:
        looks = not self._spinning and self._spin.worthwhile
        self._idle.insert(0 if self._spinning else len(self._idle), runner)  # who looks is called first
        self._spinning |= looks
        self._lock.release()
        began = time.monotonic()
        called = looks and look(runner.called, self._spin.seconds)
        if looks:
            self._spinning = False
        if not called:
            runner.called.acquire()
        self._lock.acquire()
        self._spin.idled(time.monotonic() - began)

    def _serve(self, runner: _Runner, run: Run, batch: Sequence[_Pending]) -> None:
        """Runs a batch and hands over its answers."""
        plan = self._in_force.plan
        if len(batch) == 1:
            self._hand_back.call(self._deliver, self._run_alone(plan, run, batch[0]))
        elif outcome := self._run_together(plan, run, batch):
            self._hand_back.call(self._deliver, outcome)
        else:
            for index, pending in enumerate(batch):
                runner.in_hand = batch[index:]
                if not pending.future.done():
                    self._hand_back.call(self._deliver, self._run_alone(self._in_force.plan, run, pending))
        runner.in_hand = ()

    def _run_alone(self, plan: BatchPlan, run: Run, pending: _Pending) -> _Outcome:
        if pending.deadline is not None and pending.deadline <= time.monotonic():
            return _Outcome([pending], 0, [_too_late()])
        try:
            return self._execute(plan, run, [pending])
        except BatchSizeMismatch as mismatch:
            # The request's own run is right: what was joined before was not.
            self._demote(str(mismatch))
            return self._run_alone(self._in_force.plan, run, pending)
        except Exception as error:  # noqa: BLE001 - whatever a run raises must reach its caller, not end the runner
            failure = error if isinstance(error, TurnoutError) else _unexpected(error)
            return _Outcome([pending], pending.rows, [failure])

    def _run_together(self, plan: BatchPlan, run: Run, batch: Sequence[_Pending]) -> _Outcome | None:
        """Returns None if each request has to run by itself: one bad request fails no other client's, and of a
        version that was seen to mix rows no joined run is believed.
        """
        line, names = batch[0].line, {name for pending in batch for name in pending.outputs}
        if line is None or not self._in_force.may_join(line, names):  # or it was demoted since the batch was taken
            return None
        try:
            outcome = self._execute(plan, run, batch)
        except BatchSizeMismatch as mismatch:
            self._demote(str(mismatch))
            return None
        except Exception:  # noqa: BLE001 - it is raised again by the request whose doing it is
            return None
        return outcome if self._in_force.plan is plan else None

    def _demote(self, fault: str) -> None:
        self._in_force.demote(fault)
        self._hand_back.call(self._on_demoted, self._in_force.plan.reason)

    def _execute(self, plan: BatchPlan, run: Run, batch: Sequence[_Pending]) -> _Outcome:
        rows = sum(pending.rows for pending in batch)
        names = list(dict.fromkeys(name for pending in batch for name in pending.outputs))
        start = time.monotonic()
        inputs = join(plan, [pending.inputs for pending in batch])
        if isinstance(run, EndableRun):
            values = run.run_unless(inputs, names, lambda: not any(map(_awaited, batch)))
        else:
            values = run(inputs, names)
        compute = time.monotonic() - start
        outputs = dict(zip(names, values, strict=True))
        if plan.max_rows >= 2 and (line := batch[0].line) is not None:
            self._in_force.check(line, outputs)
        parts = split(plan, outputs, [pending.rows for pending in batch], [pending.outputs for pending in batch])
        self._mean_compute += 0.2 * (compute / len(batch) - self._mean_compute)
        batch_rows = rows if plan.max_rows >= 2 else 0
        return _Outcome(
            batch,
            rows,
            [
                BatchedAnswer(part, start - pending.admitted, compute, batch_rows, len(batch), start)
                for pending, part in zip(batch, parts, strict=True)
            ],
        )

    def _end(self, runner: _Runner, trouble: BaseException | None) -> None:
        """Answers requests that a dying runner took, and hands the rest of the queue on."""
        left: list[_Pending] = list(runner.in_hand)
        with self._lock:
            self._runners.discard(runner)
            self._unused.append(runner.make)
            if not self._runners and trouble is not None:
                left += self._queue.clear()  # the next runner would fare no better, and is started by the next request
            elif self._queue.requests:
                self._call_runner()
        if left:
            failure = trouble if isinstance(trouble, TurnoutError) else _unexpected(trouble)
            self._hand_back.call(self._deliver, _Outcome(left, 0, [failure] * len(left)))
        self._hand_back.call(_finish, runner.ended)


def _finish(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _too_late() -> DeadlineExceededError:
    return DeadlineExceededError("the deadline passed before the answer was there")


def _awaited(pending: _Pending) -> bool:
    """Tells whether somebody still waits for an answer; from any thread."""
    late = pending.deadline is not None and pending.deadline <= time.monotonic()
    return not (late or pending.future.done())


def _unexpected(error: BaseException | None) -> ModelFailure:
    failure = ModelFailure(f"the run failed ({type(error).__name__})")
    failure.__cause__ = error
    return failure
