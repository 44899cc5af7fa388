"""The queue and the runner threads of one version. Idle runners form batches from waiting requests.

    event loop:     submit -> queue (bounded in requests and bytes)          future <- hand back, in groups
    runner thread:            take a batch of one shape -> join -> run -> split -^

Requests of different shapes wait in separate lines, which take turns, so that none blocks another. A request whose
deadline has passed or whose caller has left is removed from the queue and never computed.

Each request wakes an idle runner, or starts a new one if none is idle. A woken runner leaves the idle list at once,
before its thread has run, so that simultaneous requests wake one runner each. If lines are held back to fill batches,
one idle runner, the timekeeper, waits for the earliest time; when it takes a batch, it wakes another to replace it. One
other idle runner may spin before it sleeps (`turnout.serving.batching.spin`); it is the first to be woken.

If the outputs of a shared run do not add up, its requests run again alone. The version is never batched again, unless
one of these requests is at fault: it fails alone too, or is one that ONNX would refuse.
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
from turnout.serving.batching.batch import BatchSizeMismatch, Lines, explains_mismatch, split
from turnout.serving.batching.batchability import BatchPlan
from turnout.serving.batching.hand_back import HandBack
from turnout.serving.batching.request_queue import QueueBounds, QueuedRequest, RequestQueue
from turnout.serving.batching.spin import Spin, look
from turnout.serving.inputs.rows import join
from turnout.serving.isolation.pool import ChildPool
from turnout.serving.sessions.prepared_runner import PreparedRunner
from turnout.serving.sessions.session import MakeRunner, Run
from turnout.serving.sessions.tensor import Array


@dataclass(slots=True, eq=False)
class _Pending(QueuedRequest):
    """A request that is not yet answered. Its future belongs to the event loop."""

    future: "asyncio.Future[BatchedAnswer]"


@dataclass(slots=True, eq=False)
class _Runner:
    """A runner thread and the lock that it waits on."""

    make: MakeRunner
    ended: "asyncio.Future[None]"  # set when the thread is about to end; belongs to the event loop
    called: threading.Lock = field(default_factory=threading.Lock)  # released to wake the idle thread
    in_hand: Sequence[_Pending] = ()  # taken but not answered

    def __post_init__(self) -> None:
        self.called.acquire()


@dataclass(slots=True)
class _Outcome:
    """The results of one run for each of its requests."""

    requests: Sequence[_Pending]
    rows: int
    answers: Sequence[BatchedAnswer | TurnoutError]


class Batcher:
    """Runs the requests of one version on runner threads, in batches if its plan allows.

    Created and used on the event loop. Threads are started when first needed, so that idle versions need none. A thread
    that dies is replaced when the next request needs it.
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
        """Creates the queue; no thread is started. `runners` has a factory for each thread.

        The plan `in_force` is demoted by the first run whose outputs do not add up, if no request is to blame. On the
        event loop, `on_batch` is called with the rows and seconds of each batch that succeeded, and `on_demoted` with
        the reason when batching stops, by each lane.
        """
        self._name = name
        self._in_force = in_force
        self._bounds = bounds
        self._on_batch = on_batch
        self._on_demoted = on_demoted
        self._lines = Lines()
        self._loop = asyncio.get_running_loop()
        self._hand_back = HandBack(self._loop)
        self._lock = threading.Lock()  # guards everything below
        self._queue: RequestQueue[_Pending] = RequestQueue(bounds.max_delay)
        self._unused = list(runners)[::-1]
        self._runners: set[_Runner] = set()
        self._idle: list[_Runner] = []  # most recently idle last and woken first: its caches are warmest
        self._spin = Spin(bounds.spin)
        self._spinning = False
        self._timekeeper: _Runner | None = None
        self._kept_until = 0.0  # when the timekeeper will look at the queue without being woken
        self._closed = False
        self._started = 0
        self._mean_compute = 0.0

    @property
    def waiting(self) -> int:
        """Number of waiting requests."""
        return self._queue.requests

    @property
    def runners(self) -> int:
        """Number of runner threads that have started and not ended."""
        return len(self._runners)

    @property
    def fill(self) -> float:
        """Fill level of the queue by requests or bytes, whichever is higher; usually 0 to 1.

        Above 1 if a single request exceeds the bound in bytes, since an empty queue accepts a request of any size.
        """
        return max(self._queue.requests / self._bounds.requests, self._queue.nbytes / self._bounds.nbytes)

    async def submit(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], deadline: float | None, kind: object = None
    ) -> BatchedAnswer:
        """Queues a request that fits the signature, and waits for its answer.

        Arguments as in `VersionHandle.infer`; requests of one `kind` share a line.

        Raises:
            QueueFull: The queue is full, or no thread can be started.
            DeadlineExceededError: The deadline passed before the request was answered.
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
        """Refuses new requests and lets the runners end once the queue is empty. Returns without waiting for them."""
        with self._lock:
            self._closed = True
            idle = [*self._idle, self._timekeeper] if self._timekeeper is not None else self._idle
            self._idle, self._timekeeper = [], None
            for runner in idle:
                runner.called.release()

    async def wait_closed(self) -> None:
        """Waits until every runner has ended, without blocking a thread; a run that hangs delays this indefinitely."""
        while ends := self._ends():  # a runner that finishes waiting requests may start another
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
            what = f"{queue.requests} requests are waiting for {self._name}, the maximum"
        elif queue.requests and queue.nbytes + nbytes > bounds.nbytes:
            what = f"{queue.nbytes} bytes are waiting for {self._name}, and {nbytes} more would exceed {bounds.nbytes}"
        else:
            return
        # Estimated time to work off the present queue at the pace of the latest runs.
        expected = queue.requests * self._mean_compute / max(len(self._runners), 1)
        raise QueueFull(what, retry_after=min(max(expected, 0.01), 5.0))

    def _expire(self, pending: _Pending) -> None:
        """Fails a request whose deadline has passed. On the event loop."""
        if not pending.future.done():
            self._remove(pending)
            pending.future.set_exception(_too_late())

    def _remove(self, pending: _Pending) -> None:
        with self._lock:
            self._queue.remove(pending)

    def _deliver(self, outcome: _Outcome) -> None:
        """Delivers the results of a run to its requests. On the event loop."""
        if isinstance(first := outcome.answers[0], BatchedAnswer):
            self._on_batch(outcome.rows, first.compute_seconds)
        for pending, answer in zip(outcome.requests, outcome.answers, strict=True):
            if pending.future.done():
                continue
            if isinstance(answer, BatchedAnswer):
                pending.future.set_result(answer)
            else:
                pending.future.set_exception(answer)

    # The following methods are called with the lock held, by the event loop or a runner.

    def _call_runner(self, due: float | None = None) -> None:
        """Wakes or starts a runner if one needs to look at the queue. Raises QueueFull if none can be started.

        A line can be taken when it is `due`; None for now. Until then a timekeeper that wakes early enough suffices.
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
        except RuntimeError as error:  # the system cannot start another thread
            self._runners.remove(runner)
            self._unused.append(runner.make)
            if not self._runners:
                raise QueueFull(f"no thread can be started for {self._name}", retry_after=1.0) from error
        else:
            self._started += 1

    # The following methods run in the runner threads.

    def _work(self, runner: _Runner) -> None:
        trouble: BaseException | None = None
        try:
            with runner.make() as run:
                while batch := self._take(runner):
                    self._serve(runner, run, batch)
                    del batch  # an idle runner keeps no references to what it ran
        except BaseException as error:  # noqa: BLE001 - a thread that cannot run must not leave its callers waiting
            trouble = error
        self._end(runner, trouble)

    def _take(self, runner: _Runner) -> Sequence[_Pending]:
        """Waits until a line is ready and takes requests from it; returns () once closed and empty."""
        with self._lock:
            while True:
                plan = self._in_force.plan
                max_rows = plan.max_rows
                taken = self._queue.take(time.monotonic(), max_rows, share=plan.share, hold=not self._closed)
                if batch := [pending for pending in taken if not pending.future.done()]:
                    runner.in_hand = batch
                    if self._queue.requests and self._bounds.max_delay:
                        self._call_runner(self._queue.due(max_rows))  # the held lines need a timekeeper
                    return batch
                if not self._queue.requests and self._closed:
                    return ()
                if not taken:
                    self._wait(runner, max_rows)

    def _wait(self, runner: _Runner, max_rows: int) -> None:
        """Waits until the runner is woken or, if there is no other timekeeper, until a held line is due."""
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
            runner.called.acquire()  # it was woken just as its time ran out

    def _idle_until_called(self, runner: _Runner) -> None:
        looks = not self._spinning and self._spin.worthwhile
        self._idle.insert(0 if self._spinning else len(self._idle), runner)  # a spinning runner is woken first
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
        plan = self._in_force.plan
        outcome, fault = self._run_together(plan, run, batch) if len(batch) > 1 else (None, "")
        if outcome:
            self._hand_back.call(self._deliver, outcome)
        else:
            self._run_one_by_one(plan, runner, run, batch, fault)
        runner.in_hand = ()

    def _run_one_by_one(
        self, plan: BatchPlan, runner: _Runner, run: Run, batch: Sequence[_Pending], fault: str
    ) -> None:
        """Answers requests whose shared run is not used. Demotes the version if there was a `fault` in its outputs, and
        none of the requests is to blame.
        """
        blameless = bool(fault)
        for index, pending in enumerate(batch):
            runner.in_hand = batch[index:]
            if pending.future.done():
                blameless = False  # not known, as its caller has left
                continue
            outcome = self._run_alone(self._in_force.plan, run, pending)
            blameless = blameless and not _is_to_blame(plan, outcome)
            if blameless and pending is batch[-1] and self._in_force.plan is plan:
                self._demote(fault)
            self._hand_back.call(self._deliver, outcome)

    def _run_alone(self, plan: BatchPlan, run: Run, pending: _Pending) -> _Outcome:
        if pending.deadline is not None and pending.deadline <= time.monotonic():
            return _Outcome([pending], 0, [_too_late()])
        try:
            return self._execute(plan, run, [pending])
        except BatchSizeMismatch as mismatch:
            # The request's own run is right; an earlier shared run was wrong.
            self._demote(str(mismatch))
            return self._run_alone(self._in_force.plan, run, pending)
        except Exception as error:  # noqa: BLE001 - any exception of a run goes to its caller, and the runner lives on
            failure = error if isinstance(error, TurnoutError) else _unexpected(error)
            return _Outcome([pending], pending.rows, [failure])

    def _run_together(self, plan: BatchPlan, run: Run, batch: Sequence[_Pending]) -> tuple[_Outcome | None, str]:
        """Returns the outcome of a shared run, or None if each request must run alone: a bad request must not fail
        others, and the results of a shared run are discarded once the version is known to mix rows. With None, returns
        what did not add up, if that is why.
        """
        line, names = batch[0].line, {name for pending in batch for name in pending.outputs}
        if line is None or not self._in_force.may_join(line, names):  # or it was demoted since the batch was taken
            return None, ""
        try:
            outcome = self._execute(plan, run, batch)
        except BatchSizeMismatch as mismatch:
            return None, str(mismatch)
        except Exception:  # noqa: BLE001 - the request that causes it raises it again when it runs alone
            return None, ""
        return (outcome if self._in_force.plan is plan else None), ""

    def _demote(self, fault: str) -> None:
        self._in_force.demote(fault)
        self._hand_back.call(self._on_demoted, self._in_force.plan.reason)

    def _execute(self, plan: BatchPlan, run: Run, batch: Sequence[_Pending]) -> _Outcome:
        rows = sum(pending.rows for pending in batch)
        names = list(dict.fromkeys(name for pending in batch for name in pending.outputs))
        start = time.monotonic()
        inputs = join(plan.input_axes, [pending.inputs for pending in batch])
        if isinstance(run, ChildPool):
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
        """Fails the requests that an ending runner had taken, and passes the rest of the queue on."""
        left: list[_Pending] = list(runner.in_hand)
        with self._lock:
            self._runners.discard(runner)
            self._unused.append(runner.make)
            if not self._runners and trouble is not None:
                left += self._queue.clear()  # another runner would fail too; the next request starts one
            elif self._queue.requests:
                self._call_runner()
        if left:
            failure = trouble if isinstance(trouble, TurnoutError) else _unexpected(trouble)
            self._hand_back.call(self._deliver, _Outcome(left, 0, [failure] * len(left)))
        self._hand_back.call(_finish, runner.ended)


def _finish(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _is_to_blame(plan: BatchPlan, alone: _Outcome) -> bool:
    """Returns whether a request explains why the run that it shared did not add up, by the outcome of its own."""
    (pending,), (answer,) = alone.requests, alone.answers
    if not isinstance(answer, BatchedAnswer):
        return True
    return explains_mismatch(plan, dict(zip(pending.outputs, answer.outputs, strict=True)), pending.rows)


def _too_late() -> DeadlineExceededError:
    return DeadlineExceededError("the deadline passed before the answer was ready")


def _awaited(pending: _Pending) -> bool:
    """Returns whether a caller still waits for the answer; callable from any thread."""
    late = pending.deadline is not None and pending.deadline <= time.monotonic()
    return not (late or pending.future.done())


def _unexpected(error: BaseException | None) -> ModelFailure:
    failure = ModelFailure(f"the run failed ({type(error).__name__})")
    failure.__cause__ = error
    return failure
