"""Has the engines of a version built, at the precision that is exact enough, in this process or in child processes."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from turnout import __version__
from turnout.cancellation import current
from turnout.config import Runtime
from turnout.errors import ModelFailure
from turnout.registry.manifest.manifest import MODEL_FILE
from turnout.registry.storage.listing import Published
from turnout.serving.isolation.session import ChildResources, IsolatedSession
from turnout.serving.sessions import providers
from turnout.serving.sessions.session import Session
from turnout.serving.sessions.tensor import Array
from turnout.serving.tensorrt.engine_cache import clear, engine_caches, provider_options
from turnout.serving.tensorrt.precision import Precision, beforehand
from turnout.serving.tensorrt.precision_record import PrecisionRecord
from turnout.serving.tensorrt.precision_trial import PrecisionTrial, SessionT
from turnout.serving.tensorrt.shapes import ShapeProfile

_CASE_SECONDS = 60.0
"""Time limit of one golden case in a child process."""


@dataclass(frozen=True, slots=True)
class Engines:
    """A version whose engines are to be built.

    Attributes:
        directory: Directory of the version.
        published: The version.
        names: Execution providers, of which TensorRT is the first.
        runtime: Runtime settings of its model.
        shapes: Shapes for which engines are built.
    """

    directory: Path
    published: Published
    names: Sequence[str]
    runtime: Runtime
    shapes: ShapeProfile

    def sessions(self) -> tuple[Sequence[Session], Precision]:
        """Creates a session for each device, in FP16 if that is requested and exact enough.

        Raises:
            ModelFailure, MemoryBudgetExceeded, ConfigError: As `load`.
        """
        signature = self.published.manifest.signature

        def make(device: int, options: Mapping[str, str]) -> Session:
            model = self.directory / MODEL_FILE
            session = Session(model, signature, self.names, device, self.runtime, tensorrt=options)
            if session.providers[0] != providers.TENSORRT:
                session.close()
                raise _elsewhere(session.providers)
            return session

        return self._built(make)

    def options_of_children(self) -> tuple[Mapping[int, Mapping[str, str]], Precision]:
        """Has a child process for each device build the engines, and returns the options with which others find them.

        Raises:
            ModelFailure, MemoryBudgetExceeded, ConfigError: As `load`.
        """
        if not self.runtime.tensorrt_cache:
            raise ModelFailure(
                "it runs in child processes, and each would build its own engines; set [runtime] tensorrt_cache, where"
                " they find those that were built before"
            )
        children, precision = self._built(lambda device, options: _EngineChild(self, device, options))
        for child in children:
            child.close()
        return {child.device: child.options for child in children}, precision

    def _built(self, make_one: Callable[[int, Mapping[str, str]], SessionT]) -> tuple[Sequence[SessionT], Precision]:
        manifest, devices = self.published.manifest, self.runtime.device_ids
        caches = engine_caches(self.published.digest, self.runtime, self.shapes)

        def made(fp16: bool) -> Sequence[SessionT]:
            with contextlib.ExitStack() as unfinished:
                sessions = []
                for device in devices:
                    session = make_one(device, provider_options(caches.get(device), self.shapes, fp16=fp16))
                    unfinished.callback(session.close)
                    sessions.append(session)
                unfinished.pop_all()
            return sessions

        def make(fp16: bool) -> Sequence[SessionT]:
            try:
                return made(fp16)
            except ModelFailure:
                if sum(clear(cache, fp16=fp16) for cache in caches.values()) == 0:
                    raise
                return made(fp16)  # a cached engine may have been damaged, so they are built again

        decided = beforehand(self.runtime.tensorrt_fp16, manifest)
        if decided is not None:
            return make(False), decided
        settings = {"optimization_level": self.runtime.optimization_level, "turnout": __version__}
        records = [PrecisionRecord(Path(caches[n].precision), settings) for n in devices if n in caches]
        return PrecisionTrial(manifest, self.directory, make, records).sessions()


class _EngineChild:
    """A child process that builds the engines of a version for one device."""

    def __init__(self, engines: Engines, device: int, options: Mapping[str, str]) -> None:
        runtime, manifest = engines.runtime, engines.published.manifest
        self.device = device
        self.options = options
        self._session = IsolatedSession(
            engines.directory / MODEL_FILE,
            manifest.signature,
            engines.names,
            device,
            runtime,
            ChildResources(int(runtime.memory_limit_bytes), "low_while_loading"),
            options,
            manifest.files,
        )
        try:
            with current().stopping(self._session.kill):
                self._session.start(timeout=runtime.tensorrt_build_timeout_s, verified=True)
            if self._session.providers[0] != providers.TENSORRT:
                raise _elsewhere(self._session.providers)
        except BaseException:
            self._session.close()
            raise

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        until = time.monotonic() + _CASE_SECONDS
        return self._session.run(inputs, outputs, lambda: time.monotonic() > until)

    def close(self) -> None:
        self._session.close()


def _elsewhere(names: Sequence[str]) -> ModelFailure:
    return ModelFailure(f"ONNX Runtime runs it on {names[0]}")
