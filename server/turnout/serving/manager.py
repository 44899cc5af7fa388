"""Brings what is loaded in line with what should be: the one writer of the catalog.

`refresh` reads what exists (repository) and what was declared (state store); `reconcile` compares with what is loaded
and starts loads and unloads beside the traffic. Each version's state moves only along `turnout.serving.lifecycle`.
"""

import asyncio
import errno
import threading
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from semver import Version
from structlog.typing import FilteringBoundLogger

from turnout.config import Settings
from turnout.errors import (
    ChangeRefused,
    DigestMismatch,
    Draining,
    ModelFailure,
    NotLoaded,
    NotTrusted,
    TurnoutError,
    Unavailable,
    VersionNotFound,
)
from turnout.registry import in_use
from turnout.registry.cancellation import Cancellation
from turnout.registry.files import explain
from turnout.registry.listing import Listing, Published
from turnout.registry.manifest import MANIFEST_FILE
from turnout.registry.repository import Repository
from turnout.registry.standing import Declared, Standing
from turnout.registry.trust import Trust
from turnout.registry.versions import highest_first, known_version
from turnout.serving.availability import Availability, Part
from turnout.serving.catalog import Catalog, CatalogSnapshot, Damaged, ModelEntry, VersionEntry
from turnout.serving.handle import VersionHandle
from turnout.serving.hold import Hold
from turnout.serving.isolation.pool import Supervision
from turnout.serving.lifecycle import LifecycleState, step
from turnout.serving.load_policy import Loaded, Resolve, Wish, moves, tags_in_force, wanted
from turnout.serving.loader import LoadedVersion, load
from turnout.serving.memory import give_back
from turnout.serving.outcomes import load_outcome
from turnout.serving.presence import Presence, look, unreadable
from turnout.serving.sandbox.processes import Processes
from turnout.serving.surroundings import check_surroundings
from turnout.telemetry.metrics import KnownVersion, Metrics
from turnout.telemetry.resources import LoadOutcome
from turnout.threads import Threads

_SCAN_SECONDS = 10.0
"""What a scan may take: 10,000 versions take one second, on a file system that has to be asked for each."""

_FILES_GONE = "its files are gone from the repository; it is served from memory until it is unloaded"

_NOT_IN_MEMORY = {LifecycleState.NEW, LifecycleState.UNLOADED, LifecycleState.FAILED}


