"""Brings what is loaded in line with what should be: the one writer of the catalog.

`refresh` reads what exists (repository) and what was declared (state store); `reconcile` compares with what is loaded
and starts loads and unloads beside the traffic. Each version's state moves only along `turnout.serving.lifecycle`.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

from semver import Version
from structlog.typing import FilteringBoundLogger

from turnout.config import Settings
from turnout.errors import (
    ChangeRefused,
    DigestMismatch,
    ModelFailure,
    NotLoaded,
    NotTrusted,
    TurnoutError,
    Unavailable,
    VersionNotFound,
)
from turnout.registry import in_use
from turnout.registry.files import explain
from turnout.registry.listing import Listing, Published
from turnout.registry.manifest import MANIFEST_FILE
from turnout.registry.repository import Repository
from turnout.registry.standing import Declared, Standing
from turnout.registry.trust import Trust
from turnout.serving.availability import Availability, Part
from turnout.serving.catalog import Catalog, CatalogSnapshot, Damaged, ModelEntry, VersionEntry
from turnout.serving.handle import VersionHandle
from turnout.serving.hold import Hold
from turnout.serving.lifecycle import LifecycleState, step
from turnout.serving.load_policy import Loaded, Resolve, Wish, moves, tags_in_force, wanted
from turnout.serving.loader import load
from turnout.serving.outcomes import load_outcome
from turnout.serving.presence import Presence, look, unreadable
from turnout.serving.surroundings import check_surroundings
from turnout.telemetry.metrics import KnownVersion, Metrics
from turnout.telemetry.resources import LoadOutcome

_NOT_IN_MEMORY = {LifecycleState.NEW, LifecycleState.UNLOADED, LifecycleState.FAILED}


class Manager:
    """Owns the versions of one server. Used on the event loop only; loads run in threads of its own."""

    def __init__(
        self,
        repository: Repository,
        declared: Callable[[], Declared],
        settings: Settings,
        resolve: Resolve,
        held: Callable[[str], Mapping[Version, Hold]],
        fallbacks: Callable[[str], Collection[Version]],
        catalog: Catalog,
        availability: Availability,
        metrics: Metrics,
        log: FilteringBoundLogger,
    ) -> None:
        """Prepares; nothing is read before the first `refresh`.

        Args:
            repository: The versions on disk.
            declared: Reads the state store; called in a thread.
            settings: Of the server.
            resolve: Finds what a selector in `load` names.
            held: Tells which of a model's versions have to stay loaded, as what, and what lets go of them.
            fallbacks: Tells what a rollback of the model would go back to.
            catalog: Where the outcome goes.
            availability: Told whether the repository can be read.
            metrics: Counts by version.
            log: Where loads and unloads are told.
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
        self._entries: dict[str, dict[Version, VersionEntry]] = {}
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
        self._loads = ThreadPoolExecutor(settings.loading.concurrency, thread_name_prefix="load")
        self._begun = False
        self._closing = False

    async def refresh(self) -> None:
        """Reads what exists and what was declared, and starts what follows from it.

        Raises:
            TurnoutError: The repository or the state store cannot be read; what was known stays in force.
        """
        async with self._refreshing:
            listing, declared = await asyncio.gather(
                asyncio.to_thread(self._repository.scan), asyncio.to_thread(self._declared), return_exceptions=True
            )
            # One that cannot be read keeps nobody from following the other.
            if not isinstance(declared, BaseException):
                if declared.revision != self._declarations.revision and self._presence.available:
                    await self._look_again(declared)
                self._declarations = declared
            if isinstance(listing, BaseException) and not isinstance(listing, OSError):
                raise listing
            self._take_in(listing)
            self.reconcile()
            self._begun = self._begun or not isinstance(declared, BaseException)
            self._swap()
            if isinstance(declared, BaseException):
                raise declared

    def reconcile(self) -> None:
        """Drops what is gone from disk, starts the loads and unloads that are due, and swaps the catalog."""
        if not self._closing:
            self._drop_gone()
            self._follow_tags()
            for model, entries in self._entries.items():
                due = moves(self._wanted(model), {v: e.state for v, e in entries.items()})
                for version in due.load if self._presence.reachable(model) else ():
                    self._start(model, version, self._load(model, version), LifecycleState.LOADING)
                for version in due.unload:
                    self._start(model, version, self._unload(model, version), LifecycleState.DRAINING)
        self._swap()

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
        for task in self._tasks.values():
            task.cancel()
        ready = [e.handle for entries in self._entries.values() for e in entries.values() if e.handle is not None]
        if ready:
            await asyncio.wait([asyncio.create_task(handle.close()) for handle in ready], timeout=bound)
        self._loads.shutdown(wait=False, cancel_futures=True)
        for key in list(self._in_use):
            self._let_go(*key)

    @property
    def devices(self) -> Collection[str]:
        """What the versions in service have memory on: `cpu` always, and GPUs."""
        handles = [e.handle for entries in self._entries.values() for e in entries.values() if e.handle is not None]
        return dict.fromkeys(["cpu", *(device for handle in handles for device in handle.recorder.memory_bytes)])

    def sample(self) -> None:
        """Copies what changes by itself into the recorders; called before a scrape."""
        for entries in self._entries.values():
            for entry in entries.values():
                if entry.handle is not None:
                    entry.handle.recorder.inflight = entry.handle.inflight
                    entry.handle.recorder.queue_depth = entry.handle.queue_depth
                    entry.handle.recorder.queue_fill = entry.handle.queue_fill

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

    def _follow_tags(self) -> None:
        """Has tags answer with what they name now, as far as that is loaded."""
        for model in self._entries:
            declared = self._declarations.of(model).tags
            if declared != self._tags.get(model, {}):
                self._tags[model] = tags_in_force(declared, self._loaded(model), self._wanted(model))

    def _take_in(self, listing: Listing | OSError) -> None:
        """Notes what exists on disk. A version in memory stays what it was when it was loaded."""
        known = [(model, version) for model, entries in self._entries.items() for version in entries]
        before = self._presence
        if isinstance(listing, OSError):
            self._presence = unreadable(explain(listing), known)
        else:
            self._presence = look(listing, known, self._recorded())
        self._tell_presence(before)
        now = asyncio.get_running_loop().time()
        if isinstance(listing, OSError) or self._presence.fault:
            return
        since = self._present_at
        if self._presence.available:
            self._present_at = now
        self._damaged = {}
        for problem in listing.problems:
            if problem.damaged:
                self._damaged.setdefault(problem.model, {})[Version.parse(problem.version)] = problem.reason
        for item in listing.published:
            model, version = item.manifest.model, item.manifest.version
            entries = self._entries.setdefault(model, {})
            entry = entries.get(version)
            changed = entry is not None and entry.digest != item.digest and entry.state in _NOT_IN_MEMORY
            again = not before.reachable(model) and self._failed_at.get((model, version), -1.0) >= since
            if entry is None or changed or (again and entry.state is LifecycleState.FAILED):
                standing = self._declarations.of(model).standing(version)
                entries[version] = VersionEntry(item.manifest, item.digest, standing, LifecycleState.NEW)

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
        signed = await asyncio.to_thread(lambda: list(filter(self._trusted, unsigned))) if unsigned else []
        for entry in refused:
            model, version = entry.manifest.model, entry.manifest.version
            before, after = self._declarations.of(model).digests, declared.of(model).digests
            recorded = isinstance(entry.failure, DigestMismatch) and before.get(version) != after.get(version)
            if (recorded or entry in signed) and self._entries.get(model, {}).get(version) is entry:
                fresh = VersionEntry(entry.manifest, entry.digest, entry.standing, LifecycleState.NEW)
                self._entries[model][version] = fresh

    def _trusted(self, entry: VersionEntry) -> bool:
        """Tells whether a version may be served as far as its signatures go."""
        trust = Trust.of(self._settings.for_model(entry.manifest.model).signing)
        return not trust.fault(trust.signed(self._repository, Published(entry.manifest, entry.digest)))

    def _drop_gone(self) -> None:
        """Forgets versions that are on disk no more and not in memory."""
        missing = self._presence.missing
        for model, entries in list(self._entries.items()):
            if not self._presence.reachable(model):
                continue
            for version, entry in list(entries.items()):
                if (model, version) in missing and entry.state in _NOT_IN_MEMORY:
                    del entries[version]
                    self._asked.get(model, {}).pop(version, None)  # one that is published anew is asked for anew
            if not entries:
                del self._entries[model]
                self._tags.pop(model, None)
        left = frozenset(key for key in missing if key[1] in self._entries.get(key[0], {}))
        self._presence = replace(self._presence, missing=left)

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
        if not self._closing:
            self.reconcile()  # what was asked for meanwhile is due now

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
            self._in_use[model, version] = await loop.run_in_executor(self._loads, in_use.hold, directory)
            strictness = self._settings.loading.environment
            for difference in await loop.run_in_executor(self._loads, check_surroundings, entry.manifest, strictness):
                self._log.warning("environment differs", model=model, version=str(version), reason=difference)
            loaded = await loop.run_in_executor(
                self._loads,
                load,
                self._repository,
                Published(entry.manifest, entry.digest),
                settings,
                self._settings.loading.warmup_runs,
                warming,
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
        handle = VersionHandle(entry.manifest, loaded, settings, recorder)
        self._move(
            model, version, LifecycleState.READY, handle=handle, providers=loaded.providers,
            max_batch_rows=loaded.plan.max_rows, batching=loaded.plan.reason, load_seconds=loaded.seconds,
        )  # fmt: skip
        self._log.info(
            "version ready", model=model, version=str(version), seconds=round(loaded.seconds, 3),
            providers=loaded.providers, batching=loaded.plan.reason,
        )  # fmt: skip
        if loaded.warmth.warning:
            self._log.warning("warm-up incomplete", model=model, version=str(version), reason=loaded.warmth.warning)

    async def _unload(self, model: str, version: Version) -> None:
        handle = self._entries[model][version].handle
        self._put(replace(self._entries[model][version], handle=None))
        if handle is not None:
            await handle.close()
        self._let_go(model, version)
        self._metrics.retire(model, str(version))
        self._move(
            model, version, LifecycleState.UNLOADED, providers=(), max_batch_rows=0, batching="", load_seconds=0.0
        )
        self._log.info("version unloaded", model=model, version=str(version))

    def _let_go(self, model: str, version: Version) -> None:
        """Lets a version's files be removed."""
        in_use.let_go(self._in_use.pop((model, version), None))

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
        self._swap()

    def _swap(self) -> None:
        """Makes a new snapshot of what is known, and tells the recorders."""
        models = {}
        for model in sorted(self._entries):
            declared = self._declarations.of(model)
            declarations = replace(declared, tags=self._tags.get(model, declared.tags))
            entries = {
                version: replace(
                    entry, standing=declarations.standing(version), reason=self._reason(model, version, entry)
                )
                for version, entry in sorted(self._entries[model].items(), reverse=True)
            }
            models[model] = ModelEntry(model, entries, declarations)
        self._metrics.known = [
            KnownVersion(m.name, str(e.version), e.digest, str(e.state), load_outcome(e.failure) if e.failure else "")
            for m in models.values()
            for e in m.versions.values()
        ] + [
            KnownVersion(name, str(version), "", str(LifecycleState.FAILED), LoadOutcome.DIGEST_MISMATCH)
            for name, damaged in self._damaged.items()
            for version in damaged.keys() - self._entries.get(name, {}).keys()
        ]
        last = self._catalog.snapshot
        settled = all(e.state.settled for m in models.values() for e in m.versions.values())
        complete = last.complete or (self._begun and settled and not self._presence.fault)
        self._metrics.server.missing_versions = {
            model: sum(self._lost(model, entry) for entry in entries.values())
            for model, entries in self._entries.items()
        }
        lost = {model: Damaged(reasons, self._declarations.of(model)) for model, reasons in self._damaged.items()}
        self._catalog.swap(CatalogSnapshot(models, last.generation + 1, complete, lost))

    def _lost(self, model: str, entry: VersionEntry) -> bool:
        """Tells whether a version is in memory and its files are gone."""
        lost = (model, entry.version) in self._presence.missing and self._presence.reachable(model)
        return lost and entry.state not in _NOT_IN_MEMORY

    def _reason(self, model: str, version: Version, entry: VersionEntry) -> str:
        if not entry.reason and self._lost(model, entry):
            return "its files are gone from the repository; it is served from memory until it is unloaded"
        return entry.reason


def _unexpected(error: Exception) -> ModelFailure:
    failure = ModelFailure(f"it cannot be loaded ({type(error).__name__})")
    failure.__cause__ = error
    return failure
