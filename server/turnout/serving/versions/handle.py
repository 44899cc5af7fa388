"""A version in service. A held handle keeps the version, and its memory, alive.

`infer_now` and `infer` are the way of a request through a version. `close` refuses what comes after, waits for what is
under way, and frees the sessions.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from turnout.config import ModelSettings
from turnout.errors import InputsRefused, ModelCrashed, ModelFailure, ModelTimedOut, NotLoaded, TurnoutError
from turnout.registry.manifest.manifest import Manifest
from turnout.serving.batching.active_plan import PlanInForce
from turnout.serving.batching.answer import BatchedAnswer
from turnout.serving.batching.batcher import Batcher
from turnout.serving.batching.request_queue import QueueBounds
from turnout.serving.counting.arm_counts import Arms
from turnout.serving.counting.keyed_outcomes import SlotHistory
from turnout.serving.inputs.validation import Validator
from turnout.serving.loading.loader import LoadedVersion
from turnout.serving.sessions.fixed_shape_run import PreparedRun
from turnout.serving.sessions.session import Run
from turnout.serving.sessions.tensor import Array
from turnout.telemetry.metrics.batches import BatchSize
from turnout.telemetry.metrics.versions import VersionRecorder
from turnout.threads import Threads

_OVERRUN = 20.0
"""An inline run that takes this many times the threshold is a strike: its time may not be judged by its size."""

_STRIKES, _STRIKE_RUNS = 5, 200
"""So many strikes in so many runs end the inline way for a while."""

_STALL_SECONDS = 0.1
"""A run that long ends it at once."""

_PAUSE_SECONDS, _PAUSE_GROWTH, _LONGEST_PAUSE = 10.0, 6.0, 6 * 3600.0
"""For how long: a model whose runs do take so long holds the event loop four times in the first hour, and four times a
day then."""


_KINDS = 256
"""Kinds of requests of which is remembered that they were checked."""

_BOUND_AFTER = 8
"""Inline runs of a kind after which its inputs and outputs are bound: that takes 18 microseconds, as some six save."""

_MOST_BOUND = 16
"""Kinds that are bound: a megabyte of a version."""


@dataclass(slots=True, eq=False)
class _Checked:
    """What was worked out about requests of one kind.

    Attributes:
        names: Of the outputs.
        size: Bytes of the inputs.
        rows: 0 if none are told.
        observed: Rows that are counted.
        batch: Where they are counted.
        run: Runs such requests on the event loop.
        runs: How often it did.
    """

    names: Sequence[str]
    size: int
    rows: int
    observed: int
    batch: BatchSize
    run: Run
    runs: int = 0


class VersionHandle:
    """Runs one loaded version. Used on the event loop only.

    Attributes:
        loaded: What the loader brought.
        recorder: What is counted about the version.
        arms: Who counts its requests for rollouts.
        history: Its latest requests with a routing key, by slot.
        child_bytes: Memory of its child processes, at the latest `sample`.
    """

    def __init__(
        self,
        manifest: Manifest,
        loaded: LoadedVersion,
        settings: ModelSettings,
        recorder: VersionRecorder,
        on_demoted: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """Puts a version into service.

        Args:
            manifest: Of the version.
            loaded: What the loader brought.
            settings: Of its model.
            recorder: What is counted about the version.
            on_demoted: Told, once, why its requests share runs no more: an output of one did not add up.
        """
        self.manifest = manifest
        self.loaded: LoadedVersion | None = loaded
        self.recorder = recorder
        self.arms: Arms = {}
        self.history = SlotHistory()
        self.child_bytes = 0
        self._batch_sizes = recorder.batches
        self._restarts_before = recorder.isolated_restarts or 0
        if loaded.pool is not None:
            recorder.isolated_restarts = self._restarts_before
        self._validator = Validator(manifest.signature, loaded.in_step, loaded.never_empty)
        self._checked: dict[object, _Checked] = {}
        self._bound_kinds = 0
        self._run = loaded.run
        self._inline_bytes = loaded.inline_bytes
        self._strikes = self._inline_runs = 0
        self._inline_pause = _PAUSE_SECONDS
        self._inline_again: asyncio.TimerHandle | None = None
        self._inline_limit = settings.runtime.inline_threshold_us * 1e-6 * _OVERRUN
        required = [spec.name for spec in manifest.signature.inputs if not spec.has_default]
        axes = loaded.plan.input_axes if loaded.plan.max_rows else {}
        self._row_axis = next(((name, axes[name]) for name in required if name in axes), None)
        self._in_force = loaded.in_force or PlanInForce(loaded.plan)
        self._demoted = False
        self._on_demoted = on_demoted
        self._loaded_at = time.monotonic()
        self._inflight = 0
        self._guests = 0
        self._closing = False
        self._idle = asyncio.Event()
        self._bounds = QueueBounds(
            settings.limits.max_queue_requests,
            int(settings.limits.max_queue_bytes),
            settings.batching.max_delay_ms / 1e3,
            settings.runtime.gpu_spin_us * 1e-6 if any(session.device != "cpu" for session in loaded.sessions) else 0.0,
        )
        self._batchers = {"": self._lane("")}

    @property
    def closing(self) -> bool:
        """The version is on its way out, and takes no request."""
        return self._closing

    @property
    def inflight(self) -> int:
        """Requests under way."""
        return self._inflight

    @property
    def in_use(self) -> bool:
        """Requests, or work beside them, are under way."""
        return bool(self._inflight or self._guests)

    @property
    def used_at(self) -> float:
        """`time.monotonic()` of the latest answer, or of the load."""
        return max([self._loaded_at, *(role.answered_last for role in self.recorder.roles.values())])

    @property
    def queue_depth(self) -> int:
        """Requests that wait for a runner."""
        return sum(batcher.waiting for batcher in self._batchers.values())

    @property
    def queue_fill(self) -> float:
        """How full the fullest queue is, as `Batcher.fill`."""
        return max((batcher.fill for batcher in self._batchers.values()), default=0.0)

    def infer_now(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], lane: str = "", kind: object = None
    ) -> tuple[Sequence[str], BatchedAnswer] | None:
        """Answers a request at once, if its run is shorter than handing it to a thread would be.

        Args:
            inputs: By name, as they came.
            outputs: Names of the outputs wanted; none means all.
            lane: As in `infer`.
            kind: As of `InferenceRequest`: what was checked of one request is not checked of the next.

        Returns:
            The outputs' names and what the run gave; None if `infer` is the way.

        Raises:
            InvalidTensor: The request does not fit the signature.
            InputsRefused, ModelFailure, MemoryBudgetExceeded: The run failed.
        """
        if not self._inline_bytes or self._closing:
            return None
        batcher = self._batchers.get(lane)
        if batcher is not None and batcher.waiting:
            return None
        known = self._checked.get(kind)
        if known is None:
            known = self._check(inputs, outputs, kind)
        if known.size > self._inline_bytes:
            return None
        names = known.names
        start, cpu = time.monotonic(), time.thread_time()
        try:
            values = known.run(inputs, names)
        except (InputsRefused, ModelFailure) as error:
            if refused := self._size_conflict(error, inputs):
                raise refused from error
            raise
        took = time.monotonic() - start
        if took > self._inline_limit and (used := time.thread_time() - cpu) > self._inline_limit:
            self._strike(used)
        known.runs += 1
        if known.runs == _BOUND_AFTER and kind is not None:
            self._bind(known, inputs, values)
        batch = known.batch
        batch.runs += 1
        batch.rows += known.observed
        batch.seconds += took
        return names, BatchedAnswer(values, 0.0, took, known.rows, 1, start)

    def _bind(self, known: _Checked, inputs: Mapping[str, Array], values: Sequence[Array]) -> None:
        """Has requests of a kind run in memory of their own from now on, if that can be done."""
        sessions = () if self.loaded is None else self.loaded.sessions
        if self._bound_kinds >= _MOST_BOUND or not sessions or self._run != sessions[0].run:
            return
        run = PreparedRun.of(sessions[0], inputs, known.names, values)
        if run is not None:
            self._bound_kinds += 1
            known.run = run

    def _check(self, inputs: Mapping[str, Array], outputs: Sequence[str], kind: object) -> _Checked:
        """Checks a request, and remembers what that came to if its kind is known. Raises InvalidTensor."""
        names = self._validator.check(inputs, outputs)
        size = sum(array.nbytes for array in inputs.values())
        rows, observed = 0, 1
        if self._row_axis is not None:
            name, axis = self._row_axis
            rows = observed = inputs[name].shape[axis]
        checked = _Checked(names, size, rows, observed, self._batch_sizes.of(observed), self._run)
        if kind is not None:
            if len(self._checked) >= _KINDS:
                self._forget_kinds()
            self._checked[kind] = checked
        return checked

    async def infer(
        self,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        deadline: float | None,
        lane: str = "",
        kind: object = None,
    ) -> tuple[Sequence[str], BatchedAnswer]:
        """Answers a request on a runner.

        Args:
            inputs: By name, as they came.
            outputs: Names of the outputs wanted; none means all.
            deadline: `time.monotonic()` after which the answer is worth nothing; None for never.
            lane: The queue that it waits in. Each has runners of its own, as another version would; requests of two
                lanes share no batch.
            kind: As in `infer_now`.

        Returns:
            The outputs' names, and what the run gave.

        Raises:
            InvalidTensor: The request does not fit the signature.
            NotLoaded: The version is on its way out.
            QueueFull, DeadlineExceededError, InputsRefused, ModelFailure, MemoryBudgetExceeded: As `Batcher.submit`.
        """
        if self._closing:
            raise NotLoaded(f"{self.manifest.model} {self.manifest.version} is being unloaded")
        names = (self._checked.get(kind) or self._check(inputs, outputs, kind)).names
        self._inflight += 1
        try:
            batcher = self._batchers.get(lane)
            if batcher is None:
                batcher = self._batchers[lane] = self._lane(lane)
            return names, await batcher.submit(inputs, names, deadline, kind)
        except (InputsRefused, ModelFailure) as error:
            if refused := self._size_conflict(error, inputs):
                raise refused from error
            raise
        finally:
            self._inflight -= 1
            self._left()

    def sample(self) -> None:
        """Copies what changes by itself into the recorder."""
        self.recorder.inflight = self.inflight
        self.recorder.queue_depth = self.queue_depth
        self.recorder.queue_fill = self.queue_fill
        self.recorder.without_slot = self.history.lost
        if self.loaded is not None and (pool := self.loaded.pool) is not None:
            self.recorder.isolated_restarts = self._restarts_before + pool.deaths
            self.recorder.isolated_processes = len(pool.pids)
            self.child_bytes = pool.memory_bytes
            self.recorder.memory_bytes["cpu"] = self.loaded.memory_bytes.get("cpu", 0) + self.child_bytes

    def check(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Sequence[str]:
        """Returns the names of the outputs that such a request gets.

        Raises:
            InvalidTensor: The request does not fit the signature.
        """
        return self._validator.check(inputs, outputs)

    @contextmanager
    def lease(self) -> Iterator[LoadedVersion]:
        """Lends what is loaded to work beside the version's requests; it stays in memory meanwhile.

        Raises:
            NotLoaded: The version is on its way out.
        """
        if self._closing or self.loaded is None:
            raise NotLoaded(f"{self.manifest.model} {self.manifest.version} is being unloaded")
        self._guests += 1
        try:
            yield self.loaded
        finally:
            self._guests -= 1
            self._left()

    async def close(self) -> None:
        """Takes the version out of service: waits for the requests under way and for runs, then frees its sessions.

        A run that hangs is waited for as long as it does, which holds nothing else up.
        """
        self._closing = True
        if self._inline_again is not None:
            self._inline_again.cancel()
        if self._inflight or self._guests:
            await self._idle.wait()
        for batcher in self._batchers.values():
            batcher.close()
        if (pool := self.loaded.pool if self.loaded is not None else None) is not None:
            # First: a run that hangs, and that nobody waits for any more, ends with its process.
            threads = Threads("close")
            await threads.run(pool.close)
            threads.shutdown()
            self.sample()
        for batcher in self._batchers.values():
            await batcher.wait_closed()
        if self.loaded is not None and self.loaded.graphs.buckets:
            threads = Threads("close")
            await threads.run(self.loaded.free)
            threads.shutdown()
        # Everything that refers to the sessions goes, so that their memory can be given back.
        self.loaded = pool = None
        self._forget_kinds()
        del self._run, batcher
        self._batchers.clear()

    def _size_conflict(self, error: TurnoutError, inputs: Mapping[str, Array]) -> InputsRefused | None:
        """Returns the caller's fault in a run that failed: inputs that contradict each other's sizes; or None."""
        if isinstance(error, ModelCrashed | ModelTimedOut) or not (found := self._validator.size_conflicts(inputs)):
            return None
        conflicts = "; ".join(f"{conflict.field}: {conflict.description}" for conflict in found)
        return InputsRefused(f"{conflicts} ({error.message})", violations=found)

    def _strike(self, used: float) -> None:
        """Notes an inline run that took too long.

        Args:
            used: Seconds of CPU that it took. What a run waited for a core is the machine's doing, and would leave one
                of two equal versions slower than the other for as long as the pause lasts, which a rollout compares.
        """
        runs = self._batch_sizes.runs
        if runs - self._inline_runs > _STRIKE_RUNS:
            self._strikes, self._inline_runs = 0, runs
        self._strikes += 1
        if self._strikes >= _STRIKES or used > _STALL_SECONDS:
            again, self._inline_bytes, self._strikes = self._inline_bytes, 0, 0
            self._inline_again = asyncio.get_running_loop().call_later(self._inline_pause, self._run_inline, again)
            self._inline_pause = min(self._inline_pause * _PAUSE_GROWTH, _LONGEST_PAUSE)

    def _run_inline(self, most: int) -> None:
        """Runs requests of at most so many bytes inline again."""
        self._inline_bytes = most

    def _lane(self, lane: str) -> Batcher:
        assert self.loaded is not None
        name = f"{self.manifest.model}@{self.manifest.version}"
        return Batcher(
            f"{name}-{lane}" if lane else name,
            self._in_force,
            self._bounds,
            self.loaded.runners,
            self._batch_sizes.observe,
            self._demote,
        )

    def _demote(self, reason: str) -> None:
        """Notes that an output of a joined run did not add up; the lanes put no more requests together already."""
        if not self._demoted:
            self._demoted = True
            self._row_axis = None
            self._forget_kinds()
            self.recorder.demoted += 1
            self._on_demoted(reason)

    def _forget_kinds(self) -> None:
        self._checked.clear()
        self._bound_kinds = 0

    def _left(self) -> None:
        if self._closing and not self._inflight and not self._guests:
            self._idle.set()
