"""The server's knowledge of versions: files, releases, states. The only writer of the catalog.

The manager acts on it. Nothing here loads, waits or reads a file.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from semver import Version
from structlog.typing import FilteringBoundLogger

from turnout.errors import DigestMismatch, NoRoom, NotTrusted, RoomInUse, StoreUnavailable
from turnout.registry.manifest.versions import highest_first, known_version
from turnout.registry.storage.files import explain
from turnout.registry.storage.listing import Listing
from turnout.serving.versions.availability import Availability, Dependency
from turnout.serving.versions.catalog import Catalog, CatalogSnapshot, Damaged, ModelEntry, VersionEntry
from turnout.serving.versions.handle import VersionHandle
from turnout.serving.versions.lifecycle import LifecycleState, step
from turnout.serving.versions.load_outcomes import load_outcome
from turnout.serving.versions.load_policy import CurrentServing, tags_in_force
from turnout.serving.versions.presence import Key, RepositoryPresence, look, unreadable
from turnout.state.release_status import ModelReleaseState, ReleaseState, ReleaseStatus
from turnout.telemetry.metrics.server import LoadOutcome
from turnout.telemetry.metrics.versions import KnownVersion

_NAMED = 10
"""Maximum number of reasons reported if nothing is served."""

_FETCH_AGAIN_SECONDS = 5.0
"""Interval in seconds after which files that could not be fetched are fetched again."""

_ON_DEMAND_RETRY_SECONDS = 30.0
"""Seconds after which a version that failed to load on demand may be tried again for another request; doubled with each
consecutive failure of a load. A version that did not fit was not loaded, and its request was told when to come back."""

_LONGEST_ON_DEMAND_RETRY_SECONDS = 3600.0

ON_DEMAND = "not in memory: the first request for it loads it"

_COLD = {LifecycleState.NEW, LifecycleState.UNLOADED}
_NOT_IN_MEMORY = _COLD | {LifecycleState.FAILED}


class Inventory:
    """The versions of one server. Used on the event loop only.

    Changes are recorded at once and become visible with `swap`, which makes the next snapshot of the catalog.
    """

    def __init__(self, catalog: Catalog, availability: Availability, log: FilteringBoundLogger) -> None:
        self._catalog = catalog
        self._availability = availability
        self._log = log
        self._entries: dict[str, dict[Version, VersionEntry]] = {}  # the highest version first
        self._stale: set[str] = set()  # models whose part of the catalog is older than `_entries`
        self._layouts: dict[str, object] = {}
        self._moving: set[tuple[str, Version]] = set()
        self._known: dict[ModelEntry, tuple[KnownVersion, ...]] = {}
        self._release_state = ReleaseState()
        self._tags: dict[str, dict[str, Version]] = {}
        self._presence = RepositoryPresence()
        self._present_at = 0.0
        self._failed_at: dict[tuple[str, Version], float] = {}
        self._failures: dict[tuple[str, Version], int] = {}
        self._damaged: dict[str, dict[Version, str]] = {}
        self._left: tuple[str, ...] = ()  # problems of directories that could be served but are not valid versions
        self._begun = False

    @property
    def revision(self) -> int:
        """Revision of the release state in force."""
        return self._release_state.revision

    @property
    def presence(self) -> RepositoryPresence:
        """State of the repository at the latest scan."""
        return self._presence

    @property
    def models(self) -> Collection[str]:
        """Names of the models."""
        return list(self._entries)

    def versions(self, model: str) -> Mapping[Version, VersionEntry]:
        """Returns a model's versions, highest first; empty if the model is unknown."""
        return self._entries.get(model, {})

    def entry(self, model: str, version: Version) -> VersionEntry:
        """Returns the entry of a known version."""
        return self._entries[model][version]

    def handles(self) -> Iterator[VersionHandle]:
        """Yields the handles of all versions in memory."""
        for entries in self._entries.values():
            for entry in entries.values():
                if entry.handle is not None:
                    yield entry.handle

    def model_releases(self, model: str) -> ModelReleaseState:
        """Returns the release state of a model."""
        return self._release_state.of(model)

    def loaded(self, model: str) -> CurrentServing:
        """Returns how a model is served now."""
        states = {version: entry.state for version, entry in self._entries[model].items()}
        return CurrentServing(states, self._tags.get(model, {}))

    def update_release_state(self, release_state: ReleaseState) -> None:
        """Records the release state, updating only models for which it changed."""
        before, self._release_state = self._release_state, release_state
        for model, entries in self._entries.items():
            model_releases = release_state.of(model)
            if model_releases != before.of(model):
                self._lay_out(model)
                for version, entry in entries.items():
                    if (release_status := model_releases.release_status(version)) is not entry.release_status:
                        entries[version] = replace(entry, release_status=release_status)

    def follow_tags(self, model: str, coming: Collection[Version]) -> None:
        """Makes each tag name its declared version. Arguments as in `load_policy.tags_in_force`."""
        before = self._tags.get(model, {})
        self._tags[model] = tags_in_force(self._release_state.of(model).tags, self.loaded(model), coming)
        if self._tags[model] != before:
            self._lay_out(model)

    def tags_moved(self, model: str) -> bool:
        """Returns whether a tag is declared for another version than the one that it resolves to."""
        return self._release_state.of(model).tags != self._tags.get(model, {})

    def reconcile(self, listing: Listing | OSError, recorded: Collection[Key], now: float) -> None:
        """Records which versions exist on disk. The entry of a version in memory is kept.

        `recorded` is what `recorded` returned before the listing was made.
        """
        known = [(model, version) for model, entries in self._entries.items() for version in entries]
        before = self._presence
        if isinstance(listing, OSError):
            self._presence = unreadable(explain(listing), known)
        else:
            self._presence = look(listing, known, recorded)
        self._report_presence(before)
        if isinstance(listing, OSError) or self._presence.fault:
            return
        since = self._present_at
        if self._presence.available:
            self._present_at = now
        self._damaged = {}
        self._left = tuple(p.reason for p in listing.problems if p.unserved or p.damaged)
        for problem in listing.problems:
            if problem.damaged:
                self._damaged.setdefault(problem.model, {})[known_version(problem.version)] = problem.reason
        grown: set[str] = set()
        for item in listing.published:
            model, version = item.manifest.model, item.manifest.version
            entries = self._entries.setdefault(model, {})
            entry = entries.get(version)
            changed = entry is not None and entry.digest != item.digest and entry.state in _NOT_IN_MEMORY
            failed_at = self._failed_at.get((model, version), -1.0)
            again = not before.reachable(model) and failed_at >= since
            # Fetching files may fail although the repository can be listed, so it is retried periodically.
            brought = entry is not None and isinstance(entry.failure, StoreUnavailable) and not self._presence.away
            again = again or (brought and now >= failed_at + _FETCH_AGAIN_SECONDS)
            again = again or (entry is not None and self._may_be_tried_again(entry, now))
            if entry is None or changed or (again and entry.state is LifecycleState.FAILED):
                release_status = self._release_state.of(model).release_status(version)
                entries[version] = VersionEntry(item.manifest, item.digest, release_status, LifecycleState.NEW)
                grown.add(model)
        for model in grown:
            entries = self._entries[model]
            self._entries[model] = {version: entries[version] for version in highest_first(entries)}
            self._lay_out(model)

    def _may_be_tried_again(self, entry: VersionEntry, now: float) -> bool:
        """Returns whether a version that failed to load may be tried again.

        A version that is loaded on demand is tried again for another request, except after wrong bytes or signatures,
        which are permanent failures. Others are tried again only if the versions in their way were in use.
        """
        permanent = isinstance(entry.failure, DigestMismatch | NotTrusted)
        if entry.failure is None or permanent or not (entry.on_demand or isinstance(entry.failure, RoomInUse)):
            return False
        key = entry.model, entry.version
        pause = _ON_DEMAND_RETRY_SECONDS * 2.0 ** min(max(self._failures.get(key, 0) - 1, 0), 10)
        return now >= self._failed_at.get(key, 0.0) + min(pause, _LONGEST_ON_DEMAND_RETRY_SECONDS)

    def mark_on_demand(self, model: str, versions: Collection[Version], awaited: Collection[Version]) -> None:
        """Records which versions of a model are loaded on demand only, and for which of them requests wait."""
        entries = self._entries[model]
        for version, entry in entries.items():
            optional = version in versions
            cold = optional and entry.state in _COLD
            reason = (entry.reason or ON_DEMAND) if cold else "" if entry.reason == ON_DEMAND else entry.reason
            waits = version in awaited
            if (optional, waits, reason) != (entry.on_demand, entry.awaited, entry.reason):
                entries[version] = replace(entry, on_demand=optional, awaited=waits, reason=reason)
                self._stale.add(model)

    def begin(self) -> None:
        """Records that versions and release state have been read; the catalog is complete once all loads have ended."""
        self._begun = True

    def refused(self, release_state: ReleaseState) -> tuple[Sequence[VersionEntry], Sequence[VersionEntry]]:
        """Returns versions that could not be loaded and may be acceptable under a new release state.

        These are versions without a trusted signature, and versions whose recorded digest has changed.
        """
        failed = [e for entries in self._entries.values() for e in entries.values() if e.failure is not None]
        unsigned = [entry for entry in failed if isinstance(entry.failure, NotTrusted)]
        recorded = [
            entry
            for entry in failed
            if isinstance(entry.failure, DigestMismatch)
            and self._release_state.of(entry.model).digests.get(entry.version)
            != release_state.of(entry.model).digests.get(entry.version)
        ]
        return unsigned, recorded

    def renew(self, entry: VersionEntry) -> None:
        """Makes a version that could not be loaded New again, if its entry has not changed."""
        if self._entries.get(entry.model, {}).get(entry.version) is entry:
            fresh = VersionEntry(entry.manifest, entry.digest, entry.release_status, LifecycleState.NEW)
            self._entries[entry.model][entry.version] = fresh
            self._stale.add(entry.model)

    def drop_gone(self, model: str) -> Sequence[Version]:
        """Forgets a model's versions that are neither on disk nor in memory; returns them."""
        if not self._presence.reachable(model):
            return ()
        entries, missing = self._entries[model], self._presence.missing
        gone = [v for v, entry in entries.items() if entry.state in _NOT_IN_MEMORY and (model, v) in missing]
        for version in gone:
            del entries[version]
        if gone:
            self._presence = replace(self._presence, missing=missing - {(model, version) for version in gone})
            self._lay_out(model)
        if not entries:
            del self._entries[model]
            self._tags.pop(model, None)
        return gone

    def move(self, model: str, version: Version, state: LifecycleState, **changes: Any) -> None:
        """Moves a version along its lifecycle, with further changes to its entry, and makes that visible."""
        entry = self._entries[model][version]
        if state is LifecycleState.READY:
            self._failures.pop((model, version), None)
        if state is LifecycleState.UNLOADED:  # nothing describes a load any more
            entry = VersionEntry(
                entry.manifest, entry.digest, entry.release_status, entry.state,
                on_demand=entry.on_demand, awaited=entry.awaited,
            )  # fmt: skip
        cleared: Mapping[str, Any] = {"reason": "", "failure": None} | changes
        self.put(replace(entry, state=step(entry.state, state), **cleared))

    def fail(self, entry: VersionEntry, failure: Any, now: float) -> None:
        """Records that a version could not be loaded and makes that visible."""
        key = entry.model, entry.version
        self._failed_at[key] = now
        if not isinstance(failure, NoRoom):
            self._failures[key] = self._failures.get(key, 0) + 1
        self.move(entry.model, entry.version, LifecycleState.FAILED, reason=failure.message, failure=failure)

    def put(self, entry: VersionEntry) -> None:
        """Replaces the entry of a version and makes that visible."""
        self._entries[entry.model][entry.version] = entry
        self._stale.add(entry.model)
        (self._moving.discard if entry.state.settled else self._moving.add)((entry.model, entry.version))
        self.swap()

    def swap(self) -> None:
        """Makes a new snapshot if anything changed. Models that did not change are the same objects in both."""
        last = self._catalog.snapshot
        complete = last.complete or (self._begun and not self._moving and not self._presence.fault)
        if complete:
            self._availability.report_unserved(self._unserved())
        damaged = {model: Damaged(reasons, self._release_state.of(model)) for model, reasons in self._damaged.items()}
        if not self._stale and complete == last.complete and damaged == last.damaged:
            return
        models = dict(last.models)
        for model in self._stale:
            if entries := self._entries.get(model):
                release_state = self._release_state.of(model)
                model_releases = replace(release_state, tags=self._tags.get(model, release_state.tags))
                lost = any(name == model for name, _ in self._presence.missing)  # avoids a check of every version
                listed = {v: self._catalog_entry(entry) for v, entry in entries.items()} if lost else dict(entries)
                models[model] = ModelEntry(model, listed, model_releases, self._layouts[model])
            else:
                models.pop(model, None)
        self._stale.clear()
        if models.keys() != last.models.keys():
            models = {name: models[name] for name in sorted(models)}
        self._catalog.swap(CatalogSnapshot(models, last.generation + 1, complete, damaged))

    def _unserved(self) -> Sequence[str]:
        """Returns what should be served, and why it is not, if nothing is served."""
        entries = [entry for entries in self._entries.values() for entry in entries.values()]
        if any(entry.handle is not None or not entry.state.settled for entry in entries):
            return ()
        if any(entry.on_demand and entry.state is not LifecycleState.FAILED for entry in entries):
            return ()  # a request would be answered
        failed = [f"{e.model} {e.version} failed: {e.reason}" for e in entries if e.state is LifecycleState.FAILED]
        return [*failed, *self._left][:_NAMED]

    def known(self) -> Sequence[KnownVersion]:
        """Returns every version as shown in metrics."""
        models = self._catalog.snapshot.models.values()
        # Converting ten thousand versions takes 10 ms, and few models change between two scrapes.
        self._known = {
            model: self._known[model] if model in self._known else tuple(map(_known_version, model.versions.values()))
            for model in models
        }
        known = [version for versions in self._known.values() for version in versions]
        damaged = [
            KnownVersion(name, str(version), "", str(LifecycleState.FAILED), LoadOutcome.DIGEST_MISMATCH)
            for name, reasons in self._damaged.items()
            for version in reasons.keys() - self._entries.get(name, {}).keys()
        ]
        return known + damaged

    def lost(self) -> Mapping[str, int]:
        """Returns, by model, the number of versions in memory whose files are gone."""
        return {model: sum(map(self._lost, entries.values())) for model, entries in self._entries.items()}

    def _lay_out(self, model: str) -> None:
        """Records a change of a model that goes beyond the states of its versions."""
        self._stale.add(model)
        self._layouts[model] = object()

    def recorded(self) -> list[tuple[str, Version]]:
        """Returns the versions that should be in the repository according to the state store."""
        return [
            (model, version)
            for model, model_releases in self._release_state.models.items()
            for version in model_releases.digests
            if model_releases.release_status(version) is not ReleaseStatus.YANKED
        ]

    def _report_presence(self, before: RepositoryPresence) -> None:
        now = self._presence
        self._stale |= {model for model, _ in now.missing ^ before.missing}
        self._availability.report(Dependency.REPOSITORY, "; ".join(now.reasons))
        if now.available:
            for model, version in sorted(now.missing - before.missing):
                if self._entries[model][version].state not in _NOT_IN_MEMORY:
                    self._log.error(
                        "a loaded version is gone from the repository; it is served from memory until it is unloaded",
                        model=model, version=str(version),
                    )  # fmt: skip

    def _lost(self, entry: VersionEntry) -> bool:
        """Returns whether a version is in memory although its files are gone."""
        lost = (entry.model, entry.version) in self._presence.missing and self._presence.reachable(entry.model)
        return lost and entry.state not in _NOT_IN_MEMORY

    def _catalog_entry(self, entry: VersionEntry) -> VersionEntry:
        """Returns an entry as shown in the catalog, with a note if its files are gone."""
        if entry.reason or not self._lost(entry):
            return entry
        return replace(
            entry, reason="its files are gone from the repository; it is served from memory until it is unloaded"
        )


def _known_version(entry: VersionEntry) -> KnownVersion:
    failure = load_outcome(entry.failure) if entry.failure else ""
    return KnownVersion(entry.model, entry.version_text, entry.digest, str(entry.state), failure)