class Manager:
    """Owns the versions of one server. Used on the event loop only; loads run in threads of its own."""

    def __init__(
        self,
        repository: Repository,
        declared: Callable[[], Awaitable[Declared]],
        settings: Settings,
        resolve: Resolve,
        held: Callable[[str], Mapping[Version, Hold]],
        fallbacks: Callable[[str], Collection[Version]],
        catalog: Catalog,
        availability: Availability,
        metrics: Metrics,
        log: FilteringBoundLogger,
        processes: Processes,
    ) -> None:
        """Prepares; nothing is read before the first `refresh`.

        Args:
            repository: The versions on disk.
            declared: Reads the state store.
            settings: Of the server.
            resolve: Finds what a selector in `load` names.
            held: Tells which of a model's versions have to stay loaded, as what, and what lets go of them.
            fallbacks: Tells what a rollback of the model would go back to.
            catalog: Where the outcome goes.
            availability: Told whether the repository can be read.
            metrics: Counts by version.
            log: Where loads and unloads are told.
            processes: Starts what tries versions out.
        """
        self._repository = repository
        self._declared = declared
        self._settings = settings
        self._resolve = resolve
        self._held = held
        self._fallbacks = fallbacks
        self._catalog = catalog
        self._availability = availability
        self._metrics = metrics
        self._log = log
        self._processes = processes
        self._cancellation = Cancellation()
        self._entries: dict[str, dict[Version, VersionEntry]] = {}  # the highest version first
        self._stale: set[str] = set()  # models whose part of the catalog is older than `_entries`
        self._layouts: dict[str, object] = {}
        self._moving: set[tuple[str, Version]] = set()
        self._told: dict[ModelEntry, tuple[KnownVersion, ...]] = {}
        self._declarations = Declared()
        self._asked: dict[str, dict[Version, bool]] = {}
        self._tags: dict[str, dict[str, Version]] = {}
        self._presence = Presence()
        self._present_at = 0.0
        self._in_use: dict[tuple[str, Version], int | None] = {}
        self._failed_at: dict[tuple[str, Version], float] = {}
        self._damaged: dict[str, dict[Version, str]] = {}
        self._tasks: dict[tuple[str, Version], asyncio.Task[None]] = {}
        self._refreshing = asyncio.Lock()
        self._scanning: asyncio.Future[Listing] | None = None
        self._loads = Threads("load", settings.loading.concurrency)
        self._freeing = Threads("unload")
        self._supervision = Supervision(self._start_thread, self._child_died)
        self._loop = asyncio.get_running_loop()
        self._begun = False
        self._closing = False

    async def refresh(self) -> None:
        """Reads what was declared and what exists, and starts what follows from it.

        Raises:
            TurnoutError, OSError: The repository or the state store cannot be read; what was known stays in force.
        """
        async with self._refreshing:
            declared, listing = await asyncio.gather(self._declared(), self._scan(), return_exceptions=True)
            # One that cannot be read keeps nobody from following the other.
            if not isinstance(declared, BaseException) and declared.revision != self._declarations.revision:
                if self._presence.available:
                    await self._look_again(declared)
                self._declare(declared)
            if isinstance(listing, BaseException) and not isinstance(listing, OSError):
                raise listing
            self._take_in(listing)
            self._begun = self._begun or not isinstance(declared, BaseException)
            self.reconcile()
            if isinstance(declared, BaseException):
                raise declared

    async def _scan(self) -> Listing:
        """Lists the repository. One scan at a time: where its file system hangs, it is one thread that does.

        Raises:
            OSError: The repository cannot be read, or does not answer in time.
        """
        if self._scanning is not None:  # one that was given up; it may have begun before what is looked for
            await asyncio.wait([self._scanning], timeout=_SCAN_SECONDS)
        if self._scanning is None or self._scanning.done():
            self._scanning = asyncio.ensure_future(self._repository.in_thread(self._repository.scan))
            await asyncio.wait([self._scanning], timeout=_SCAN_SECONDS)
        if not self._scanning.done():
            raise TimeoutError(errno.ETIMEDOUT, f"no answer within {_SCAN_SECONDS:g} s")
        scanned, self._scanning = self._scanning, None
        return scanned.result()

    def reconcile(self) -> None:
        """Drops what is gone from disk, starts the loads and unloads that are due, and swaps the catalog."""
        for model in list(self._entries):
            self._reconcile(model)
        self._swap()

    def _reconcile(self, model: str) -> None:
        if self._closing:
            return
        self._drop_gone(model)
        entries = self._entries.get(model)
        if entries is None:
            return
        self._follow_tags(model)
        due = moves(self._wanted(model), {v: e.state for v, e in entries.items()})
        for version in due.load if self._presence.reachable(model) else ():
            self._start(model, version, self._load(model, version), LifecycleState.LOADING)
        for version in due.unload:
            self._start(model, version, self._unload(model, version), LifecycleState.DRAINING)

    async def load(self, model: str, version: Version) -> VersionEntry:
        """Loads a version, if it is not loaded, and waits until it is Ready.

        Raises:
            ModelNotFound, VersionNotFound: It does not exist.
            NotLoaded: It could not be loaded; the message says why.
        """
        known = self._entries.get(model, {}).get(version)
        if known is None or known.state is not LifecycleState.READY:
            with suppress(Unavailable):  # a load needs the repository and no state store
                await self.refresh()  # it may have been published a moment ago, or the repository have gone away
        entry = await self._ask(model, version, load=True)
        if entry.state is LifecycleState.FAILED and self._presence.reachable(model):
            self._start(model, version, self._load(model, version), LifecycleState.LOADING)
        await self._settle(model, version)
        entry = self._entries[model][version]
        if entry.state is not LifecycleState.READY:
            why = entry.reason or entry.state
            if not self._presence.reachable(model):
                why = f"{'; '.join(self._presence.reasons)}; it is loaded once that is mended"
            raise NotLoaded(f"{model} {version} could not be loaded: {why}")
        return entry

    async def unload(self, model: str, version: Version) -> VersionEntry:
        """Takes a version out of service and waits until its memory is freed. It stays out until `load`.

        Raises:
            ModelNotFound, VersionNotFound: It does not exist.
            ChangeRefused: The model's policy or a rollout needs it; the message says what to do first.
        """
        if hold := self._held(model).get(version):
            raise ChangeRefused(f"{version} of {model} is not unloaded: {hold.sentence}")
        entry = await self._ask(model, version, load=False)
        await self._settle(model, version)
        gone = replace(entry, state=LifecycleState.UNLOADED, handle=None)  # its files were gone, and now it is too
        return self._entries.get(model, {}).get(version, gone)

    async def close(self, bound: float) -> None:
        """Takes every version out of service, waiting at most `bound` seconds for requests under way."""
        self._closing = True
        self._cancellation.cancel(Draining("the server stops"))
        for task in self._tasks.values():
            task.cancel()
        ready = [e.handle for entries in self._entries.values() for e in entries.values() if e.handle is not None]
        if ready:
            await asyncio.wait([asyncio.create_task(handle.close()) for handle in ready], timeout=bound)
        self._loads.shutdown()
        self._supervision.kill()  # of those that hang, or that were still loading
        for key in list(self._in_use):
            self._let_go(*key)

    @property
    def devices(self) -> Collection[str]:
        """What the versions in service have memory on: `cpu` always, and GPUs."""
        handles = [e.handle for entries in self._entries.values() for e in entries.values() if e.handle is not None]
        return dict.fromkeys(["cpu", *(device for handle in handles for device in handle.recorder.memory_bytes)])

    @property
    def child_bytes(self) -> int:
        """Memory of the child processes of all versions, in bytes, at the latest `sample`."""
        handles = [e.handle for entries in self._entries.values() for e in entries.values() if e.handle is not None]
        return sum(handle.child_bytes for handle in handles)

    def sample(self) -> None:
        """Tells the recorders what is known now; called before a scrape."""
        self._metrics.known = self._known()
        self._metrics.server.missing_versions = {
            model: sum(map(self._lost, entries.values())) for model, entries in self._entries.items()
        }
        for entries in self._entries.values():
            for entry in entries.values():
                if entry.handle is not None:
                    entry.handle.sample()

    @property
    def presence(self) -> Presence:
        """How the repository stood when it was looked at last."""
        return self._presence

    def _loaded(self, model: str) -> Loaded:
        states = {version: entry.state for version, entry in self._entries[model].items()}
        return Loaded(states, self._tags.get(model, {}))

    def _wanted(self, model: str) -> set[Version]:
        there = list(self._entries[model])
        yanked = self._settings.routing.yanked_pins == "warn"
        load_setting = self._settings.for_model(model).load
        wish = Wish(load_setting, self._asked.get(model, {}), yanked, self._fallbacks(model))
        declarations = self._declarations.of(model)
        chosen = wanted(wish, there, declarations, self._resolve, self._loaded(model))
        return chosen | (self._held(model).keys() & (set(there) - declarations.pruned))

    def _follow_tags(self, model: str) -> None:
        """Has tags answer with what they name now, as far as that is loaded."""
        declared, before = self._declarations.of(model).tags, self._tags.get(model, {})
        if declared != before:
            self._tags[model] = tags_in_force(declared, self._loaded(model), self._wanted(model))
            if self._tags[model] != before:
                self._lay_out(model)

    def _declare(self, declared: Declared) -> None:
        """Notes what was declared, for the versions that it is new of."""
        before, self._declarations = self._declarations, declared
        for model, entries in self._entries.items():
            declarations = declared.of(model)
            if declarations != before.of(model):
                self._lay_out(model)
                for version, entry in entries.items():
                    if (standing := declarations.standing(version)) is not entry.standing:
                        entries[version] = replace(entry, standing=standing)

    def _take_in(self, listing: Listing | OSError) -> None:
        """Notes what exists on disk. A version in memory stays what it was when it was loaded."""
        known = [(model, version) for model, entries in self._entries.items() for version in entries]
        before = self._presence
        if isinstance(listing, OSError):
            self._presence = unreadable(explain(listing), known)
        else:
            self._presence = look(listing, known, self._recorded())
        self._tell_presence(before)
        if isinstance(listing, OSError) or self._presence.fault:
            return
        since = self._present_at
        if self._presence.available:
            self._present_at = self._loop.time()
        self._damaged = {}
        for problem in listing.problems:
            if problem.damaged:
                self._damaged.setdefault(problem.model, {})[known_version(problem.version)] = problem.reason
        grown: set[str] = set()
        for item in listing.published:
            model, version = item.manifest.model, item.manifest.version
            entries = self._entries.setdefault(model, {})
            entry = entries.get(version)
            changed = entry is not None and entry.digest != item.digest and entry.state in _NOT_IN_MEMORY
            again = not before.reachable(model) and self._failed_at.get((model, version), -1.0) >= since
            if entry is None or changed or (again and entry.state is LifecycleState.FAILED):
                standing = self._declarations.of(model).standing(version)
                entries[version] = VersionEntry(item.manifest, item.digest, standing, LifecycleState.NEW)
                grown.add(model)
        for model in grown:
            entries = self._entries[model]
            self._entries[model] = {version: entries[version] for version in highest_first(entries)}
            self._lay_out(model)

    def _lay_out(self, model: str) -> None:
        """Notes that more of a model changed than the states of its versions."""
        self._stale.add(model)
        self._layouts[model] = object()

    def _recorded(self) -> list[tuple[str, Version]]:
        """Returns the versions that should be in the repository as far as the state store knows."""
        return [
            (model, version)
            for model, declarations in self._declarations.models.items()
            for version in declarations.digests
            if declarations.standing(version) is not Standing.YANKED
        ]

    def _tell_presence(self, before: Presence) -> None:
        now = self._presence
        self._stale |= {model for model, _ in now.missing ^ before.missing}
        self._availability.tell(Part.REPOSITORY, "; ".join(now.reasons))
        if now.available:
            for model, version in sorted(now.missing - before.missing):
                if self._entries[model][version].state not in _NOT_IN_MEMORY:
                    self._log.error(
                        "a loaded version is gone from the repository; it is served from memory until it is unloaded",
                        model=model, version=str(version),
                    )  # fmt: skip

    async def _look_again(self, declared: Declared) -> None:
        """Has versions loaded anew that are fit by now: somebody signed them, or recorded their publication."""
        refused = [e for entries in self._entries.values() for e in entries.values() if e.failure is not None]
        unsigned = [entry for entry in refused if isinstance(entry.failure, NotTrusted)]
        signed = await self._repository.in_thread(lambda: list(filter(self._trusted, unsigned))) if unsigned else []
        for entry in refused:
            model, version = entry.manifest.model, entry.manifest.version
            before, after = self._declarations.of(model).digests, declared.of(model).digests
            recorded = isinstance(entry.failure, DigestMismatch) and before.get(version) != after.get(version)
            if (recorded or entry in signed) and self._entries.get(model, {}).get(version) is entry:
                fresh = VersionEntry(entry.manifest, entry.digest, entry.standing, LifecycleState.NEW)
                self._entries[model][version] = fresh
                self._stale.add(model)

    def _trusted(self, entry: VersionEntry) -> bool:
        """Tells whether a version may be served as far as its signatures go."""
        trust = Trust.of(self._settings.for_model(entry.manifest.model).signing)
        return not trust.fault(trust.signed(self._repository, Published(entry.manifest, entry.digest)))

    def _drop_gone(self, model: str) -> None:
        """Forgets versions that are on disk no more and not in memory."""
        if not self._presence.reachable(model):
            return
        entries, missing = self._entries[model], self._presence.missing
        gone = [v for v, entry in entries.items() if entry.state in _NOT_IN_MEMORY and (model, v) in missing]
        for version in gone:
            del entries[version]
            self._asked.get(model, {}).pop(version, None)  # one that is published anew is asked for anew
        if gone:
            self._presence = replace(self._presence, missing=missing - {(model, version) for version in gone})
            self._lay_out(model)
        if not entries:
            del self._entries[model]
            self._tags.pop(model, None)

    async def _ask(self, model: str, version: Version, *, load: bool) -> VersionEntry:
        if version not in self._entries.get(model, {}) and not load:
            await self.refresh()  # it may have been published a moment ago
        entries = self._catalog.snapshot.model(model).versions
        if version not in entries:
            raise VersionNotFound.of(model, str(version), [str(v) for v in entries])
        self._asked.setdefault(model, {})[version] = load
        await self._settle(model, version)
        self.reconcile()
        return self._entries[model][version]

    async def _settle(self, model: str, version: Version) -> None:
        task = self._tasks.get((model, version))
        if task is not None:
            await asyncio.wait([task])

    def _start(self, model: str, version: Version, work: Any, state: LifecycleState) -> None:
        self._move(model, version, state)
        task = asyncio.create_task(work, name=f"{state} {model}@{version}")
        self._tasks[model, version] = task
        task.add_done_callback(lambda _: self._finish(model, version, task))

    def _finish(self, model: str, version: Version, task: "asyncio.Task[None]") -> None:
        if self._tasks.get((model, version)) is task:
            del self._tasks[model, version]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("lifecycle task died", model=model, version=str(version), exc_info=error)
        if model in self._entries:
            self._reconcile(model)  # what was asked for meanwhile is due now
            self._swap()

    async def _load(self, model: str, version: Version) -> None:
        entry = self._entries[model][version]
        settings = self._settings.for_model(model)
        loop = asyncio.get_running_loop()

        def warming() -> None:
            loop.call_soon_threadsafe(self._move, model, version, LifecycleState.WARMING)

        stated = self._declarations.of(model).digests.get(version, entry.digest)
        try:
            if stated != entry.digest:
                raise DigestMismatch(f"{model} {version}: {MANIFEST_FILE} is not what was published")
            directory = self._repository.directory(model, version)
            self._in_use[model, version] = await self._loads.run(in_use.hold, directory)
            strictness = self._settings.loading.environment
            for difference in await self._loads.run(check_surroundings, entry.manifest, strictness):
                self._log.warning("environment differs", model=model, version=str(version), reason=difference)
            loaded = await self._loads.run(
                self._cancellable_load,
                self._repository,
                Published(entry.manifest, entry.digest),
                settings,
                self._settings.loading.warmup_runs,
                warming,
                self._supervision,
                self._processes,
            )
        except TurnoutError as error:
            self._failed(entry, error)
            return
        except Exception as error:  # noqa: BLE001 - one version's trouble must not end the others' service
            self._failed(entry, _unexpected(error))
            return
        recorder = self._metrics.version(model, str(version), entry.digest, [ms / 1e3 for ms in settings.slo_ms])
        self._metrics.server.loads[model, load_outcome(None)] += 1
        recorder.load_seconds = loaded.seconds
        recorder.memory_bytes = dict(loaded.memory_bytes)
        handle = VersionHandle(
            entry.manifest, loaded, settings, recorder, lambda why: self._demoted(model, version, why)
        )
        handle.sample()
        self._move(
            model, version, LifecycleState.READY, handle=handle, providers=loaded.providers,
            max_batch_rows=loaded.plan.max_rows, batching=loaded.plan.reason, load_seconds=loaded.seconds,
            isolation=str(loaded.isolation),
        )  # fmt: skip
        self._log.info(
            "version ready", model=model, version=str(version), seconds=round(loaded.seconds, 3),
            providers=loaded.providers, batching=loaded.plan.reason, isolation=str(loaded.isolation),
        )  # fmt: skip
        if loaded.warmth.warning:
            self._log.warning("warm-up incomplete", model=model, version=str(version), reason=loaded.warmth.warning)

    def _cancellable_load(self, *args: Any) -> LoadedVersion:
        with self._cancellation.applies():
            return load(*args)

    async def _unload(self, model: str, version: Version) -> None:
        handle = self._entries[model][version].handle
        self._put(replace(self._entries[model][version], handle=None))
        if handle is not None:
            await handle.close()
            await self._freeing.run(give_back)
        self._let_go(model, version)
        self._metrics.retire(model, str(version))
        self._move(
            model, version, LifecycleState.UNLOADED, providers=(), max_batch_rows=0, batching="", load_seconds=0.0,
            isolation="",
        )  # fmt: skip
        self._log.info("version unloaded", model=model, version=str(version))

    def _demoted(self, model: str, version: Version, reason: str) -> None:
        """Notes that a version's requests share runs no more; it stays so until it is loaded again."""
        entry = self._entries[model][version]
        self._put(replace(entry, max_batch_rows=0, batching=reason, reason=reason))
        self._log.error("batching demoted", model=model, version=str(version), reason=reason)

    def _let_go(self, model: str, version: Version) -> None:
        """Lets a version's files be removed."""
        in_use.let_go(self._in_use.pop((model, version), None))

    def _start_thread(self, work: Callable[[], None]) -> None:
        """Runs `work` in a thread that the event loop's thread starts, whose priority is the ordinary one."""

        def start() -> None:
            threading.Thread(target=work, name="keep", daemon=True).start()

        self._loop.call_soon_threadsafe(start)

    def _child_died(self, version: str, how: str, delay: float) -> None:
        """Tells that the child process of a version died; from any thread."""

        def tell() -> None:
            name, _, exact = version.rpartition("@")
            self._log.error("child process died", model=name, version=exact, how=how, next_start_seconds=delay)

        with suppress(RuntimeError):  # the loop is closed: nobody listens
            self._loop.call_soon_threadsafe(tell)

    def _failed(self, entry: VersionEntry, error: TurnoutError) -> None:
        self._let_go(entry.model, entry.version)
        self._failed_at[entry.model, entry.version] = asyncio.get_running_loop().time()
        self._metrics.server.loads[entry.model, load_outcome(error)] += 1
        self._move(entry.model, entry.version, LifecycleState.FAILED, reason=error.message, failure=error)
        self._log.error(
            "version failed to load", model=entry.model, version=str(entry.version), reason=error.message,
            cause=repr(error.__cause__) if error.__cause__ else None,
        )  # fmt: skip

    def _move(self, model: str, version: Version, state: LifecycleState, **changes: Any) -> None:
        entry = self._entries[model][version]
        cleared: Mapping[str, Any] = {"reason": "", "failure": None} | changes
        self._put(replace(entry, state=step(entry.state, state), **cleared))

    def _put(self, entry: VersionEntry) -> None:
        self._entries[entry.model][entry.version] = entry
        self._stale.add(entry.model)
        (self._moving.discard if entry.state.settled else self._moving.add)((entry.model, entry.version))
        self._swap()

    def _swap(self) -> None:
        """Makes a new snapshot of what is known, if that changed. Models that did not are the same objects in both."""
        last = self._catalog.snapshot
        complete = last.complete or (self._begun and not self._moving and not self._presence.fault)
        damaged = {model: Damaged(reasons, self._declarations.of(model)) for model, reasons in self._damaged.items()}
        if not self._stale and complete == last.complete and damaged == last.damaged:
            return
        models = dict(last.models)
        for model in self._stale:
            if entries := self._entries.get(model):
                declared = self._declarations.of(model)
                declarations = replace(declared, tags=self._tags.get(model, declared.tags))
                lost = any(name == model for name, _ in self._presence.missing)  # else nothing is to be looked through
                shown = {v: self._shown(entry) for v, entry in entries.items()} if lost else dict(entries)
                models[model] = ModelEntry(model, shown, declarations, self._layouts[model])
            else:
                models.pop(model, None)
        self._stale.clear()
        if models.keys() != last.models.keys():
            models = {name: models[name] for name in sorted(models)}
        self._catalog.swap(CatalogSnapshot(models, last.generation + 1, complete, damaged))

    def _known(self) -> Sequence[KnownVersion]:
        models = self._catalog.snapshot.models.values()
        # Ten thousand versions take 10 ms to tell of, and few models change between two scrapes.
        self._told = {
            model: self._told[model] if model in self._told else tuple(map(_known_version, model.versions.values()))
            for model in models
        }
        known = [version for told in self._told.values() for version in told]
        damaged = [
            KnownVersion(name, str(version), "", str(LifecycleState.FAILED), LoadOutcome.DIGEST_MISMATCH)
            for name, reasons in self._damaged.items()
            for version in reasons.keys() - self._entries.get(name, {}).keys()
        ]
        return known + damaged

    def _lost(self, entry: VersionEntry) -> bool:
        """Tells whether a version is in memory and its files are gone."""
        lost = (entry.model, entry.version) in self._presence.missing and self._presence.reachable(entry.model)
        return lost and entry.state not in _NOT_IN_MEMORY

    def _shown(self, entry: VersionEntry) -> VersionEntry:
        """Returns an entry as the catalog shows it: with a word on files that are gone."""
        if entry.reason or not self._lost(entry):
            return entry
        return replace(
            entry, reason="its files are gone from the repository; it is served from memory until it is unloaded"
        )


def _known_version(entry: VersionEntry) -> KnownVersion:
    failure = load_outcome(entry.failure) if entry.failure else ""
    return KnownVersion(entry.model, entry.version_text, entry.digest, str(entry.state), failure)


def _unexpected(error: Exception) -> ModelFailure:
    failure = ModelFailure(f"it cannot be loaded ({type(error).__name__})")
    failure.__cause__ = error
    return failure
