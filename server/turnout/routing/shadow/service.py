"""The lanes of a server: one for each shadow of each policy in force."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from semver import Version
from structlog.typing import FilteringBoundLogger

from turnout.config import Settings
from turnout.config import ShadowLane as LaneSettings
from turnout.registry.manifest.manifest import MODEL_FILE, Tolerance
from turnout.registry.storage.manifests import check_files, load_unchanged
from turnout.routing.policy import Policy
from turnout.routing.shadow.compare import OutputRule, rules_for
from turnout.routing.shadow.copies import Pair
from turnout.routing.shadow.lane import Lane
from turnout.routing.shadow.ledger import Ledger
from turnout.routing.shadow.mirror import Mirror
from turnout.routing.shadow.pressure import Pressure
from turnout.routing.shadow.redaction import Redaction
from turnout.routing.shadow.runner import CopyRunner, ProcessRunner, ThreadRunner
from turnout.serving.data_plane.inference import AnswerObserver
from turnout.serving.isolation.pool import ChildPool
from turnout.serving.isolation.session import IsolatedSession
from turnout.serving.sessions.session import Session
from turnout.serving.sessions.spec import SessionSpec
from turnout.serving.tensorrt.fallback import allowance
from turnout.serving.versions.catalog import Catalog
from turnout.serving.versions.handle import VersionHandle
from turnout.telemetry.metrics.versions import Metrics
from turnout.threads import Threads

_ENDED = "ended"
_MAX_ENDED = 64
"""Number of pairs whose results can still be read after their shadow was removed."""

_START_SECONDS = 60.0
_CLOSE_SECONDS = 1.0


class Shadows:
    """Opens and closes lanes as policies change, and provides what they share. Used only on the event loop.

    Attributes:
        pressure: Decides whether copies may run now.
        comparing: Threads that compare outputs that are too large for the event loop.
        redaction: What redacts inputs that are stored.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        metrics: Metrics,
        directory: Callable[[str, Version], Path],
        log: FilteringBoundLogger,
    ) -> None:
        """Creates the service without any lanes.

        Raises:
            ConfigError: A redaction hook cannot be imported.
        """
        self._settings = settings
        self._catalog = catalog
        self._metrics = metrics
        self._directory = directory
        self.log = log
        self.pressure = Pressure(catalog)
        self.comparing = Threads("shadow compare", 2)
        self._loading = Threads("shadow load")
        self._lanes: dict[Pair, Lane] = {}
        self._ended: dict[Pair, Lane] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._stopped = False
        self.redaction = Redaction(settings)

    def observe(self, model: str, policy: Policy | None, epoch: int) -> AnswerObserver | None:
        """Opens and closes a model's lanes according to its policy; returns the observer of the baseline's answers."""
        shadows = policy.shadows if policy is not None and not self._stopped else ()
        baseline = str(policy.baseline) if policy is not None else ""
        wanted = {Pair(model, str(s.version), baseline): s.rate for s in shadows}
        for pair in [pair for pair in self._lanes if pair.model == model and pair not in wanted]:
            self._end(pair)
        lanes = [(self._lane(pair), rate) for pair, rate in wanted.items()]
        return Mirror(lanes, epoch) if lanes else None

    def configure(self) -> None:
        """Applies changed settings to the lanes, those that have ended included."""
        for lane in (*self._lanes.values(), *self._ended.values()):
            settings = self._settings.for_model(lane.pair.model).shadow
            if settings != lane.settings:
                lane.configure(settings)

    def of(self, model: str) -> list[Lane]:
        """Returns the model's lanes, those in use first."""
        lanes = [*self._lanes.values(), *reversed(self._ended.values())]
        return [lane for lane in lanes if lane.pair.model == model]

    async def close(self, bound: float) -> None:
        """Closes all lanes, waiting at most `bound` seconds for running copies. No lane can be opened afterwards."""
        self._stopped = True
        lanes = [lane.close("the server stops", bound) for lane in self._lanes.values()]
        await asyncio.gather(*lanes, *self._closing, return_exceptions=True)

    def _lane(self, pair: Pair) -> Lane:
        lane = self._lanes.get(pair)
        if lane is not None:
            lane.reopen()
        else:
            ended = self._ended.pop(pair, None)
            settings = self._settings.for_model(pair.model).shadow
            recorder = self._metrics.shadow(pair.model, pair.shadow)
            ledger = ended.ledger if ended else Ledger(recorder, settings.keep_worst, noise=bool(settings.noise_rate))
            lane = self._lanes[pair] = Lane(pair, settings, ledger, self)
        return lane

    def _end(self, pair: Pair) -> None:
        lane = self._lanes.pop(pair)
        self._ended[pair] = lane
        if len(self._ended) > _MAX_ENDED:
            oldest = next(iter(self._ended))
            del self._ended[oldest]
        task = asyncio.create_task(lane.close(_ENDED, _CLOSE_SECONDS))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def handle(self, model: str, version: str) -> VersionHandle | None:
        """Returns the handle of a version; None if it is not Ready."""
        entry = self._catalog.snapshot.version(model, Version.parse(version))
        return None if entry is None else entry.handle

    def rules(self, pair: Pair, settings: LaneSettings) -> Mapping[str, OutputRule]:
        """Returns how the baseline's outputs are compared: by the settings, the manifest, or else the defaults."""
        manifest = self._catalog.snapshot.model(pair.model).versions[Version.parse(pair.baseline)].manifest
        given = {name: Tolerance(t.atol, t.rtol) for name, t in settings.tolerances.items()}
        tolerances, scores = {**manifest.tolerances, **given}, {**manifest.scores, **settings.scores}
        return rules_for(manifest.signature, tolerances, scores, settings.top_k)

    async def runner(self, handle: VersionHandle, settings: LaneSettings, *, for_shadow: bool) -> CopyRunner:
        """Creates a runner of copies on a version, the shadow or the baseline. It may take as long as a load.

        The baseline runs in this process, as it does anyway. A version that is isolated is also isolated here.
        """
        manifest = handle.manifest
        name = f"{manifest.model}@{manifest.version}"
        with handle.lease() as loaded:
            shared, zeroed = loaded.engine, loaded.isolation.zeroed
        model = self._directory(manifest.model, manifest.version) / MODEL_FILE
        runtime = self._settings.for_model(manifest.model).runtime
        own_arena = for_shadow and shared.device != "cpu"
        if own_arena:
            # ONNX Runtime includes weights in the arena; the setting does not.
            limit = manifest.size + int(settings.memory_limit_bytes) if settings.memory_limit_bytes else 0
            runtime = runtime.model_copy(update={"arena_limit_bytes": limit})
        spec = SessionSpec(model, manifest.signature, shared.providers, shared.device_id, runtime, shared.tensorrt)
        if isinstance(shared, ChildPool) or (for_shadow and settings.isolation == "process"):

            def start() -> IsolatedSession:
                child = IsolatedSession(
                    spec,
                    memory_limit=int(settings.memory_limit_bytes),
                    priority="low",
                    files=manifest.files,
                    zeroed=zeroed,
                )
                engines = allowance(runtime.providers, runtime.tensorrt_build_timeout_s)
                child.start(timeout=_START_SECONDS + engines)
                return child

            return ProcessRunner(name, start, settings.timeout_s)
        session = shared
        if own_arena:

            def verified() -> Session:
                check_files(model.parent, manifest.files)
                return Session(spec)

            session = await self._loading.run(load_unchanged, model.parent, manifest.files, verified, Session.close)
        return ThreadRunner(name, session, settings.max_inflight, settings.timeout_s)
