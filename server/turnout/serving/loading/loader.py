"""Loads one version into memory: verifies and reads it, determines how it batches, and warms it up.

Runs in a loader thread of lower priority: a load may take a core for seconds, and the requests of the versions that are
already serving come first.
"""

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from turnout.config import ModelSettings, Runtime
from turnout.errors import MemoryBudgetExceeded, ModelFailure
from turnout.host.cpu import lower_priority, whole_cores
from turnout.registry.compatibility.sandbox import SandboxVersion
from turnout.registry.manifest.manifest import MODEL_FILE, Manifest
from turnout.registry.onnx.graph import CONTROL_FLOW, STANDARD_DOMAIN, Graph, ModelGraph
from turnout.registry.signing.trust import Trust
from turnout.registry.storage.listing import Published
from turnout.registry.storage.manifests import load_unchanged
from turnout.registry.storage.repository import Repository
from turnout.serving.batching.active_plan import PlanInForce
from turnout.serving.batching.warmup import WarmUp, divided_plan, paying_plan, warm_up
from turnout.serving.cuda_graphs import preparation
from turnout.serving.cuda_graphs.plan import NO_GRAPHS, GraphPlan, obstacle, off
from turnout.serving.isolation.empty_inputs import in_step, never_empty
from turnout.serving.isolation.hazards import UNBATCHED_IF_ZEROED, Isolation, decide
from turnout.serving.isolation.pool import ChildPool, Supervision
from turnout.serving.isolation.session import IsolatedSession, Priority
from turnout.serving.loading.load_proof import prove_at_load
from turnout.serving.loading.loaded_version import LoadedVersion
from turnout.serving.loading.memory_growth import MEMORY_GROWTH
from turnout.serving.loading.version_sessions import VersionSessions
from turnout.serving.sandbox.processes import Processes
from turnout.serving.sandbox.sandbox import ProcessSandbox
from turnout.serving.sessions import providers
from turnout.serving.sessions.io_binding import BoundRunner, bindable, pinned_allocator
from turnout.serving.sessions.memory import device_number
from turnout.serving.sessions.prepared_runner import PreparedRunner
from turnout.serving.sessions.session import MakeRunner, Run, Session
from turnout.serving.tensorrt.build import ENGINE_BUILDS
from turnout.serving.tensorrt.engine_cache import keep_within
from turnout.serving.tensorrt.fallback import BUILDING, next_providers
from turnout.serving.tensorrt.precision import FULL
from turnout.serving.tensorrt.shapes import NO_PROFILE, shape_profile

_INLINE_MODEL_BYTES = 16 * 1024 * 1024

CAPTURING = frozenset({providers.CUDA})
"""Providers whose runs can be captured as CUDA graphs."""

RUNNERS_PER_GPU = 2
"""One runner copies inputs while the other computes; more would only queue on the device."""

OnStage = Callable[[str], None]
"""Called from any thread when a long stage of a load begins ("building TensorRT engines"), and with "" when it ends."""


@dataclass(frozen=True, slots=True)
class Loader:
    """Loads versions into memory.

    Attributes:
        warmup_runs: Number of warm-up runs for each batch size.
        supervision: Supervises the child processes of isolated versions.
        processes: Starts processes to try inputs that are not safe to try in this one.
    """

    repository: Repository
    warmup_runs: int
    supervision: Supervision
    processes: Processes

    def load(
        self,
        published: Published,
        settings: ModelSettings,
        on_loaded: Callable[[], None],
        on_stage: OnStage = lambda _: None,
    ) -> LoadedVersion:
        """Loads a version.

        `on_loaded` is called when the version is in memory and warm-up begins, `on_stage` with stages that may take
        minutes.

        Raises:
            NotTrusted: The version has no trusted signature, and the settings require one.
            DigestMismatch: The bytes differ from those published.
            ModelFailure, MemoryBudgetExceeded: ONNX Runtime cannot load the model.
            ConfigError: A requested provider cannot be used here.
        """
        if settings.runtime.intra_op_threads == 1:  # a thread pool of the session would inherit the low priority
            lower_priority()
        manifest, loading = published.manifest, _Load(self, published, settings, time.monotonic())
        Trust.of(settings.signing).check(self.repository, published)  # first, since it reads only small files
        progress = LoadProgress(on_loaded, on_stage)

        def verified() -> LoadedVersion:
            self.repository.verify(manifest.model, manifest.version, expected=published.digest)
            names = providers.choose(settings.runtime.providers)
            if names[0] == providers.TENSORRT:
                return loading.with_engines(names, progress)
            return loading.into_memory(names, progress.begin()[0])

        if self.repository.remote:  # its cache belongs to this user alone, and links to the cached files come and go
            return verified()
        directory = self.repository.directory(manifest.model, manifest.version)
        return load_unchanged(directory, manifest.files, verified, LoadedVersion.discard)


