"""One shadow's lane: a queue of copies, bounded in items and bytes, that runs only while no live request waits.

    event loop:   offer -> queue -> dispatch (as Pressure allows) -> compare -> ledger
    runner:                          run -^

All failures of a shadow end here: they are counted, and do not affect the live path.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from structlog.typing import FilteringBoundLogger

from turnout.config import ShadowLane as LaneSettings
from turnout.errors import (
    InvalidTensor,
    MemoryBudgetExceeded,
    ModelCrashed,
    ModelTimedOut,
    NotLoaded,
    TurnoutError,
)
from turnout.routing.shadow.compare import AnswerComparison, OutputRule, compare
from turnout.routing.shadow.copies import Copy, Pair, trace_copy
from turnout.routing.shadow.ledger import CopyOutcome, Disagreement, Ledger
from turnout.routing.shadow.pressure import Pressure
from turnout.routing.shadow.runner import CopyRunner
from turnout.serving.batching.batch import shape_of, split
from turnout.serving.inputs.rows import join
from turnout.serving.sessions.tensor import Array
from turnout.serving.versions.handle import VersionHandle
from turnout.threads import Threads

_PAUSE_SECONDS = 0.005
"""Interval of checks while a lane has to wait: short compared with a copy's use, long compared with a check's cost."""

_HEAD_START_SECONDS = 0.003
"""Minimum time that a copy waits, while its request's answer is being sent and further copies arrive."""

_SMALL_BYTES = 64 * 1024
"""Outputs up to this size are compared on the event loop (about 50 us), since handing them to a thread costs more."""

Redact = Callable[[str, Mapping[str, Array]], Mapping[str, Array]]
"""Returns the part of a model's inputs that may be stored."""


@dataclass(frozen=True, slots=True)
class LaneDependencies:
    """The objects that a lane depends on.

    Attributes:
        find: Returns the handle of one of the model's versions; None if it is not Ready.
        runner_for: Creates a runner of copies on a version, which may take as long as a load. Called with the handle
            and whether it is the shadow's; otherwise it is the baseline's, to measure its noise.
        rules: Returns how each output is compared.
        redact: Returns the part of the inputs that may be stored; None to store nothing.
        pressure: Decides whether a copy may run now.
        threads: Threads that compare outputs that are too large for the event loop.
        log: Logger for errors.
    """

    find: Callable[[str], VersionHandle | None]
    runner_for: Callable[[VersionHandle, bool], "asyncio.Future[CopyRunner]"]
    rules: Callable[[], Mapping[str, OutputRule]]
    redact: Redact | None
    pressure: Pressure
    threads: Threads
    log: FilteringBoundLogger


