"""Creates the sessions of a version that runs on TensorRT."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from turnout import __version__
from turnout.config import Runtime
from turnout.errors import ModelFailure
from turnout.registry.manifest.manifest import MODEL_FILE, Manifest
from turnout.registry.storage.listing import Published
from turnout.serving.sessions import providers
from turnout.serving.sessions.session import Session
from turnout.serving.tensorrt.engine_cache import engine_caches, provider_options
from turnout.serving.tensorrt.precision import Precision, beforehand
from turnout.serving.tensorrt.precision_trial import PrecisionTrial


def engine_sessions(
    directory: Path, published: Published, names: Sequence[str], runtime: Runtime
) -> tuple[Sequence[Session], Precision]:
    """Creates a session on TensorRT for each device, in FP16 if that is requested and exact enough.

    Raises:
        ModelFailure, MemoryBudgetExceeded, ConfigError: As `load`.
    """
    manifest, caches = published.manifest, engine_caches(published.digest, runtime)

    def made(fp16: bool) -> Sequence[Session]:
        return [
            _engine_session(
                directory / MODEL_FILE,
                manifest,
                names,
                device,
                runtime,
                provider_options(caches.get(device), fp16=fp16),
            )
            for device in runtime.device_ids
        ]

    def make(fp16: bool) -> Sequence[Session]:
        try:
            return made(fp16)
        except ModelFailure:
            if sum(cache.clear(fp16=fp16) for cache in caches.values()) == 0:
                raise
            return made(fp16)  # a cached engine may have been damaged, so they are built again

    decided = beforehand(runtime.tensorrt_fp16, manifest, isolated=False)
    if decided is not None:
        return make(False), decided
    settings = {"optimization_level": runtime.optimization_level, "turnout": __version__}
    records = [caches[device].record(settings) for device in runtime.device_ids if device in caches]
    return PrecisionTrial(manifest, directory, make, records).sessions()


def _engine_session(
    model: Path, manifest: Manifest, names: Sequence[str], device: int, runtime: Runtime, options: Mapping[str, str]
) -> Session:
    session = Session(model, manifest.signature, names, device, runtime, tensorrt=options)
    if session.providers[0] != providers.TENSORRT:
        session.close()
        raise ModelFailure(f"ONNX Runtime runs it on {session.providers[0]}")
    return session