@dataclass(frozen=True, slots=True)
class _Load:
    """A load in progress, since `began` (`time.monotonic()`). Its methods raise as `Loader.load`."""

    loader: Loader
    published: Published
    settings: ModelSettings
    began: float

    def with_engines(self, names: Sequence[str], progress: "LoadProgress") -> LoadedVersion:
        """Loads a version whose engines TensorRT builds; falls back to the next providers if that fails."""
        runtime = self.settings.runtime
        on_loaded, on_stage = progress.begin()
        on_stage(BUILDING)
        try:
            loaded: LoadedVersion | None = ENGINE_BUILDS.within(
                runtime.tensorrt_build_timeout_s,
                self.published.digest,
                functools.partial(self.into_memory, names, on_loaded),
                LoadedVersion.discard,
            )
        except (ModelFailure, MemoryBudgetExceeded) as error:
            if not next_providers(runtime.providers):
                raise
            loaded, why = None, error.message
        finally:
            progress.close()
        if loaded is None:  # the error is gone, and with it the sessions that its traceback kept in memory
            on_loaded, on_stage = progress.begin()
            on_stage("")
            names = providers.choose(next_providers(runtime.providers))
            return replace(self.into_memory(names, on_loaded), tensorrt=f"not used: {why}")
        if runtime.tensorrt_cache and runtime.tensorrt_cache_max_bytes:
            keep_within(runtime.tensorrt_cache, int(runtime.tensorrt_cache_max_bytes), [self.published.digest])
        return loaded

    def into_memory(self, names: Sequence[str], on_loaded: Callable[[], None]) -> LoadedVersion:
        """Loads the version with the given providers, and measures the memory that it takes."""
        devices = _devices(names, self.settings.runtime)
        with MEMORY_GROWTH.measuring(devices, self.published.manifest.size) as growth:
            loaded = self._loaded(names, devices, on_loaded)
        return replace(loaded, memory_bytes=growth.memory)

    def _loaded(self, names: Sequence[str], devices: Sequence[str], on_loaded: Callable[[], None]) -> LoadedVersion:
        settings, runtime, manifest = self.settings, self.settings.runtime, self.published.manifest
        on_gpu, on_tensorrt = names[0] != providers.CPU, names[0] == providers.TENSORRT
        if on_gpu:
            _fit(manifest.size, int(runtime.arena_limit_bytes))
        directory = self.loader.repository.directory(manifest.model, manifest.version)
        sandbox = ProcessSandbox(settings, self.loader.processes)
        in_a_child = SandboxVersion(directory, manifest)
        graph = sandbox.graph(in_a_child)
        isolation = decide(runtime.isolation, graph)
        if not (isolation.process or on_gpu or self.loader.repository.was_tried(self.published)):
            sandbox.load(in_a_child)
        count = runtime.runners or (RUNNERS_PER_GPU if on_gpu else max(whole_cores() // settings.workers, 1))
        pool: ChildPool | None = None
        sessions: Sequence[Session] = ()
        prepared: Sequence[PreparedRunner] = ()
        not_captured = _not_captured(runtime, names, isolation, manifest, graph)
        graphs = not_captured or NO_GRAPHS
        precision, shapes = FULL, NO_PROFILE
        if on_tensorrt:
            shapes = shape_profile(manifest, graph, settings.batching.most_rows, runtime.tensorrt_sizes)
        version = VersionSessions(directory, self.published, names, runtime, shapes)
        if isolation.process:
            options: Mapping[int, Mapping[str, str]] = {}
            if on_tensorrt:
                options, precision = version.engines_of_children()
            pool = self._pool(version, options, count, isolation.zeroed)
        elif on_tensorrt:
            sessions, precision = version.engines()
        elif not_captured is not None:
            sessions = version.on_each_device()
        else:
            try:
                sessions = version.on_each_device(captures=True)
            except ModelFailure as error:
                sessions, graphs = version.on_each_device(), off(error.message)
        try:
            if pool is not None:
                pool.open()
            on_loaded()
            runs: Sequence[Run] = [session.run for session in sessions] if pool is None else [pool]
            most = settings.batching.most_rows
            plan = prove_at_load(runs[0], manifest, directory, graph, most, sandbox, shapes)
            if isolation.zeroed:  # within a run, memory is used again as it is
                plan = replace(plan, max_rows=0, reason=UNBATCHED_IF_ZEROED)
            if on_tensorrt and plan.sample is None and next_providers(runtime.providers):
                raise ModelFailure(f"no inputs were found that it runs on there: {plan.reason}")
            outputs = manifest.signature.output_names
            pays, warmup_runs = settings.batching.only_where_it_pays, self.loader.warmup_runs
            warmth, *_ = [warm_up(run, plan, outputs, warmup_runs, pays) for run in runs]
            if pays:
                plan = paying_plan(plan, warmth)
            plan = divided_plan(plan, warmth, len(devices) if on_gpu else _parallel_runs(runtime, count))
            in_force = PlanInForce(plan)
            if sessions and sessions[0].captures:
                graphs, prepared = preparation.prepare(
                    sessions, manifest, in_force, pinned_allocator(gated=True), self.loader.supervision.start_thread
                )
                if not prepared:
                    for session in sessions:
                        session.close()
                    sessions = version.on_each_device()
                    runs = [session.run for session in sessions]
                    for run in runs:
                        warm_up(run, plan, outputs, warmup_runs, pays)
            in_force.plan = replace(plan, sample=None)
            runners: Sequence[MakeRunner]
            if pool is not None:
                pool.serve(None if plan.sample is None or not warmup_runs else (plan.sample, outputs))
                runners = [_shared(pool)] * (count * len(devices))
            else:
                runners = prepared or _runners(sessions, on_gpu and bindable(manifest.signature), count)
        except BaseException:
            if pool is not None:
                pool.close()
            preparation.close(prepared)
            raise
        inline_bytes = 0
        if not on_gpu and pool is None and not prepared and _bounded(directory / MODEL_FILE, graph.graph):
            inline_bytes = _inline_bytes(warmth, runtime.inline_threshold_us * 1e-6)
        return LoadedVersion(
            sessions=sessions,
            runners=runners,
            run=runs[0],
            in_force=in_force,
            warmth=warmth,
            inline_bytes=inline_bytes,
            memory_bytes={},
            seconds=time.monotonic() - self.began,
            pool=pool,
            isolation=isolation,
            graphs=graphs,
            precision=precision,
            tensorrt=f"used, {precision.reason or 'full precision'}" if on_tensorrt else "",
            shapes=shapes,
            in_step=in_step(graph, manifest.signature),
            never_empty=never_empty(graph),
        )

    def _pool(
        self, version: VersionSessions, tensorrt: Mapping[int, Mapping[str, str]], runners: int, zeroed: bool
    ) -> ChildPool:
        """Prepares child processes; `tensorrt` has options by device, and `runners` is their number on each."""
        runtime, manifest, devices = self.settings.runtime, self.published.manifest, version.devices

        def make(number: int, first: bool) -> IsolatedSession:
            priority: Priority = "low_while_loading" if first and runtime.intra_op_threads == 1 else "ordinary"
            device = devices[number % len(devices)]
            return version.in_child(device, priority, tensorrt.get(device, {}), zeroed=zeroed)

        processes = runtime.processes or runners * len(devices)
        name = f"{manifest.model}@{manifest.version}"
        return ChildPool(name, make, processes, runtime.kill_after_s, self.loader.supervision)


class LoadProgress:
    """Reports the progress of a load that may be attempted more than once; abandoned attempts report nothing."""

    def __init__(self, on_loaded: Callable[[], None], on_stage: OnStage) -> None:
        self._on_loaded = on_loaded
        self._on_stage = on_stage
        self._changed = threading.Lock()
        self._current = 0
        self._loaded = False

    def begin(self) -> tuple[Callable[[], None], OnStage]:
        """Starts an attempt and abandons the one before. Returns the two callbacks for the new attempt."""
        with self._changed:
            self._current += 1
            number = self._current

        def loaded() -> None:
            with self._changed:
                if number == self._current and not self._loaded:
                    self._loaded = True
                    self._on_loaded()

        def stage(text: str) -> None:
            with self._changed:
                if number == self._current:
                    self._on_stage(text)

        return loaded, stage

    def close(self) -> None:
        """Abandons the current attempt, if there is one."""
        with self._changed:
            self._current += 1


def devices_of(runtime: Runtime) -> list[str]:
    """Returns the devices that a version is loaded on, `cpu` or `cuda:N`.

    Raises:
        ConfigError: A requested provider cannot be used here.
    """
    return _devices(providers.choose(runtime.providers), runtime)


def _devices(names: Sequence[str], runtime: Runtime) -> list[str]:
    return [f"cuda:{i}" for i in runtime.device_ids] if names[0] != providers.CPU else ["cpu"]


def on_devices(settings: ModelSettings, devices: Sequence[str]) -> ModelSettings:
    """Returns a model's settings restricted to the given GPUs, each `cuda:N`."""
    numbers = tuple(device_number(device) for device in devices)
    return replace(settings, runtime=settings.runtime.model_copy(update={"device_ids": numbers}))


def _not_captured(
    runtime: Runtime, names: Sequence[str], isolation: Isolation, manifest: Manifest, graph: ModelGraph
) -> GraphPlan | None:
    """Returns why no CUDA graph is captured, as far as that is known before loading; None if nothing prevents it."""
    if runtime.cuda_graphs == "off":
        return off("the configuration says so") if names[0] in CAPTURING else NO_GRAPHS
    if names[0] not in CAPTURING:
        return off("it does not run on CUDA")
    if isolation.process:
        return off("it runs in child processes")
    if runtime.runners > 1:
        return off(
            f"a session that captures takes runs from one thread only, and [runtime] runners = {runtime.runners}"
        )
    why = obstacle(manifest.signature, graph)
    return off(why) if why else None


def _fit(size: int, limit: int) -> None:
    """Refuses a version whose weights alone exceed the limit of its arena.

    ONNX Runtime reserves memory for weights without checking the limit, and subtracts it from the limit as an unsigned
    number: if the weights exceed the limit, nothing bounds the arena any more.

    Raises:
        MemoryBudgetExceeded: The weights exceed the limit.
    """
    if 0 < limit < size:
        raise MemoryBudgetExceeded(
            f"its files have {size:,} bytes, and [runtime] arena_limit_bytes allows {limit:,} on a GPU: a memory limit"
            " was reached"
        )


def _parallel_runs(runtime: Runtime, runners: int) -> int:
    """Returns how many of the concurrent runs on the CPU have cores of their own."""
    threads = runtime.intra_op_threads  # 0 for all cores
    return min(runners, max(whole_cores() // threads, 1)) if threads else 1


def _runners(sessions: Sequence[Session], bound: bool, count: int) -> Sequence[MakeRunner]:
    if not bound:
        return [_shared(session.run) for session in sessions] * count
    allocate = pinned_allocator(gated=sessions[0].gated)
    return [functools.partial(BoundRunner, session, allocate) for session in sessions] * count


def _shared(run: Run) -> MakeRunner:
    return lambda: contextlib.nullcontext(run)


def _inline_bytes(warmth: WarmUp, threshold: float) -> int:
    quick = [rows for rows, seconds in warmth.seconds_by_rows.items() if seconds < threshold]
    return max(quick) * max(warmth.bytes_per_row, 1) if quick else 0


def _bounded(model: Path, graph: Graph) -> bool:
    """Returns whether a model's running time can be judged by the size of its inputs."""
    if model.stat().st_size > _INLINE_MODEL_BYTES:
        return False
    return all(node.domain == STANDARD_DOMAIN and node.op_type not in CONTROL_FLOW for node in graph.all_nodes())