class Lane:
    """Runs and compares the copies of one pair. Used only on the event loop.

    Attributes:
        pair: The versions whose answers are compared.
        ledger: The results.
        closed: Why the lane accepts no more copies; "" while it does.
    """

    def __init__(self, pair: Pair, settings: LaneSettings, ledger: Ledger, parts: LaneDependencies) -> None:
        self.pair = pair
        self.ledger = ledger
        self.closed = ""
        self.ended = False
        self._settings = settings
        self._parts = parts
        self._queue: deque[Copy] = deque()
        self._queued_bytes = 0
        self._offered = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._runners: dict[bool, tuple[VersionHandle, asyncio.Future[CopyRunner]]] = {}
        self._noise_due = 0.0
        self._dispatcher = self._dispatching()

    def has_place(self) -> bool:
        """Returns whether the queue has room for one more copy; counts a dropped copy if it has not.

        Called before a copy is made, so that a lane that drops copies costs the live path next to nothing.
        """
        if self.closed:
            self.ledger.drop("closed")
        elif len(self._queue) >= self._settings.max_queue_requests:
            self.ledger.drop("queue_items")
        else:
            return True
        return False

    def offer(self, copy: Copy) -> None:
        """Queues a copy after `has_place` returned True; drops and counts it if the queue would exceed its bytes."""
        if self._queue and self._queued_bytes + copy.nbytes > self._settings.max_queue_bytes:
            self.ledger.drop("queue_bytes")
        else:
            self._queue.append(copy)
            self._queued_bytes += copy.nbytes
            self._offered.set()

    @property
    def running(self) -> int:
        """Number of batches of copies that are running."""
        return len(self._running)

    async def close(self, reason: str, bound: float) -> None:
        """Accepts no more copies, drops those that wait, and waits at most `bound` seconds for those that run."""
        self.ended = True
        self._shut(reason)
        self._dispatcher.cancel()
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=bound)
            for task in late:
                task.cancel()
        await asyncio.gather(self._dispatcher, *self._running, return_exceptions=True)

    def reopen(self) -> None:
        """Accepts copies again, if it was closed because its shadow could not run any more."""
        if self.closed and not self.ended:
            self.closed = ""
            if self._dispatcher.done():
                self._dispatcher = self._dispatching()

    def _dispatching(self) -> "asyncio.Task[None]":
        return asyncio.create_task(self._dispatch(), name=f"shadow {self.pair.model}@{self.pair.shadow}")

    def _shut(self, reason: str) -> None:
        self.closed = self.closed or reason
        for _ in range(len(self._queue)):
            self._pop()
            self.ledger.drop("closed")
        for _, runner in self._runners.values():
            runner.add_done_callback(_close)
        self._runners.clear()

    def _pop(self) -> Copy:
        copy = self._queue.popleft()
        self._queued_bytes -= copy.nbytes
        return copy

    async def _dispatch(self) -> None:
        while not self.closed:
            await self._offered.wait()
            while self._queue and time.monotonic() - self._queue[0].offered > self._settings.max_lag_s:
                self._pop()
                self.ledger.drop("stale")
            if not self._queue:
                self._offered.clear()
            elif len(self._running) >= self._settings.max_inflight:
                await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            elif (left := self._queue[0].offered + _HEAD_START_SECONDS - time.monotonic()) > 0:
                await asyncio.sleep(left)
            elif not self._parts.pressure.has_room():
                await asyncio.sleep(_PAUSE_SECONDS)
            elif (handle := self._parts.find(self.pair.shadow)) is None:
                self._pop()
                self.ledger.drop("not_ready")
            else:
                self._start(handle, self._take(handle))

    def _take(self, handle: VersionHandle) -> list[Copy]:
        """Takes copies from the head of the queue, as many as one run of the shadow allows."""
        batch = [self._pop()]
        plan = handle.loaded.plan if handle.loaded is not None else None
        if plan is None or (first := shape_of(plan, batch[0].inputs)) is None:
            return batch
        line, rows = first
        while self._queue:
            shape = shape_of(plan, self._queue[0].inputs)
            if shape is None or shape[0] != line or rows + shape[1] > plan.max_rows:
                break
            rows += shape[1]
            batch.append(self._pop())
        return batch

    def _start(self, handle: VersionHandle, batch: list[Copy]) -> None:
        self._parts.pressure.running += 1
        task = asyncio.create_task(self._run(handle, batch), name=f"copies of {self.pair.model}@{self.pair.shadow}")
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._parts.pressure.running -= 1
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._parts.log.error("a copy could not be processed", **_names(self.pair), exc_info=error)

    async def _run(self, handle: VersionHandle, batch: list[Copy]) -> None:
        try:
            fitting = [copy for copy in batch if self._fits(handle, copy)]
            if not fitting:
                return
            answers = await self._execute(handle, fitting, for_shadow=True)
        except NotLoaded:
            for _ in batch:
                self.ledger.drop("closed" if self.closed else "not_ready")
            return
        for copy, answer in zip(fitting, answers, strict=True):
            if isinstance(answer, TurnoutError):
                self._failed(copy, answer)
            else:
                await self._compare(copy, answer)
        self._close_if_broken()

    def _fits(self, handle: VersionHandle, copy: Copy) -> bool:
        try:
            handle.check(copy.inputs, self._outputs(handle, copy))
        except InvalidTensor:
            self.ledger.count(CopyOutcome.INVALID, copy.epoch)
            trace_copy(self.pair, copy, CopyOutcome.INVALID)
            return False
        return True

    async def _execute(
        self, handle: VersionHandle, batch: Sequence[Copy], *, for_shadow: bool
    ) -> Sequence[Mapping[str, Array] | TurnoutError]:
        """Runs copies together, or one by one if that fails; returns the outputs or the error of each."""
        wanted = [self._outputs(handle, copy) for copy in batch]
        names = list(dict.fromkeys(name for outputs in wanted for name in outputs))
        with handle.lease() as loaded:
            plan = loaded.plan
            try:
                runner = await self._runner(handle, for_shadow)
                values = await runner.run(join(plan.input_axes, [copy.inputs for copy in batch]), names)
            except NotLoaded:
                raise
            except (ModelCrashed, ModelTimedOut) as error:
                return [error] * len(batch)
            except TurnoutError as error:
                if len(batch) == 1:
                    return [error]
                return [
                    answer for copy in batch for answer in await self._execute(handle, [copy], for_shadow=for_shadow)
                ]
        rows = [shape[1] if (shape := shape_of(plan, copy.inputs)) else 1 for copy in batch]
        parts = split(plan, dict(zip(names, values, strict=True)), rows, wanted)
        return [dict(zip(outputs, part, strict=True)) for outputs, part in zip(wanted, parts, strict=True)]

    def _outputs(self, handle: VersionHandle, copy: Copy) -> list[str]:
        return [name for name in copy.names if handle.manifest.signature.output(name) is not None]

    async def _runner(self, handle: VersionHandle, for_shadow: bool) -> CopyRunner:
        """Returns the runner of copies on a version. It is created at first use, and again if the version is reloaded.

        Raises:
            NotLoaded: The lane was closed, so that a new runner would never be closed.
        """
        if self.closed:
            raise NotLoaded(self.closed)
        known = self._runners.get(for_shadow)
        if known is None or known[0] is not handle:
            if known is not None:
                known[1].add_done_callback(_close)
            known = self._runners[for_shadow] = handle, self._parts.runner_for(handle, for_shadow)
        return await asyncio.shield(known[1])

    def _failed(self, copy: Copy, error: TurnoutError) -> None:
        outcome = next((o for kind, o in _OUTCOMES.items() if isinstance(error, kind)), CopyOutcome.FAILED)
        self.ledger.count(outcome, copy.epoch)
        trace_copy(self.pair, copy, outcome, error)
        self._parts.log.debug("a copy failed", **_names(self.pair), request=copy.request_id, reason=error.message)

    async def _compare(self, copy: Copy, actual: Mapping[str, Array]) -> None:
        expected = dict(zip(copy.names, copy.expected, strict=True))
        comparison = await self._compared(expected, actual, copy)
        lag = time.monotonic() - copy.offered
        trace_copy(self.pair, copy, CopyOutcome.AGREED if comparison.agrees else CopyOutcome.DISAGREED)
        if self.ledger.compare(comparison, copy.epoch, lag):
            self.ledger.keep(Disagreement(copy.request_id, datetime.now(UTC), comparison, self._kept(copy)))
        self._noise_due += self._settings.noise_rate
        if self.closed or (self._noise_due < 1.0 and not self.ledger.wants_repeat):
            return
        if (baseline := self._parts.find(self.pair.baseline)) is not None:
            self._noise_due = max(self._noise_due - 1.0, 0.0)
            (again,) = await self._execute(baseline, [copy], for_shadow=False)
            if not isinstance(again, TurnoutError):
                self.ledger.repeat(await self._compared(expected, again, copy))

    async def _compared(
        self, expected: Mapping[str, Array], actual: Mapping[str, Array], copy: Copy
    ) -> AnswerComparison:
        rules = self._parts.rules()
        if copy.nbytes <= _SMALL_BYTES:
            return compare(expected, actual, rules)
        return await self._parts.threads.run(compare, expected, actual, rules)

    def _kept(self, copy: Copy) -> Mapping[str, Array]:
        """Returns the part of a copy's inputs that may be stored."""
        if self._parts.redact is None:
            return {}
        try:
            return dict(self._parts.redact(self.pair.model, copy.inputs))
        except Exception as error:
            self._parts.log.error("the redaction hook failed; no inputs are kept", **_names(self.pair), exc_info=error)
            return {}

    def _close_if_broken(self) -> None:
        for _, runner in self._runners.values():
            if reason := _trouble(runner):
                self._parts.log.error("shadow lane closed", **_names(self.pair), reason=reason)
                self._shut(reason)
                return


_OUTCOMES = {
    MemoryBudgetExceeded: CopyOutcome.MEMORY,
    ModelCrashed: CopyOutcome.CRASHED,
    ModelTimedOut: CopyOutcome.TIMED_OUT,
}


def _trouble(runner: "asyncio.Future[CopyRunner]") -> str:
    """Returns why a runner cannot run; "" if it can, or is still being created."""
    if not runner.done() or runner.cancelled():
        return ""
    if (error := runner.exception()) is not None:
        return f"it cannot be run: {error}"
    return runner.result().broken


def _close(runner: "asyncio.Future[CopyRunner]") -> None:
    if not runner.cancelled() and runner.exception() is None:
        runner.result().close()


def _names(pair: Pair) -> dict[str, str]:
    return {"model": pair.model, "shadow": pair.shadow, "baseline": pair.baseline}
