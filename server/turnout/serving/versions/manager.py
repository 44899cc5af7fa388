"""Loads and unloads versions until the loaded versions are those that should be loaded.

`refresh` reads which versions exist (repository) and what is declared (state store). `reconcile` compares that with the
loaded versions and starts loads and unloads beside the traffic. The state of a version moves only along
`turnout.serving.versions.lifecycle`.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

from semver import Version

from turnout.cancellation import Cancellation
from turnout.config import ModelSettings, Settings
from turnout.errors import ChangeRefused, DigestMismatch, Draining, NotLoaded, TurnoutError, VersionNotFound
from turnout.registry.manifest.manifest import MANIFEST_FILE
from turnout.registry.storage import in_use
from turnout.registry.storage.listing import Published
from turnout.registry.storage.repository import Repository
from turnout.registry.storage.timed_scan import TimedScanner
from turnout.serving.isolation.supervision import supervision
from turnout.serving.loading.checks import check_environment, doubt_of, trusted
from turnout.serving.loading.loader import Loader, devices_of, on_devices
from turnout.serving.loading.memory_budget import Occupant
from turnout.serving.loading.memory_room import MemoryRoom, occupant
from turnout.serving.sandbox.processes import Processes
from turnout.serving.sessions.capture_gate import GATED
from turnout.serving.sessions.memory import release_memory
from turnout.serving.tensorrt.engine_cache import forget
from turnout.serving.tensorrt.fallback import WAITING, builds_engines
from turnout.serving.versions import load_outcomes
from turnout.serving.versions.catalog import Catalog, VersionEntry
from turnout.serving.versions.follow import VersionFinder
from turnout.serving.versions.handle import VersionHandle
from turnout.serving.versions.inventory import Inventory
from turnout.serving.versions.lifecycle import LifecycleState
from turnout.serving.versions.load_outcomes import LoadTelemetry, load_failure, load_outcome, unexpected
from turnout.serving.versions.load_policy import (
    DesiredServing,
    VersionDemand,
    awaited,
    kept_below,
    moves,
    on_demand,
    wanted,
)
from turnout.serving.versions.load_stages import LoadStages
from turnout.serving.versions.on_demand import OnDemand
from turnout.serving.versions.presence import Key, RepositoryPresence
from turnout.state.release_status import ReleaseState
from turnout.threads import Threads

P = ParamSpec("P")
T = TypeVar("T")


class Manager:
    """Manages the versions of one server. Used on the event loop only; loads run in threads.

    Nothing is read before the first `refresh`.

    Attributes:
        asked: Requests of operators for single versions, by model: True to load, False to unload.
        on_demand: Loads versions for requests that ask for them.
        finder: Finds versions, also those that were published a moment ago.
    """

    def __init__(
        self,
        repository: Repository,
        settings: Settings,
        demand: VersionDemand,
        catalog: Catalog,
        telemetry: LoadTelemetry,
        processes: Processes,
    ) -> None:
        self._repository = repository
        self._settings = settings
        self._demand = demand
        self._catalog = catalog
        self._metrics, self._log = telemetry.metrics, telemetry.log
        self._inventory = Inventory(catalog, telemetry.availability, telemetry.log)
        self._stages = LoadStages(self._inventory, telemetry.availability, telemetry.log)
        self._cancellation = Cancellation()
        self.asked: dict[str, dict[Version, bool]] = {}
        self._in_use: dict[tuple[str, Version], int | None] = {}
        self._tasks: dict[tuple[str, Version], asyncio.Task[None]] = {}
        self._reading_release_state = asyncio.Lock()
        self._reading_files = asyncio.Lock()
        self._scanner = TimedScanner(repository)
        self._loads = Threads("load", settings.loading.concurrency)
        self._builds = Threads("build")  # one at a time, since TensorRT chooses kernels by their measured time
        self._freeing = Threads("unload")
        self._supervision = supervision(telemetry.log)
        self._loader = Loader(repository, settings.loading.warmup_runs, self._supervision, processes)
        self._room = MemoryRoom(settings.loading, self._occupant, self._evict)
        self._loop = asyncio.get_running_loop()
        self._closing = False
        if any(settings.for_model(name).runtime.cuda_graphs != "off" for name in ("", *settings.model)):
            GATED.expect_captures()  # before any load, since versions without graphs must keep away from captures too
        self.on_demand = OnDemand(settings, self._bring)
        self.finder = VersionFinder(catalog, repository.look_soon, self.refresh)

    async def refresh(self, files_within: float | None = None) -> None:
        """Reads the release state and the repository, and starts the resulting loads and unloads.

        If the repository takes longer than `files_within` seconds, only the release state is followed.

        Raises:
            TurnoutError, OSError: The repository or the state store cannot be read; the known state stays in force.
        """
        try:
            await self._follow_release_state()
        except Exception:  # an unreadable state store must not keep the files from being followed
            await self._follow_files()
            raise
        with suppress(TimeoutError):
            async with asyncio.timeout(files_within):
                await self._follow_files()
                self._inventory.begin()
                self._inventory.swap()

    async def _follow_files(self) -> None:
        async with self._reading_files:
            recorded = self._inventory.recorded()  # now, since the listing may not contain what is published meanwhile
            self._repository.expect(recorded)
            listing = await self._scanner.listing()
            self._inventory.reconcile(listing, recorded, self._loop.time())
            self.reconcile()

    async def _follow_release_state(self) -> None:
        """Applies the release state without waiting for a repository that does not answer."""
        async with self._reading_release_state:
            release_state = await self._demand.release_state()
            if release_state.revision == self._inventory.revision:
                return
            if self._inventory.presence.available:
                await self._look_again(release_state)
            self._inventory.update_release_state(release_state)
            self.reconcile()

    def reconcile(self) -> None:
        """Drops versions that are gone from disk, starts loads and unloads that are due, and updates the catalog."""
        for model in self._inventory.models:
            self._reconcile(model)
        self._inventory.swap()

    def _reconcile(self, model: str) -> None:
        if self._closing:
            return
        for version in self._inventory.drop_gone(model):
            self.asked.get(model, {}).pop(version, None)  # does not apply to a new version of the same name
            self._room.forget((model, version))
            self._forget_engines(model, version)
        if not (entries := self._inventory.versions(model)):
            return
        if self._inventory.tags_moved(model):
            self._inventory.follow_tags(model, self._needed(model))
        needed = self._needed(model)
        optional = on_demand(wish := self._wish(model), list(entries), self._inventory.model_releases(model), needed)
        self._inventory.mark_on_demand(model, optional, awaited(wish, optional))
        ready = self._inventory.loaded(model).ready
        kept = {v for v in optional if ready(v) or self.on_demand.waits(model, v)}
        due = moves(needed | kept, {v: e.state for v, e in entries.items()})
        for version in due.load if self._inventory.presence.reachable(model) else ():
            self._start(model, version, self._load(model, version), LifecycleState.LOADING)
        for version in due.unload:
            self._start(model, version, self._unload(model, version), LifecycleState.DRAINING)

    def recall(self, model: str, version: Version, *, load: bool) -> None:
        """Restores an operator's request to another worker, before the first `refresh`."""
        self.asked.setdefault(model, {})[version] = load

    async def load(self, model: str, version: Version) -> VersionEntry:
        """Loads a version unless it is loaded, and waits until it is Ready.

        Raises:
            ModelNotFound, VersionNotFound: There is no such version.
            NotLoaded: It could not be loaded; the message gives the reason.
        """
        known = self._inventory.versions(model).get(version)
        if known is not None and known.state is not LifecycleState.READY:
            await self.finder.look()  # the repository may have become unavailable
        entry = await self._ask(model, version, load=True)
        if entry.state is LifecycleState.FAILED and self._inventory.presence.reachable(model):
            self._start(model, version, self._load(model, version), LifecycleState.LOADING)
        await self._settle(model, version)
        entry = self._inventory.entry(model, version)
        if entry.state is not LifecycleState.READY:
            why = entry.reason or entry.state
            if not self._inventory.presence.reachable(model):
                why = f"{'; '.join(self._inventory.presence.reasons)}; it will be loaded once that is fixed"
            raise NotLoaded(f"{model} {version} could not be loaded: {why}")
        return entry

    async def unload(self, model: str, version: Version) -> VersionEntry:
        """Takes a version out of service and waits until its memory is freed. It stays unloaded until `load`.

        Raises:
            ModelNotFound, VersionNotFound: There is no such version.
            ChangeRefused: The model's policy or a rollout needs it; the message says what to do first.
        """
        if hold := self._demand.pinned_versions(model).get(version):
            raise ChangeRefused(f"{version} of {model} is not unloaded: {hold.sentence}")
        entry = await self._ask(model, version, load=False)
        await self._settle(model, version)
        gone = replace(entry, state=LifecycleState.UNLOADED, handle=None)  # used if it is now forgotten, without files
        return self._inventory.versions(model).get(version, gone)

    async def close(self, bound: float) -> None:
        """Takes every version out of service, waiting at most `bound` seconds for requests in progress."""
        self._closing = True
        await self.on_demand.close()
        self._cancellation.cancel(Draining("the server stops"))
        self._stages.close()
        for task in self._tasks.values():
            task.cancel()
        if closing := [asyncio.create_task(handle.close()) for handle in self._inventory.handles()]:
            await asyncio.wait(closing, timeout=bound)
        self._loads.shutdown()
        self._builds.shutdown()
        self._supervision.kill()  # ends children that hang or were still loading
        for key in list(self._in_use):
            self._let_go(*key)

    @property
    def devices(self) -> Collection[str]:
        """Devices on which versions in service use memory: `cpu` always, and GPUs."""
        handles = self._inventory.handles()
        return dict.fromkeys(["cpu", *(device for handle in handles for device in handle.recorder.memory_bytes)])

    @property
    def child_bytes(self) -> int:
        """Memory of the child processes of all versions in bytes at the latest `sample`."""
        return sum(handle.child_bytes for handle in self._inventory.handles())

    def sample(self) -> None:
        """Copies present values to the recorders; called before a scrape."""
        self._metrics.known = self._inventory.known()
        self._metrics.server.missing_versions = self._inventory.lost()
        self._metrics.server.waiting_for_load = self.on_demand.waiting()
        self._metrics.server.memory_budgets = self._room.budgets(list(self.devices))
        for handle in self._inventory.handles():
            handle.sample()
            self._room.measured(handle.manifest, handle.recorder.memory_bytes)

    @property
    def presence(self) -> RepositoryPresence:
        """State of the repository at the latest scan."""
        return self._inventory.presence

    def _wish(self, model: str) -> DesiredServing:
        yanked = self._settings.routing.yanked_pins == "warn"
        fallbacks = kept_below(self._demand.fallbacks(model), self._inventory.model_releases(model))
        return DesiredServing(self._settings.for_model(model).load, self.asked.get(model, {}), yanked, fallbacks)

    def _needed(self, model: str) -> set[Version]:
        """Returns the versions that should be in memory regardless of requests."""
        there, model_releases = list(self._inventory.versions(model)), self._inventory.model_releases(model)
        chosen = wanted(self._wish(model), there, model_releases, self._demand.resolve, self._inventory.loaded(model))
        return chosen | (self._demand.pinned_versions(model).keys() & (set(there) - model_releases.pruned))

    async def _bring(self, model: str, version: Version) -> None:
        """Loads a version that requests wait for, and returns once it can answer.

        Raises:
            TurnoutError: It could not be loaded, or must not be loaded any more.
        """
        self.reconcile()
        while True:
            entry = self._inventory.versions(model).get(version)
            if entry is None:
                raise VersionNotFound.of(model, str(version), [str(v) for v in self._inventory.versions(model)])
            if entry.state is LifecycleState.READY:
                return
            task = self._tasks.get((model, version))
            if task is None:
                away = "; ".join(self._inventory.presence.reasons)
                raise load_failure(entry, "" if self._inventory.presence.reachable(model) else away)
            await asyncio.wait([task])

    def _occupant(self, key: Key, memory: Mapping[str, int]) -> Occupant:
        entry = self._inventory.versions(key[0]).get(key[1])
        return occupant(key, memory, entry, waited_for=self.on_demand.waits(*key))

    def _evict(self, key: Key) -> None:
        model, version = key
        self._metrics.server.evictions[model] += 1
        self._log.info("version evicted to make room for another", model=model, version=str(version))
        self._start(model, version, self._unload(model, version), LifecycleState.DRAINING)

    async def _placed(self, entry: VersionEntry, settings: ModelSettings) -> ModelSettings:
        """Waits until there is room for a version; returns its settings with the devices that it is placed on."""
        allowed, key = await self._loads.run(devices_of, settings.runtime), (entry.model, entry.version)
        devices = await self._room.take(key, entry.manifest.size, allowed, settings.runtime.gpus_per_version)
        return settings if devices == allowed else on_devices(settings, devices)

    async def _look_again(self, release_state: ReleaseState) -> None:
        """Reloads versions that are acceptable now, because they were signed or their publication was recorded."""
        unsigned, recorded = self._inventory.refused(release_state)
        if unsigned:
            self._repository.look_soon()
        signed = await self._repository.in_thread(lambda: list(filter(self._fit, unsigned))) if unsigned else []
        for entry in [*recorded, *signed]:
            self._inventory.renew(entry)

    def _fit(self, entry: VersionEntry) -> bool:
        return trusted(self._repository, entry, self._settings.for_model(entry.model).signing)

    async def _ask(self, model: str, version: Version, *, load: bool) -> VersionEntry:
        entries = (await self.finder.find(model, version)).versions
        if version not in entries:
            raise VersionNotFound.of(model, str(version), [str(v) for v in entries])
        self.asked.setdefault(model, {})[version] = load
        await self._settle(model, version)
        self.reconcile()
        return self._inventory.entry(model, version)

    async def _settle(self, model: str, version: Version) -> None:
        task = self._tasks.get((model, version))
        if task is not None:
            await asyncio.wait([task])

    def _start(self, model: str, version: Version, work: Any, state: LifecycleState) -> None:
        self._inventory.move(model, version, state)
        task = asyncio.create_task(work, name=f"{state} {model}@{version}")
        self._tasks[model, version] = task
        task.add_done_callback(lambda _: self._finish(model, version, task))

    def _finish(self, model: str, version: Version, task: "asyncio.Task[None]") -> None:
        if self._tasks.get((model, version)) is task:
            del self._tasks[model, version]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("lifecycle task died", model=model, version=str(version), exc_info=error)
        if self._inventory.versions(model):
            self._reconcile(model)  # requests made in the meantime are due now
            self._inventory.swap()

    async def _load(self, model: str, version: Version) -> None:
        entry = self._inventory.entry(model, version)
        settings = self._settings.for_model(model)

        def warming() -> None:
            self._loop.call_soon_threadsafe(self._inventory.move, model, version, LifecycleState.WARMING)

        def on_stage(stage: str) -> None:
            self._loop.call_soon_threadsafe(self._stages.begin, model, version, stage)

        stated = self._inventory.model_releases(model).digests.get(version, entry.digest)
        try:
            if stated != entry.digest:
                raise DigestMismatch(f"{model} {version}: {MANIFEST_FILE} is not what was published")
            self._in_use[model, version] = await self._loads.run(
                self._cancellable, in_use.hold, self._repository, model, version
            )
            strictness = self._settings.loading.environment
            for difference in await self._loads.run(check_environment, entry.manifest, strictness):
                self._log.warning("environment differs", model=model, version=str(version), reason=difference)
            settings = await self._placed(entry, settings)
            published = Published(entry.manifest, entry.digest)
            if doubt := await self._loads.run(doubt_of, self._repository, published, settings.signing):
                self._log.warning("version is not signed as required", model=model, version=str(version), reason=doubt)
            threads = self._loads
            if builds_engines(settings.runtime.providers):
                threads = self._builds
                self._stages.begin(model, version, WAITING)
            loaded = await threads.run(self._cancellable, self._loader.load, published, settings, warming, on_stage)
        except TurnoutError as error:
            self._failed(entry, error)
            return
        except Exception as error:  # noqa: BLE001 - a failure of one version must not affect the others
            self._failed(entry, unexpected(error))
            return
        finally:
            self._stages.end(model, version)
        recorder = self._metrics.version(model, str(version), entry.digest, [ms / 1e3 for ms in settings.slo_ms])
        self._count_load(entry, None)
        load_outcomes.count_loaded(recorder, loaded)
        handle = VersionHandle(
            entry.manifest, loaded, settings, recorder, lambda why: self._demoted(model, version, why)
        )
        handle.sample()
        self._room.measured(entry.manifest, recorder.memory_bytes)
        self._inventory.move(model, version, LifecycleState.READY, handle=handle, **load_outcomes.of_loaded(loaded))
        load_outcomes.tell_loaded(self._log, entry, loaded)

    def _cancellable(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function in a thread, so that it ends early when the server stops."""
        with self._cancellation.applies():
            return call(*args, **kwargs)

    async def _unload(self, model: str, version: Version) -> None:
        handle = self._inventory.entry(model, version).handle
        self._inventory.put(replace(self._inventory.entry(model, version), handle=None))
        if handle is not None:
            await handle.close()
            await self._freeing.run(release_memory)
        self._let_go(model, version)
        self._metrics.retire(model, str(version))
        self._inventory.move(model, version, LifecycleState.UNLOADED)
        self._log.info("version unloaded", model=model, version=str(version))

    def _demoted(self, model: str, version: Version, reason: str) -> None:
        """Records that a version is unbatched from now on, until it is loaded again."""
        entry = self._inventory.entry(model, version)
        self._inventory.put(replace(entry, max_batch_rows=0, batching=reason, reason=reason))
        self._log.error("batching demoted", model=model, version=str(version), reason=reason)

    def _let_go(self, model: str, version: Version) -> None:
        self._room.leave((model, version))
        in_use.let_go(self._in_use.pop((model, version), None))

    def _forget_engines(self, model: str, version: Version) -> None:
        """Removes the cached TensorRT engines of a version that is gone but still in the catalog."""
        cache = self._settings.for_model(model).runtime.tensorrt_cache
        known = self._catalog.snapshot.models.get(model)
        if cache and known is not None and (entry := known.versions.get(version)) is not None:
            self._freeing.submit(forget, cache, entry.digest)

    def _count_load(self, entry: VersionEntry, error: TurnoutError | None) -> None:
        counts, outcome = self._metrics.server, load_outcome(error)
        counts.loads[entry.model, outcome] += 1
        if entry.on_demand:
            counts.on_demand_loads[entry.model, outcome] += 1

    def _failed(self, entry: VersionEntry, error: TurnoutError) -> None:
        self._let_go(entry.model, entry.version)
        self._count_load(entry, error)
        self._inventory.fail(entry, error, self._loop.time())
        self._log.error(
            "version failed to load", model=entry.model, version=str(entry.version), reason=error.message,
            cause=repr(error.__cause__) if error.__cause__ else None,
        )  # fmt: skip
