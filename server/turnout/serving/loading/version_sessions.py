"""Creates the sessions of a version, in this process or in child processes; has TensorRT build its engines first."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from turnout import __version__
from turnout.cancellation import current
from turnout.config import Runtime
from turnout.errors import ModelFailure
from turnout.registry.manifest.manifest import MODEL_FILE
from turnout.registry.storage.listing import Published
from turnout.serving.isolation.session import IsolatedSession, Priority
from turnout.serving.sessions import providers
from turnout.serving.sessions.session import Session
from turnout.serving.sessions.spec import SessionSpec
from turnout.serving.sessions.tensor import Array
from turnout.serving.tensorrt.engine_cache import clear, engine_caches, provider_options
from turnout.serving.tensorrt.precision import Precision, beforehand
from turnout.serving.tensorrt.precision_trial import PrecisionRecord, PrecisionTrial, SessionT
from turnout.serving.tensorrt.shapes import ShapeProfile

_CASE_SECONDS = 60.0
"""Time limit of one golden case in a child process."""


@dataclass(frozen=True, slots=True)
class VersionSessions:
    """A version that is loaded, with these providers in order of preference. Its methods raise as `Loader.load`.

    Its files in `directory` have been verified. TensorRT builds engines for `shapes`.
    """

    directory: Path
    published: Published
    names: Sequence[str]
    runtime: Runtime
    shapes: ShapeProfile

    @property
    def devices(self) -> Sequence[int]:
        """Numbers of the devices to load it on."""
        return self.runtime.device_ids if self.names[0] != providers.CPU else (0,)

    def on_each_device(self, *, captures: bool = False) -> Sequence[Session]:
        """Creates a session for each device; `captures` as in `Session`."""
        return [Session(self._spec(device), captures=captures) for device in self.devices]

    def in_child(
        self, device: int, priority: Priority, tensorrt: Mapping[str, str], *, zeroed: bool = False
    ) -> IsolatedSession:
        """Prepares a session in a child process, with these options for TensorRT; `zeroed` as in `IsolatedSession`."""
        return IsolatedSession(
            self._spec(device, tensorrt),
            zeroed=zeroed,
            memory_limit=int(self.runtime.memory_limit_bytes),
            priority=priority,
            files=self.published.manifest.files,
        )

    def engines(self) -> tuple[Sequence[Session], Precision]:
        """Creates a session on TensorRT for each device, in FP16 if that is requested and exact enough."""

        def make(device: int, options: Mapping[str, str]) -> Session:
            session = Session(self._spec(device, options))
            if session.providers[0] != providers.TENSORRT:
                session.close()
                raise _elsewhere(session.providers)
            return session

        return self._built(make)

    def engines_of_children(self) -> tuple[Mapping[int, Mapping[str, str]], Precision]:
        """Has a child process for each device build its engines; returns the options with which others find them."""
        if not self.runtime.tensorrt_cache:
            raise ModelFailure(
                "it runs in child processes, and each would build its own engines; set [runtime] tensorrt_cache, where"
                " they find those that were built before"
            )
        children, precision = self._built(lambda device, options: _EngineChild(self, device, options))
        for child in children:
            child.close()
        return {child.device: child.options for child in children}, precision

    def _spec(self, device: int, tensorrt: Mapping[str, str] = MappingProxyType({})) -> SessionSpec:
        model, signature = self.directory / MODEL_FILE, self.published.manifest.signature
        return SessionSpec(model, signature, self.names, device, self.runtime, tensorrt)

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

    def __init__(self, version: VersionSessions, device: int, options: Mapping[str, str]) -> None:
        self.device = device
        self.options = options
        self._session = version.in_child(device, "low_while_loading", options)
        try:
            with current().stopping(self._session.kill):
                self._session.start(timeout=version.runtime.tensorrt_build_timeout_s, verified=True)
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
