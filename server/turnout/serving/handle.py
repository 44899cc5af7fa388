"""A version in service. Whoever holds the handle keeps the version alive: holding one costs its memory.

`infer_now` and `infer` are the way of a request through a version. `close` refuses what comes after, waits for what is
under way, and frees the sessions.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from turnout.config import ModelSettings
from turnout.errors import NotLoaded
from turnout.registry.manifest import Manifest
from turnout.serving.batcher import Answer, Batcher, QueueBounds
from turnout.serving.loader import LoadedVersion
from turnout.serving.memory import give_back
from turnout.serving.tensor import Array
from turnout.serving.validation import Validator
from turnout.telemetry.metrics import VersionRecorder

_OVERRUN = 20.0
"""An inline run that takes this many times the threshold shows that its time cannot be judged by its size."""


class VersionHandle:
    """Runs one loaded version. Used on the event loop only.

    Attributes:
        manifest: Of the version.
        loaded: What the loader brought.
        recorder: What is counted about the version.
    """

    def __init__(
        self, manifest: Manifest, loaded: LoadedVersion, settings: ModelSettings, recorder: VersionRecorder
    ) -> None:
        self.manifest = manifest
        self.loaded: LoadedVersion | None = loaded
        self.recorder = recorder
        self._batch_rows = recorder.batch_rows
        self._validator = Validator(manifest.signature)
        self._run = loaded.run
        self._inline_bytes = loaded.inline_bytes
        self._inline_limit = settings.runtime.inline_threshold_us * 1e-6 * _OVERRUN
        required = [spec.name for spec in manifest.signature.inputs if not spec.has_default]
        axes = loaded.plan.input_axes if loaded.plan.max_rows else {}
        self._row_axis = next(((name, axes[name]) for name in required if name in axes), None)
        self._inflight = 0
        self._guests = 0
        self._closing = False
        self._idle = asyncio.Event()
        self._batcher = Batcher(
            f"{manifest.model}@{manifest.version}",
            loaded.plan,
            QueueBounds(
                settings.limits.max_queue_requests,
                int(settings.limits.max_queue_bytes),
                settings.batching.max_delay_ms / 1e3,
            ),
            loaded.runners,
            recorder.batch_rows.observe,
        )

    @property
    def closing(self) -> bool:
        """The version is on its way out, and takes no request."""
        return self._closing

    @property
    def inflight(self) -> int:
        """Requests under way."""
        return self._inflight

    @property
    def queue_depth(self) -> int:
        """Requests that wait for a runner."""
        return self._batcher.waiting

    def infer_now(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> tuple[Sequence[str], Answer] | None:
        """Answers a request at once, if its run is shorter than handing it to a thread would be.

        Args:
            inputs: By name, as they came.
            outputs: Names of the outputs wanted; none means all.

        Returns:
            The outputs' names and what the run gave; None where `infer` is the way.

        Raises:
            InvalidTensor: The request does not fit the signature.
            ModelFailure, MemoryBudgetExceeded: The run failed.
        """
        if not self._inline_bytes or self._closing or self._batcher.waiting:
            return None
        size = 0
        for array in inputs.values():
            size += array.nbytes
        if size > self._inline_bytes:
            return None
        names = self._validator.check(inputs, outputs)
        start = time.monotonic()
        values = self._run(inputs, names)
        took = time.monotonic() - start
        if took > self._inline_limit:
            self._inline_bytes = 0
        if self._row_axis is None:
            self._batch_rows.observe(1)
            return names, Answer(values, 0.0, took, 0)
        name, axis = self._row_axis
        rows = inputs[name].shape[axis]
        self._batch_rows.observe(rows)
        return names, Answer(values, 0.0, took, rows)

    async def infer(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], deadline: float | None
    ) -> tuple[Sequence[str], Answer]:
        """Answers a request on a runner.

        Args:
            inputs: By name, as they came.
            outputs: Names of the outputs wanted; none means all.
            deadline: `time.monotonic()` after which the answer is worth nothing; None for never.

        Returns:
            The outputs' names, and what the run gave.

        Raises:
            InvalidTensor: The request does not fit the signature.
            NotLoaded: The version is on its way out.
            QueueFull, DeadlineExceeded, ModelFailure, MemoryBudgetExceeded: As `Batcher.submit`.
        """
        if self._closing:
            raise NotLoaded(f"{self.manifest.model} {self.manifest.version} is being unloaded")
        names = self._validator.check(inputs, outputs)
        self._inflight += 1
        try:
            return names, await self._batcher.submit(inputs, names, deadline)
        finally:
            self._inflight -= 1
            self._left()

    def check(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Sequence[str]:
        """Returns the names of the outputs that such a request gets.

        Raises:
            InvalidTensor: The request does not fit the signature.
        """
        return self._validator.check(inputs, outputs)

    @contextmanager
    def borrowed(self) -> Iterator[LoadedVersion]:
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
        """Takes the version out of service: waits for the requests under way, then frees its memory."""
        self._closing = True
        if self._inflight or self._guests:
            await self._idle.wait()
        self._batcher.close()
        await self._batcher.wait_closed()
        # Everything that refers to the sessions goes before memory is given back.
        self.loaded = None
        del self._run, self._batcher
        await asyncio.to_thread(give_back)

    def _left(self) -> None:
        if self._closing and not self._inflight and not self._guests:
            self._idle.set()
