"""A version in service. A held handle keeps the version and its memory alive.

Requests pass through `infer_now` or `infer`. `close` refuses new requests, waits for those in progress, and frees the
sessions.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from turnout.config import ModelSettings
from turnout.errors import InputsRefused, ModelCrashed, ModelFailure, ModelTimedOut, NotLoaded, TurnoutError
from turnout.registry.manifest.manifest import Manifest
from turnout.serving.batching.answer import BatchedAnswer
from turnout.serving.batching.batcher import Batcher
from turnout.serving.batching.request_queue import QueueBounds
from turnout.serving.counting.arm_counts import Arms
from turnout.serving.counting.keyed_outcomes import SlotHistory
from turnout.serving.inputs.validation import Validator
from turnout.serving.loading.loaded_version import LoadedVersion
from turnout.serving.sessions.fixed_shape_run import PreparedRun
from turnout.serving.sessions.session import Run
from turnout.serving.sessions.tensor import Array
from turnout.telemetry.metrics.batches import BatchSize
from turnout.telemetry.metrics.versions import VersionRecorder
from turnout.threads import Threads

_OVERRUN = 20.0
"""An inline run that takes this many times the threshold is a strike: its time may not depend on its size."""

_STRIKES, _STRIKE_RUNS = 5, 200
"""Number of strikes, within a number of runs, after which inline runs pause."""

_STALL_SECONDS = 0.1
"""A run of this many seconds of CPU time pauses inline runs at once."""

_PAUSE_SECONDS, _PAUSE_GROWTH, _LONGEST_PAUSE = 10.0, 6.0, 6 * 3600.0
"""First pause, growth factor and longest pause in seconds. A model whose runs regularly take so long blocks the event
loop four times in the first hour, and then four times a day."""


_KINDS = 256
"""Maximum number of request kinds for which the result of validation is cached."""

_BOUND_AFTER = 8
"""Number of inline runs of a kind after which its inputs and outputs are bound: binding takes 18 microseconds, which
about six runs save."""

_MOST_BOUND = 16
"""Maximum number of bound kinds, which take a megabyte per version."""


@dataclass(slots=True, eq=False)
class _Checked:
    """Cached results for requests of one kind."""

    names: Sequence[str]  # of the outputs
    size: int  # of the inputs, in bytes
    rows: int  # reported to the caller; 0 if none are
    observed: int  # rows counted in metrics
    batch: BatchSize  # counter of the batch size
    run: Run  # runs such requests on the event loop
    runs: int = 0


class VersionHandle:
    """Runs one loaded version. Used on the event loop only.

    Attributes:
        loaded: The loaded version; None once it is closed.
        arms: Meters that count its requests for rollouts.
        history: Its latest requests with a routing key, by slot.
        closing: Whether the version is being unloaded and refuses requests.
        child_bytes: Memory of its child processes in bytes at the latest `sample`.
    """

    def __init__(
        self,
        manifest: Manifest,
        loaded: LoadedVersion,
        settings: ModelSettings,
        recorder: VersionRecorder,
        on_demoted: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """Puts a version into service. `on_demoted` is called once, with the reason, if batching has to stop."""
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
        self._validator = Validator(manifest.signature, loaded.in_step, loaded.never_empty, loaded.shapes.sizes)
        self._checked: dict[object, _Checked] = {}
        self._bound_kinds = 0
        self._run = loaded.run
        self._inline_bytes = loaded.inline_bytes
        self._strikes = self._inline_runs = 0
        self._inline_pause = _PAUSE_SECONDS
        self._inline_again: asyncio.TimerHandle | None = None
        self._inline_limit = settings.runtime.inline_threshold_us * 1e-6 * _OVERRUN
        axes = loaded.plan.input_axes if loaded.plan.max_rows else {}
        self._row_axis = next(((s.name, axes[s.name]) for s in manifest.signature.required if s.name in axes), None)
        self.in_force = loaded.in_force
        self._demoted = False
        self._on_demoted = on_demoted
        self._loaded_at = time.monotonic()
        self.inflight = 0
        self._leases = 0
        self.closing = False
        self._idle = asyncio.Event()
        self._bounds = QueueBounds(
            settings.limits.max_queue_requests,
            int(settings.limits.max_queue_bytes),
            settings.batching.max_delay_ms / 1e3,
            settings.runtime.gpu_spin_us * 1e-6 if any(session.device != "cpu" for session in loaded.sessions) else 0.0,
        )
        self._batchers = {"": self._lane("")}

    @property
    def in_use(self) -> bool:
        """Whether requests or other work are in progress."""
        return bool(self.inflight or self._leases)

    @property
    def used_at(self) -> float:
        """`time.monotonic()` of the latest answer, or of loading."""
        return max([self._loaded_at, *(role.answered_last for role in self.recorder.roles.values())])

    @property
    def queue_depth(self) -> int:
        """Number of requests waiting for a runner."""
        return sum(batcher.waiting for batcher in self._batchers.values())

    @property
    def queue_fill(self) -> float:
        """Fill level of the fullest queue, as in `Batcher.fill`."""
        return max((batcher.fill for batcher in self._batchers.values()), default=0.0)

    def infer_now(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], lane: str = "", kind: object = None
    ) -> tuple[Sequence[str], BatchedAnswer] | None:
        """Answers a request at once if its run is shorter than passing it to a thread would take.

        Arguments and result are as for `infer`, which must be used if the result is None. Only the first request of a
        kind is validated.

        Raises:
            InvalidTensor: The request does not fit the signature.
            InputsRefused, ModelFailure, MemoryBudgetExceeded: The run failed.
        """
        if not self._inline_bytes or self.closing:
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
        sessions = () if self.loaded is None else self.loaded.sessions
        if self._bound_kinds >= _MOST_BOUND or not sessions or self._run != sessions[0].run:
            return
        run = PreparedRun.of(sessions[0], inputs, known.names, values)
        if run is not None:
            self._bound_kinds += 1
            known.run = run

    def _check(self, inputs: Mapping[str, Array], outputs: Sequence[str], kind: object) -> _Checked:
        """Validates a request and caches the result by its kind, if that is known. Raises InvalidTensor."""
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
        """Answers a request on a runner; returns the names of the outputs, and the answer.

        Args:
            inputs: Inputs by name, not yet validated.
            outputs: Names of the requested outputs; empty means all.
            deadline: `time.monotonic()` after which the answer is useless; None for no deadline.
            lane: Name of the queue to wait in. Each lane has its own runners, as a separate version would, and requests
                of different lanes are never batched together.
            kind: As in `InferenceRequest`.

        Raises:
            InvalidTensor: The request does not fit the signature.
            NotLoaded: The version is being unloaded.
            QueueFull, DeadlineExceededError, InputsRefused, ModelFailure, MemoryBudgetExceeded: As `Batcher.submit`.
        """
        if self.closing:
            raise NotLoaded(f"{self.manifest.model} {self.manifest.version} is being unloaded")
        names = (self._checked.get(kind) or self._check(inputs, outputs, kind)).names
        self.inflight += 1
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
            self.inflight -= 1
            self._left()

    def sample(self) -> None:
        """Copies present values to the recorder."""
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
        """Returns the names of the outputs that a request gets.

        Raises:
            InvalidTensor: The request does not fit the signature.
        """
        return self._validator.check(inputs, outputs)

    @contextmanager
    def lease(self) -> Iterator[LoadedVersion]:
        """Lends the loaded version to other work; it stays in memory in the meantime.

        Raises:
            NotLoaded: The version is being unloaded.
        """
        if self.closing or self.loaded is None:
            raise NotLoaded(f"{self.manifest.model} {self.manifest.version} is being unloaded")
        self._leases += 1
        try:
            yield self.loaded
        finally:
            self._leases -= 1
            self._left()

    async def close(self) -> None:
        """Takes the version out of service: waits for requests and runs in progress, then frees the sessions.

        A run that hangs delays this for as long as it hangs, but blocks nothing else.
        """
        self.closing = True
        if self._inline_again is not None:
            self._inline_again.cancel()
        if self.inflight or self._leases:
            await self._idle.wait()
        for batcher in self._batchers.values():
            batcher.close()
        threads = Threads("close")
        if (pool := self.loaded.pool if self.loaded is not None else None) is not None:
            # Before the batchers: a run that hangs with no caller waiting ends with its process.
            await threads.run(pool.close)
            self.sample()
        for batcher in self._batchers.values():
            await batcher.wait_closed()
        if self.loaded is not None and self.loaded.graphs.buckets:
            await threads.run(self.loaded.free)
        threads.shutdown()
        # Drop all references to the sessions, so that their memory can be freed.
        self.loaded = pool = None
        self._forget_kinds()
        del self._run, batcher
        self._batchers.clear()

    def _size_conflict(self, error: TurnoutError, inputs: Mapping[str, Array]) -> InputsRefused | None:
        """Returns the error if contradictory input sizes explain a failed run, otherwise None."""
        if isinstance(error, ModelCrashed | ModelTimedOut) or not (found := self._validator.size_conflicts(inputs)):
            return None
        conflicts = "; ".join(f"{conflict.field}: {conflict.description}" for conflict in found)
        return InputsRefused(f"{conflicts} ({error.message})", violations=found)

    def _strike(self, used: float) -> None:
        """Records an inline run that took too long: `used` seconds of CPU time.

        Time spent waiting for a core is not the model's fault. If it counted, one of two equal versions could be slower
        than the other during a pause, which a rollout would compare.
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
        """Resumes inline runs of requests with at most `most` bytes of inputs."""
        self._inline_bytes = most

    def _lane(self, lane: str) -> Batcher:
        assert self.loaded is not None
        name = f"{self.manifest.model}@{self.manifest.version}{f'-{lane}' if lane else ''}"
        return Batcher(
            name,
            self.in_force,
            self._bounds,
            self.loaded.runners,
            self._batch_sizes.observe,
            self._demote,
        )

    def demote(self, fault: str) -> None:
        """Stops batching, because a shared run outside the version's own lanes did not add up."""
        self.in_force.demote(fault)
        self._demote(self.in_force.plan.reason)

    def _demote(self, reason: str) -> None:
        """Records that outputs of a batch did not add up. The lanes have already stopped batching."""
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
        if self.closing and not self.inflight and not self._leases:
            self._idle.set()
