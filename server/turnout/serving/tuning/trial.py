"""Runs a version under two settings in alternation, with the real session, batcher and queue, but no transport."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from turnout.config import ModelSettings
from turnout.errors import InvalidRequest, InvalidTensor, ModelFailure, TurnoutError
from turnout.host.cpu import whole_cores
from turnout.registry.manifest.manifest import MODEL_FILE
from turnout.registry.onnx.graph_reader import read_graph
from turnout.registry.onnx.value_sizes import values_become_sizes
from turnout.registry.storage.golden import GOLDEN_DIRECTORY, read_case
from turnout.registry.storage.listing import Published
from turnout.registry.storage.repository import Repository
from turnout.serving.inputs.rows import copied_row
from turnout.serving.inputs.sample import find_sample
from turnout.serving.inputs.synthetic import FEW_ELEMENTS, recipes
from turnout.serving.isolation.supervision import supervision
from turnout.serving.loading.loaded_version import LoadedVersion
from turnout.serving.loading.loader import Loader, devices_of
from turnout.serving.sandbox.processes import Processes
from turnout.serving.sessions.tensor import Array
from turnout.serving.tuning import candidates
from turnout.serving.tuning.candidates import Tuned
from turnout.serving.tuning.comparison import Findings, Result, Window
from turnout.serving.versions.handle import VersionHandle
from turnout.telemetry.metrics.versions import Metrics
from turnout.threads import Threads

_PHASE_SECONDS = 0.06
"""Duration in seconds of each half of a window, with many requests in flight and with one."""

_LEAST_PAIRS, _LEAST_AGAIN, _MOST_PAIRS = 3, 8, 40
_MOST_ROWS = 128
_MOST_REQUESTS = 64
"""Maximum number of different requests, sent in turn."""

_WARMUP_RUNS = 1

Request = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class TuningSubject:
    """The version to tune, with the present settings of its model.

    Attributes:
        inputs: A golden case, or a directory of them, whose inputs are sent unchanged; None for the version's own.
        in_flight: Number of requests in flight when throughput is measured.
        seconds: Approximate time limit in seconds.
    """

    repository: Repository
    published: Published
    settings: ModelSettings
    inputs: Path | None
    in_flight: int
    seconds: float


class TuningTrial:
    """Tries settings. Used on an event loop that runs nothing else."""

    def __init__(
        self,
        subject: TuningSubject,
        processes: Processes,
        log: FilteringBoundLogger,
        say: Callable[[str], None],
        alive: Callable[[], None],
    ):
        """Prepares the trial; nothing is loaded.

        `say` is called with a description of each step, and `alive` whenever a load or a request has ended.
        """
        self._subject = subject
        self._loader = Loader(subject.repository, _WARMUP_RUNS, supervision(log), processes)
        self._loads = Threads("load")
        self._say = say
        self._alive = alive

    async def run(self) -> tuple[Findings, str]:
        """Tries settings until the time is over; returns the results, and the origin of the inputs.

        Raises:
            TurnoutError: The version cannot be loaded, or cannot be run on the inputs, with the present settings.
        """
        subject = self._subject
        began, present = time.monotonic(), Tuned.of(subject.settings)
        captured = [] if subject.inputs is None else _cases(subject.inputs)
        self._say(f"present settings: {present}")
        async with AsyncExitStack() as stack:
            stack.callback(self._loads.shutdown)
            loaded, handle = await stack.enter_async_context(self._open(present))
            if loaded.tensorrt:
                self._say(f"TensorRT: {loaded.tensorrt}")
            requests, source = await self._loads.run(self._requests, loaded, captured)
            _check(handle, captured, requests)
            await _ask(handle, requests[0], 0)
            windows: list[Window] = []
            findings = Findings(Result(present))
            on_gpu = devices_of(subject.settings.runtime) != ["cpu"]
            most = _most_rows(subject.settings, subject.published, loaded)
            # Each group has its share of the time, which is added up here; the rest is for the second trial.
            for kind, until_share, others in (
                (
                    "threads and runners",
                    0.3,
                    partial(candidates.threads_and_runners, cores=whole_cores(), on_gpu=on_gpu),
                ),
                ("batch sizes", 0.5, partial(candidates.batch_sizes, most_rows=most)),
                ("delays", 0.65, partial(candidates.delays, most_rows=most)),
            ):
                tried = [present, *(result.tuned for result in findings.candidates)]
                until = began + subject.seconds * until_share
                left = candidates.untried(others(findings.best_so_far()), tried)
                for number, tuned in enumerate(left):
                    now = time.monotonic()
                    if number and now >= until:  # at least one candidate of each group is tried
                        findings.skipped += len(left) - number
                        break
                    self._say(f"{kind}: {tuned} ({len(left) - number - 1} more)")
                    end = now + (until - now) / (len(left) - number)
                    findings.candidates.append(await self._compare(tuned, handle, requests, windows, end))
                    findings.present = Result(present, tuple(windows))
            promising = findings.promising()
            for number, tuned in enumerate(promising):
                self._say(f"once more: {tuned} ({len(promising) - number - 1} more)")
                now = time.monotonic()
                end = now + (began + subject.seconds - now) / (len(promising) - number)
                again = await self._compare(tuned, handle, requests, windows, end, _LEAST_AGAIN)
                findings.again.append(again)
                findings.present = Result(present, tuple(windows))
            if not windows:
                windows.append(await self._window(handle, requests))
                findings.present = Result(present, tuple(windows))
        return findings, source

    async def _compare(
        self,
        tuned: Tuned,
        present: VersionHandle,
        requests: Sequence[Request],
        windows: list[Window],
        end: float,
        least: int = _LEAST_PAIRS,
    ) -> Result:
        """Runs a candidate and the present settings in alternation until `end`; appends the windows of the latter."""
        own: list[Window] = []
        others: list[Window] = []
        try:
            async with self._open(tuned) as (_, handle):
                await _ask(handle, requests[0], 0)
                while len(own) < least or (time.monotonic() < end and len(own) < _MOST_PAIRS):
                    order = ((others, present), (own, handle))
                    for found, asked in order if len(own) % 2 else reversed(order):
                        found.append(await self._window(asked, requests))
        except TurnoutError as error:
            return Result(tuned, refused=error.message)
        windows += others
        return Result.compared(tuned, own, others)

    async def _window(self, handle: VersionHandle, requests: Sequence[Request]) -> Window:
        """Measures with many requests in flight, then with one."""
        numbers = itertools.count()
        began = time.monotonic()

        async def ask_next() -> None:
            number = next(numbers) % len(requests)
            await _ask(handle, requests[number], number)
            self._alive()

        async def ask_on_end() -> int:
            asked = 0
            while not asked or time.monotonic() < began + _PHASE_SECONDS:
                await ask_next()
                asked += 1
            return asked

        clients = [asyncio.create_task(ask_on_end()) for _ in range(self._subject.in_flight)]
        try:
            rate = sum(await asyncio.gather(*clients)) / (time.monotonic() - began)
        finally:
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
        latencies: list[float] = []
        end = time.monotonic() + _PHASE_SECONDS
        while not latencies or time.monotonic() < end:
            start = time.monotonic()
            await ask_next()
            latencies.append(time.monotonic() - start)
        return Window(rate, tuple(latencies))

    @asynccontextmanager
    async def _open(self, tuned: Tuned) -> AsyncIterator[tuple[LoadedVersion, VersionHandle]]:
        subject = self._subject
        manifest, settings = subject.published.manifest, tuned.over(subject.settings)
        loaded = await self._loads.run(
            self._loader.load,
            subject.published,
            settings,
            lambda: None,
            lambda stage: self._say(stage) if stage else None,
        )
        self._alive()
        recorder = Metrics().version(manifest.model, str(manifest.version), subject.published.digest)
        handle = VersionHandle(manifest, loaded, settings, recorder)
        try:
            yield loaded, handle
        finally:
            await handle.close()

    def _requests(self, loaded: LoadedVersion, captured: Sequence[Path]) -> tuple[Sequence[Request], str]:
        """Returns the requests to send, and the origin of their inputs.

        Raises:
            TurnoutError: No inputs are found that the version runs on, or the given inputs cannot be read.
        """
        subject = self._subject
        manifest = subject.published.manifest
        if captured:
            return [read_case(path, sides=("inputs",)).inputs for path in captured], "captured"
        directory = subject.repository.directory(manifest.model, manifest.version)
        axes = loaded.plan.input_axes
        if paths := sorted((directory / GOLDEN_DIRECTORY).glob("*.npz"))[:_MOST_REQUESTS]:
            cases = (read_case(path, sides=("inputs",)).inputs for path in paths)
            rows = itertools.islice(itertools.chain.from_iterable(_rows(case, axes) for case in cases), _MOST_REQUESTS)
            return list(rows), "golden"
        graph = read_graph(directory / MODEL_FILE).graph
        given = [spec.name for spec in manifest.signature.required]
        tried = recipes(values_become_sizes=values_become_sizes(graph, given), sizes=loaded.shapes.usual)
        sample = find_sample(loaded.run, manifest.signature, axes, None, tried, most=FEW_ELEMENTS)
        if sample.inputs is None:
            raise ModelFailure(
                f"{manifest.model} {manifest.version} has no golden case, and no inputs were found that it runs on"
                f"{': ' + sample.trouble if sample.trouble else ''}; give some with --inputs"
            )
        return [sample.inputs], "made up"


async def _ask(handle: VersionHandle, inputs: Request, number: int) -> None:
    """Sends a request as the data plane does: it runs at once if the run is short, otherwise through the queue."""
    kind = "tune", number
    if handle.infer_now(inputs, (), "", kind) is None:
        await handle.infer(inputs, (), None, "", kind)
    else:
        await asyncio.sleep(0)  # lets other tasks run, as between two messages of a connection


def _rows(case: Request, axes: Mapping[str, int]) -> Iterator[Request]:
    """Yields the rows of a golden case as one-row requests; the whole case if it has no rows."""
    counts = {case[name].shape[axis] for name, axis in axes.items() if name in case}
    if len(counts) != 1 or counts == {0}:
        yield case
        return
    for row in range(counts.pop()):
        yield copied_row(axes, case, row)


def _check(handle: VersionHandle, captured: Sequence[Path], inputs: Sequence[Request]) -> None:
    """Checks captured inputs, before any setting is tried on them.

    Raises:
        InvalidRequest: The inputs of a file do not fit the version's signature.
    """
    for path, request in zip(captured, inputs, strict=bool(captured)):
        try:
            handle.check(request, ())
        except InvalidTensor as error:
            raise InvalidRequest.at("--inputs", f"{path.name}: {error.message}") from error


def _cases(path: Path) -> Sequence[Path]:
    found = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not found or not found[0].is_file():
        raise InvalidRequest.at("--inputs", f"expected a .npz of arrays inputs/NAME, or a directory of them: {path}")
    return found[:_MOST_REQUESTS]


def _most_rows(settings: ModelSettings, published: Published, loaded: LoadedVersion) -> int:
    stated = published.manifest.batching
    if stated is not None and not stated.enabled:
        return 0
    if settings.batching.enabled and loaded.plan.max_rows < 2:
        return 0
    return _MOST_ROWS if stated is None or stated.max_rows is None else min(stated.max_rows, _MOST_ROWS)
