"""Creates the session on which a sandbox's child process tries a version, as the server would create it."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from turnout.errors import ConfigError, MemoryBudgetExceeded, ModelFailure
from turnout.host import memory
from turnout.registry.manifest.digest import manifest_digest
from turnout.registry.manifest.manifest import MODEL_FILE
from turnout.serving.sandbox.request import SandboxRequest
from turnout.serving.sessions import providers
from turnout.serving.sessions.session import Session
from turnout.serving.sessions.spec import SessionSpec
from turnout.serving.tensorrt.engine_cache import engine_caches, provider_options
from turnout.serving.tensorrt.fallback import next_providers
from turnout.serving.tensorrt.shapes import NO_PROFILE, ShapeProfile, shape_profile

PREPACKED_LIMIT = 1 << 30
"""Size in bytes from which a version's weights are not copied into the kernels' own layout. With that copy a MatMul of
2 GiB took 4.1 GiB, without it 2.1 GiB, all of it mapped from the file. Such a version therefore runs a little slower,
and takes less memory, in measurements than when served."""

LOADING = 4
"""Number of copies of a version held while it is loaded: as protobuf, as tensors, and in the kernels' layout."""


@dataclass(frozen=True, slots=True)
class TrialSession:
    """A version that is tried: its session, the seconds that it took, and the shapes that its TensorRT engines take."""

    session: Session
    seconds: float
    shapes: ShapeProfile


def load(request: SandboxRequest, index: int = 0, *, arena: bool = True, prepack: bool | None = None) -> TrialSession:
    """Loads a version within the memory limits. As in a server, the next provider is used if TensorRT cannot be.

    Without `arena`, freed memory is not kept even if the settings say so: memory of one run then counts for the next.
    `prepack` is as in `Session`; None means for small versions only.

    Raises:
        ModelFailure, MemoryBudgetExceeded: ONNX Runtime cannot load the version.
        ConfigError: A requested provider cannot be used here.
    """
    _, manifest = request.versions[index]
    wanted = request.runtime
    memory.unlimit_data()  # for CUDA, which is tried first
    names = providers.choose(wanted.providers)
    began = time.perf_counter()
    if names[0] == providers.TENSORRT:
        try:
            shapes = shape_profile(manifest, request.graph(index), request.max_rows, wanted.tensorrt_sizes)
            tensorrt = _kept_engines(request, index, shapes)
            session = _session(request, index, names, tensorrt, arena=arena, prepack=prepack)
            return TrialSession(session, time.perf_counter() - began, shapes)
        except (ModelFailure, MemoryBudgetExceeded):
            if not (others := next_providers(wanted.providers)):
                raise
        names = providers.choose(others)
    session = _session(request, index, names, {}, arena=arena, prepack=prepack)
    return TrialSession(session, time.perf_counter() - began, NO_PROFILE)


def _session(
    request: SandboxRequest,
    index: int,
    names: Sequence[str],
    tensorrt: Mapping[str, str],
    *,
    arena: bool,
    prepack: bool | None,
) -> Session:
    directory, manifest = request.versions[index]
    wanted, limit, on_gpu = request.runtime, manifest.size + request.memory_limit, names[0] != providers.CPU
    changed = {
        "cpu_arena": wanted.cpu_arena and arena,
        "arena_limit_bytes": min(int(wanted.arena_limit_bytes) or limit, limit),
    }
    if not on_gpu:
        memory.limit_data(LOADING * manifest.size + request.memory_limit)
    spec = SessionSpec(
        directory / MODEL_FILE,
        manifest.signature,
        names,
        wanted.device_ids[0] if on_gpu else 0,
        wanted.model_copy(update=changed),
        tensorrt,
    )
    session = Session(spec, prepack=manifest.size < PREPACKED_LIMIT if prepack is None else prepack)
    if not on_gpu:
        memory.limit_data(request.memory_limit)
    return session


def _kept_engines(request: SandboxRequest, index: int, shapes: ShapeProfile) -> Mapping[str, str]:
    """Returns options that keep engines for the next load of the version; without a cache if that is not possible."""
    _, manifest = request.versions[index]
    with contextlib.suppress(ConfigError):  # the publisher may lack access to the server's cache
        cache = engine_caches(manifest_digest(manifest), request.runtime, shapes).get(request.runtime.device_ids[0])
        return provider_options(cache, shapes, fp16=False)
    return provider_options(None, shapes, fp16=False)
