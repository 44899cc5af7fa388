"""One shadow's lane: a queue of copies, bounded in items and bytes, that runs only while no live request waits.

    event loop:   offer -> queue -> dispatch (as Pressure allows) -> compare -> ledger
    runner:                          run -^

All failures of a shadow end here: they are counted, and do not affect the live path.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

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
from turnout.routing.shadow.runner import CopyRunner
from turnout.serving.batching.batch import BatchSizeMismatch, explains_mismatch, shape_of, split
from turnout.serving.inputs.rows import join
from turnout.serving.sessions.tensor import Array
from turnout.serving.versions.handle import VersionHandle

if TYPE_CHECKING:
    from turnout.routing.shadow.service import Shadows

_HEAD_START_SECONDS = 0.003
"""Minimum time that a copy waits, while its request's answer is being sent and further copies arrive."""

_UNEXPECTED = "an unexpected error; see the server's log"

_SMALL_BYTES = 64 * 1024
"""Outputs up to this size are compared on the event loop (about 50 us), since handing them to a thread costs more."""


class Lane:
    """Runs and compares the copies of one pair. Used only on the event loop.

    Attributes:
        closed: Why the lane accepts no more copies; "" while it does.
    """

    def __init__(self, pair: Pair, settings: LaneSettings, ledger: Ledger, shadows: "Shadows") -> None:
        self.pair = pair
        self.ledger = ledger
        self.closed = ""
        self.ended = False
        self.settings = settings
        self._shadows = shadows
        self._queue: deque[Copy] = deque()
        self._queued_bytes = 0
        self._offered = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._runners: dict[bool, tuple[VersionHandle, asyncio.Future[CopyRunner]]] = {}
        self._rules: Mapping[str, OutputRule] | None = None
        self._outdated = False
        self._noise_due = 0.0
        self._dispatcher = self._dispatching()

    def has_place(self) -> bool:
        """Returns whether the queue has room for one more copy; counts a dropped copy if it has not.

        Called before a copy is made, so that a lane that drops copies costs the live path next to nothing.
        """
        if self.closed:
            self.ledger.drop("closed")
        elif len(self._queue) >= self.settings.max_queue_requests:
            self.ledger.drop("queue_items")
        else:
            return True
        return False

    def offer(self, copy: Copy) -> None:
        """Queues a copy after `has_place` returned True; drops and counts it if the queue would exceed its bytes."""
        if self._queue and self._queued_bytes + copy.nbytes > self.settings.max_queue_bytes:
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
        """Accepts no more copies, drops those that wait, and waits at most `bound` seconds for those that run.

        Copies that take longer are stopped and dropped: that they had no answer is not the shadow's fault.
        """
        self.ended = True
        self._shut(reason)
        self._dispatcher.cancel()
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=bound)
            for task in late:
                task.cancel()
        self._close_runners()
        await asyncio.gather(self._dispatcher, *self._running, return_exceptions=True)

    def configure(self, settings: LaneSettings) -> None:
        """Changes the settings. Copies that run are finished under the previous ones."""
        if (settings.keep_inputs, settings.redact) != (self.settings.keep_inputs, self.settings.redact):
            self.ledger.forget_inputs()
        self.settings = settings
        self.ledger.configure(settings.keep_worst, noise=bool(settings.noise_rate))
        self._rules = None
        self._outdated = bool(self._runners)

    def reopen(self) -> None:
        """Accepts copies again, if it was closed because its shadow could not run any more."""
        if self.closed and not self.ended:
            self.closed = ""
            if self._dispatcher.done():
                self._dispatcher = self._dispatching()

    def _dispatching(self) -> "asyncio.Task[None]":
        task = asyncio.create_task(self._dispatch(), name=f"shadow {self.pair.model}@{self.pair.shadow}")
        task.add_done_callback(self._check_task)
        return task

    def _check_task(self, task: "asyncio.Task[None]") -> None:
        """Closes the lane if one of its tasks ended with an unexpected error: it must not look open and do nothing."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._shadows.log.error("a copy could not be processed", **_names(self.pair), exc_info=error)
            self._break(_UNEXPECTED)

    def _break(self, reason: str) -> None:
        self._shut(reason)
        self._close_runners()

    def _shut(self, reason: str) -> None:
        self.closed = self.closed or reason
        for _ in range(len(self._queue)):
            self._pop()
            self.ledger.drop("closed")

    def _close_runners(self) -> None:
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
            while self._queue and time.monotonic() - self._queue[0].offered > self.settings.max_lag_s:
                self._pop()
                self.ledger.drop("stale")
            if not self._queue:
                self._offered.clear()
            elif self._outdated and not self._running:
                self._close_runners()
                self._outdated = False
            elif self._outdated or len(self._running) >= self.settings.max_inflight:
                await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            elif (left := self._queue[0].offered + _HEAD_START_SECONDS - time.monotonic()) > 0:
                await asyncio.sleep(left)
            elif not self._shadows.pressure.has_room():
                await self._shadows.pressure.pause()
            elif (handle := self._shadows.handle(self.pair.model, self.pair.shadow)) is None:
                self._pop()
                self.ledger.drop("not_ready")
            elif batch := self._take(handle):
                self._start(handle, batch)
            else:
                await asyncio.sleep(0)  # many copies in a row may be invalid

    def _take(self, handle: VersionHandle) -> list[Copy]:
        """Takes copies from the head of the queue, as many as one run of the shadow allows.

        Returns:
            An empty list if the shadow's signature does not accept the first copy, which is counted.
        """
        first = self._queue[0]
        if not self._fits(handle, first):
            self._pop()
            self.ledger.count(CopyOutcome.INVALID, first.epoch)
            trace_copy(self.pair, first, CopyOutcome.INVALID)
            return []
        return [self._pop() for _ in range(self._joinable(handle, first))]

    def _joinable(self, handle: VersionHandle, first: Copy) -> int:
        """Returns the number of copies at the head of the queue, of which `first` is one, that may share a run."""
        in_force = handle.in_force
        plan = in_force.plan
        if (shape := shape_of(plan, first.inputs)) is None:
            return 1
        line, rows = shape
        for number, copy in enumerate(self._queue):
            if not self._fits(handle, copy) or not in_force.may_join(line, self._outputs(handle, copy)):
                return max(number, 1)
            if number:
                shape = shape_of(plan, copy.inputs)
                if shape is None or shape[0] != line or rows + shape[1] > plan.max_rows:
                    return number
                rows += shape[1]
        return len(self._queue)

    def _start(self, handle: VersionHandle, batch: list[Copy]) -> None:
        self._shadows.pressure.running += 1
        task = asyncio.create_task(self._run(handle, batch), name=f"copies of {self.pair.model}@{self.pair.shadow}")
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._shadows.pressure.ended()
        self._running.discard(task)
        self._check_task(task)

    async def _run(self, handle: VersionHandle, batch: list[Copy]) -> None:
        """Runs copies and compares their answers. Each copy is counted once, whatever happens."""
        left = deque(batch)
        missed = "closed"
        try:
            for answer in await self._execute(handle, batch, for_shadow=True):
                copy = left[0]
                if isinstance(answer, TurnoutError):
                    left.popleft()
                    self._failed(copy, answer)
                    continue
                expected = dict(zip(copy.names, copy.expected, strict=True))
                comparison = await self._compared(expected, answer, copy)
                left.popleft()
                await self._compare(copy, expected, comparison)
        except NotLoaded:
            missed = "closed" if self.closed else "not_ready"
        finally:
            for _ in left:
                self.ledger.drop(missed)
        self._close_if_broken()

    def _fits(self, handle: VersionHandle, copy: Copy) -> bool:
        try:
            handle.check(copy.inputs, self._outputs(handle, copy))
        except InvalidTensor:
            return False
        return True

    async def _execute(
        self, handle: VersionHandle, batch: Sequence[Copy], *, for_shadow: bool
    ) -> Sequence[Mapping[str, Array] | TurnoutError]:
        """Runs copies together, or one by one if that fails; returns the outputs or the error of each."""
        wanted = [self._outputs(handle, copy) for copy in batch]
        names = list(dict.fromkeys(name for outputs in wanted for name in outputs))
        if not names:
            return [{} for _ in batch]  # ONNX Runtime would compute all outputs
        plan = handle.in_force.plan
        shapes = [shape_of(plan, copy.inputs) for copy in batch]
        fault = ""
        if len(batch) == 1 or None not in shapes:  # the version may have been demoted since the batch was formed
            with handle.lease():
                try:
                    runner = await self._runner(handle, for_shadow)
                    values = await runner.run(join(plan.input_axes, [copy.inputs for copy in batch]), names)
                    outputs = dict(zip(names, values, strict=True))
                    if shapes[0] is not None:
                        handle.in_force.check(shapes[0][0], outputs)
                    parts = split(plan, outputs, [shape[1] if shape else 1 for shape in shapes], wanted)
                    return [dict(zip(asked, part, strict=True)) for asked, part in zip(wanted, parts, strict=True)]
                except NotLoaded:
                    raise
                except (ModelCrashed, ModelTimedOut) as error:
                    return [error] * len(batch)
                except BatchSizeMismatch as mismatch:
                    if len(batch) == 1:
                        handle.demote(str(mismatch))
                    else:
                        fault = str(mismatch)
                except TurnoutError as error:
                    if len(batch) == 1:
                        return [error]
        alone = [answer for copy in batch for answer in await self._execute(handle, [copy], for_shadow=for_shadow)]
        if fault and not any(
            isinstance(answer, TurnoutError) or (shape and explains_mismatch(plan, answer, shape[1]))
            for answer, shape in zip(alone, shapes, strict=True)
        ):
            handle.demote(fault)
        return alone

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
            runner = self._shadows.runner(handle, self.settings, for_shadow=for_shadow)
            known = self._runners[for_shadow] = handle, asyncio.ensure_future(runner)
        return await asyncio.shield(known[1])

    def _failed(self, copy: Copy, error: TurnoutError) -> None:
        if self.closed:  # its run was stopped with the lane, or may have been
            self.ledger.drop("closed")
            return
        outcome = next((o for kind, o in _OUTCOMES.items() if isinstance(error, kind)), CopyOutcome.FAILED)
        self.ledger.count(outcome, copy.epoch)
        trace_copy(self.pair, copy, outcome, error)
        self._shadows.log.debug("a copy failed", **_names(self.pair), request=copy.request_id, reason=error.message)

    async def _compare(self, copy: Copy, expected: Mapping[str, Array], comparison: AnswerComparison) -> None:
        """Counts a comparison, keeps it if it is one of the worst, and repeats the copy on the baseline if needed."""
        lag = time.monotonic() - copy.offered
        trace_copy(self.pair, copy, CopyOutcome.AGREED if comparison.agrees else CopyOutcome.DISAGREED)
        if self.ledger.compare(comparison, copy.epoch, lag):
            self.ledger.keep(Disagreement(copy.request_id, datetime.now(UTC), comparison, await self._kept(copy)))
        self._noise_due += self.settings.noise_rate
        if self.closed or (self._noise_due < 1.0 and not self.ledger.wants_repeat):
            return
        if (baseline := self._shadows.handle(self.pair.model, self.pair.baseline)) is not None:
            self._noise_due = max(self._noise_due - 1.0, 0.0)
            with contextlib.suppress(NotLoaded):  # it has left since
                (again,) = await self._execute(baseline, [copy], for_shadow=False)
                if not isinstance(again, TurnoutError):
                    self.ledger.repeat(await self._compared(expected, again, copy))

    async def _compared(
        self, expected: Mapping[str, Array], actual: Mapping[str, Array], copy: Copy
    ) -> AnswerComparison:
        rules = self._rules
        if rules is None:
            rules = self._rules = self._shadows.rules(self.pair, self.settings)
        if copy.nbytes <= _SMALL_BYTES:
            return compare(expected, actual, rules)
        return await self._shadows.comparing.run(compare, expected, actual, rules)

    async def _kept(self, copy: Copy) -> Mapping[str, Array]:
        """Returns the part of a copy's inputs that may be stored."""
        settings = self.settings
        redact = self._shadows.redaction.of(settings)
        if redact is None:
            return {}
        try:  # in a thread, since how long the hook takes is up to its author
            kept = dict(await self._shadows.comparing.run(redact, self.pair.model, copy.inputs))
            return kept if self.settings is settings else {}
        except Exception as error:
            self._shadows.log.error(
                "the redaction hook failed; no inputs are kept", **_names(self.pair), exc_info=error
            )
            return {}

    def _close_if_broken(self) -> None:
        for _, runner in self._runners.values():
            if reason := _trouble(runner):
                self._shadows.log.error("shadow lane closed", **_names(self.pair), reason=reason)
                self._break(reason)
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
