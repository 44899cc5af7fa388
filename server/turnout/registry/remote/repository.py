"""A repository whose versions live in an object store or a registry, and are brought here as they are needed.

    a publish    blobs, each under its digest -> what is attested -> the manifest, by a write that only the first one
                 may make -> the blobs are looked at once more -> the event in the state store
    a load       listed -> brought into the cache, each file's digest checked on the way -> verified whole -> loaded

What a publish leaves that is killed before its manifest is written are blobs and attestations of no version, which
nobody sees; the next publish of the same content finds its blobs there, and `turnout prune` removes what stays.
"""

import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from semver import Version

from turnout.cancellation import checkpoint
from turnout.errors import AlreadyExistsError, ChangeRefused, DigestMismatch, Exhausted, StoreUnavailable
from turnout.registry.gates.plan import MAX_PLAN_BYTES, PLAN_FILE
from turnout.registry.manifest.digest import Progress, bytes_digest, canonical_bytes, read_canonical
from turnout.registry.manifest.manifest import MANIFEST_FILE, FileEntry
from turnout.registry.manifest.names import check_model_name, differing_in_case
from turnout.registry.remote.cache import Cache
from turnout.registry.remote.index import Index, IndexEntry
from turnout.registry.remote.keys import (
    ATTESTATIONS,
    EvidenceRecordKey,
    ManifestKey,
    PlanKey,
    evidence_record_key,
    manifest_key,
    parse_key,
)
from turnout.registry.remote.store import Document, Store, StoreFault
from turnout.registry.storage.files import explain, walk, write_file
from turnout.registry.storage.listing import CacheUse, Listing, Problem, Published, UnusedFiles
from turnout.registry.storage.repository import MAX_MANIFEST_BYTES, Repository, file_fault, manifest_fault, not_found

MAX_ATTESTATION_BYTES = 4 << 20
MAX_ATTESTATIONS = 256
"""Of one version."""

UNUSED_SECONDS = 86_400.0
"""Blobs that no version uses are garbage from this age on: no publish takes so long."""

_FRESH_SECONDS = 1.0
"""A listing so old is one that was made now."""
_BACKOFF_MOST = 60.0
_SPARED_SECONDS = 600.0
_RECORDING_SECONDS = 60.0
"""What a publisher may take from its manifest to its event, with clocks that differ some."""


class RemoteRepository(Repository):
    """The versions in a store, with their cache on this machine. Safe to use from several threads."""

    def __init__(self, place: str, store: Store, cache: Cache, poll_seconds: float, *, read_only: bool) -> None:
        """Prepares; nothing is asked yet.

        Args:
            place: The URL, for people.
            store: What the versions live in.
            cache: Where they are brought to.
            poll_seconds: How old a listing may be.
            read_only: Nothing is to be written to the store.
        """
        super().__init__(cache.root)
        self._place = place
        self._store = store
        self._cache = cache
        self._poll = poll_seconds
        self._read_only = read_only
        self._index = Index(cache.root)
        self._listing = threading.Lock()  # guards all that follows
        self._entries: Mapping[str, IndexEntry] = {}
        self._faults: dict[str, tuple[str, Problem]] = {}  # by key: the stamp and what is wrong
        self._evidence_records: dict[str, str] = {}  # stamps of what was brought here, by key
        self._found: Listing | None = None
        self._listed_at = float("-inf")
        self._due = float("-inf")
        self._failures = 0
        self._away = ""
        self._missed: frozenset[tuple[str, Version]] = frozenset()
        self._ours: set[str] = set()
        self._fetched = 0

    @property
    def place(self) -> str:
        """The URL."""
        return self._place

    @property
    def remote(self) -> bool:
        """True."""
        return True

    @property
    def cache(self) -> Cache:
        """The files of versions on this machine."""
        return self._cache

    def close(self) -> None:
        """Closes the connections to the store."""
        self._store.close()

    def check_writable(self) -> None:
        """Checks that it is not served read-only, and has the next scan look: a change is to be based on what is."""
        if self._read_only:
            raise ChangeRefused(
                "the repository is served read-only, so that nothing is published to it, signed or removed there:"
                " do so without --read-only"
            )
        self.look_soon()

    # What exists

    def scan(self) -> Listing:
        """Lists the store, if the last time is long enough ago; while it does not answer, what was listed last counts.

        Raises:
            OSError: It does not answer, and never did.
        """
        with self._listing:
            if time.monotonic() >= self._due:
                self._look()
            if self._found is None:
                raise StoreFault(5, f"the store {self._away}")
            return replace(self._found, away=self._away_text()) if self._away else self._found

    def look_soon(self) -> None:  # noqa: D102 - as Repository
        if not self._failures:
            self._due = float("-inf")

    def expect(self, keys: Collection[tuple[str, Version]]) -> None:  # noqa: D102 - as Repository
        known = frozenset((e.published.manifest.model, e.published.manifest.version) for e in self._entries.values())
        missed = frozenset(keys) - known
        if missed - self._missed:
            self.look_soon()
        self._missed = missed

    def numbers(self, model: str) -> list[Version]:  # noqa: D102 - as Repository
        self._look_now(_FRESH_SECONDS)
        keys = [parse_key(key) for key in (*self._entries, *self._faults)]
        return [key.version for key in keys if isinstance(key, ManifestKey) and key.model == check_model_name(model)]

    def check_case(self, model: str) -> None:  # noqa: D102 - as Repository
        self._look_now(_FRESH_SECONDS)
        found = {key.model for key in map(parse_key, (*self._entries, *self._faults)) if isinstance(key, ManifestKey)}
        self.check_names(model, found)

    def find(self, model: str, version: Version) -> Published:  # noqa: D102 - as Repository
        key = manifest_key(check_model_name(model), version)
        for fresh in (False, True):
            if fresh:
                self._look_if_old()
            else:
                self.scan_quietly()
            if (entry := self._entries.get(key)) is not None:
                return entry.published
            if (fault := self._faults.get(key)) is not None:
                raise DigestMismatch(fault[1].reason)
        raise not_found(self.scan(), model, version)

    def scan_quietly(self) -> None:
        """Lists as `scan` does.

        Raises:
            StoreUnavailable: The store does not answer, and never did.
        """
        try:
            self.scan()
        except OSError as error:
            raise StoreUnavailable(f"the model repository {explain(error)}", retry_after=1.0) from error

    def being_published(self, published: Published) -> bool:  # noqa: D102 - as Repository
        key = manifest_key(published.manifest.model, published.manifest.version)
        entry = self._entries.get(key)
        if entry is None or entry.modified is None or key in self._ours:
            return False
        return abs(time.time() - entry.modified) < _RECORDING_SECONDS

    # Its files

    def fetch(self, model: str, version: Version) -> Path:  # noqa: D102 - as Repository
        return self._fetch(self.find(model, version), None)

    def verify(  # noqa: D102 - as Repository
        self, model: str, version: Version, *, expected: str | None = None, progress: Progress | None = None
    ) -> Published:
        published = self.find(model, version)
        if expected is not None and published.digest != expected:
            raise DigestMismatch(
                f"{model} {version}: {MANIFEST_FILE} is not what was published (expected {expected}, got"
                f" {published.digest})"
            )
        directory = self._fetch(published, None)
        faults = {e.path: fault for e in published.manifest.files if (fault := file_fault(directory, e, progress))}
        known = {MANIFEST_FILE, *(entry.path for entry in published.manifest.files)}
        strangers = [found.path for found in walk(directory) if found.path not in known]
        if faults or strangers:
            self._mend(published, directory, faults, strangers)
        return published

    def verify_stored(  # noqa: D102 - as Repository
        self, model: str, version: Version, *, expected: str | None = None, progress: Progress | None = None
    ) -> Published:
        published = self.find(model, version)
        manifest = published.manifest
        faults: list[str] = []
        try:
            data = self._store.current(manifest_key(model, version), MAX_MANIFEST_BYTES)
            if data is None or bytes_digest(data) != (expected or published.digest):
                faults.append(f"{MANIFEST_FILE} is not what was published (expected {expected or published.digest})")
            faults += [f"{e.path} {fault}" for e in manifest.files if (fault := self._stored_fault(e, progress))]
        except OSError as error:
            raise self._unavailable(f"{model} {version} cannot be verified", error) from error
        if faults:
            raise DigestMismatch(f"{model} {version}: {', '.join(faults[:5])}")
        return published

    def _fetch(self, published: Published, progress: Progress | None) -> Path:
        manifest, digest = published.manifest, published.digest
        directory = self.directory(manifest.model, manifest.version)
        if self._cache.has(directory, digest):
            return directory
        try:
            with self._cache.fetching(directory):
                if not self._cache.has(directory, digest):
                    self._cache.put(directory, manifest, canonical_bytes(manifest), self._read, progress)
        except DigestMismatch as error:
            raise DigestMismatch(f"{manifest.model} {manifest.version}: {error.message}") from error
        except OSError as error:
            raise self._unavailable(f"{manifest.model} {manifest.version} cannot be brought here", error) from error
        return directory

    def _mend(
        self, published: Published, directory: Path, faults: Mapping[str, str], strangers: Collection[str]
    ) -> None:
        """Brings files here again that changed in the cache."""
        manifest = published.manifest
        name = f"{manifest.model} {manifest.version}"
        try:
            with self._cache.fetching(directory):
                for path in strangers:
                    (directory / path).unlink(missing_ok=True)
                for entry in manifest.files:
                    if entry.path in faults and file_fault(directory, entry, None):
                        self._cache.mend(directory, entry, self._read)
        except DigestMismatch as error:
            raise DigestMismatch(f"{name}: {error.message}") from error
        except OSError as error:
            raise self._unavailable(f"{name} changed in the cache, and cannot be brought here again", error) from error

    def _read(self, entry: FileEntry) -> Iterator[bytes]:
        found = self._store.stat_blob(entry.digest)
        if found is None:
            raise DigestMismatch(f"{entry.path} is missing where it lives")
        if found.size != entry.size:
            raise DigestMismatch(
                f"{entry.path} is not what was published, where it lives (expected {entry.size} bytes, got"
                f" {found.size})"
            )
        try:
            for block in self._store.read_blob(entry.digest, entry.size):
                self._fetched += len(block)
                yield block
        except FileNotFoundError as error:
            raise DigestMismatch(f"{entry.path} is missing where it lives") from error

    def _stored_fault(self, entry: FileEntry, progress: Progress | None) -> str:
        digest = hashlib.sha256()
        try:
            for block in self._read(entry):
                checkpoint()
                digest.update(block)
                if progress is not None:
                    progress(len(block))
        except DigestMismatch as error:
            return error.message.removeprefix(f"{entry.path} ")
        return "" if f"sha256:{digest.hexdigest()}" == entry.digest else "is not what was published"

    # Changes

    def prepare(self, staged: Path, published: Published) -> Callable[[], bool]:
        """Sends the blobs. The manifest follows under the lock, by a write that fails where there is one."""
        manifest = published.manifest
        model, version = manifest.model, manifest.version
        key = manifest_key(model, version)
        for entry in manifest.files:
            checkpoint()
            self._send(entry, staged, lost_only=False)

        def make_exist() -> bool:
            try:
                self._store.create(key, canonical_bytes(manifest))
            except FileExistsError as error:
                self._check_same(published, error)
                return False
            self._ours.add(key)
            self.look_soon()
            with suppress(OSError, Exhausted):  # it exists: what fails from here on undoes nothing
                for entry in manifest.files:  # one that was about to be removed as unused is used from now on
                    self._send(entry, staged, lost_only=True)
                self._cache.adopt(staged, self.directory(model, version), manifest)
            return True

        return make_exist

    def withdraw(self, model: str, version: Version) -> None:  # noqa: D102 - as Repository
        self._store.delete(manifest_key(model, version))
        self.look_soon()

    def put_evidence_record(self, model: str, version: Version, name: str, data: bytes, *, new: bool) -> None:  # noqa: D102
        key = evidence_record_key(model, version, name)
        (self._store.create if new else self._store.replace)(key, data)
        self.look_soon()

    def delete_evidence_record(self, model: str, version: Version, name: str) -> None:  # noqa: D102 - as Repository
        self._store.delete(evidence_record_key(model, version, name))

    def refresh_evidence_records(self) -> None:  # noqa: D102 - as Repository
        self.scan()

    def cache_use(self) -> CacheUse:  # noqa: D102 - as Repository
        return CacheUse(self._cache.used_bytes, self._fetched)

    def unused_files(self) -> UnusedFiles:  # noqa: D102 - as Repository
        try:
            blobs = self._store.blobs()
            if blobs is None:
                return UnusedFiles()
            self._look_now()  # after the blobs: what a publish has made a version meanwhile is used
            if self._faults:
                return UnusedFiles()  # what a manifest uses that cannot be read, nobody knows
            used = {file.digest for e in self._entries.values() for file in e.published.manifest.files}
            before = time.time() - UNUSED_SECONDS
            unused = [blob for blob in blobs if blob.digest not in used and blob.modified < before]
        except OSError as error:
            raise self._unavailable("unused files cannot be listed", error) from error
        return UnusedFiles(tuple(blob.digest for blob in unused), sum(blob.size for blob in unused))

    def remove_unused(self, unused: UnusedFiles) -> int:  # noqa: D102 - as Repository
        self.check_writable()
        freed, before = 0, time.time() - UNUSED_SECONDS
        try:
            for digest in unused.digests:
                blob = self._store.stat_blob(digest)
                if blob is not None and blob.modified < before:  # else a publish has just sent it again
                    self._store.delete_blob(digest)
                    freed += blob.size
        except OSError as error:
            raise self._unavailable("unused files cannot be removed", error) from error
        return freed

    def _send(self, entry: FileEntry, staged: Path, *, lost_only: bool) -> None:
        """Sends a file that is not there, or so old that it may be collected in this moment."""
        found = self._store.stat_blob(entry.digest)
        there = found is not None and found.size == entry.size
        if found is not None and there and (lost_only or time.time() - found.modified < UNUSED_SECONDS / 2):
            return
        self._store.put_blob(entry.digest, staged / entry.path)

    def _check_same(self, published: Published, error: OSError) -> None:
        """Checks that the version that came to exist first is the very same.

        Raises:
            AlreadyExistsError: It is not; the message says which one it is.
        """
        manifest = published.manifest
        data = self._store.current(manifest_key(manifest.model, manifest.version), MAX_MANIFEST_BYTES)
        won = "one that is gone again" if data is None else bytes_digest(data)
        if won != published.digest:
            raise AlreadyExistsError(
                f"{manifest.model} {manifest.version} was published by somebody else in this moment: it exists with"
                f" other content, published {won}, offered {published.digest}"
            ) from error
        self.look_soon()

    # Looking

    def _look_now(self, age: float = 0.0) -> None:
        """Lists the store, if the last time is more than `age` seconds ago.

        Raises:
            OSError: It does not answer.
        """
        with self._listing:
            if self._failures or time.monotonic() - self._listed_at >= age or self._due == float("-inf"):
                self._look()
            if self._away:
                raise StoreFault(5, f"the store {self._away}")

    def _look_if_old(self) -> None:
        with self._listing:
            if not self._failures and time.monotonic() - self._listed_at > _FRESH_SECONDS:
                self._look()

    def _look(self) -> None:
        """Lists the store. Where that fails, what was listed last stays, if need be by another process."""
        try:
            self._take_in({document.key: document for document in self._store.documents()})
        except OSError as error:
            self._away = error.strerror or f"cannot be read ({type(error).__name__})"
            self._failures += 1
            seconds = min(self._poll * 2 ** min(self._failures - 1, 10), max(_BACKOFF_MOST, self._poll))
            # Servers that lost a store together do not come back to it together.
            self._due = time.monotonic() + seconds * random.uniform(0.8, 1.2)  # noqa: S311
            if self._found is None and (kept := self._index.load()):
                self._entries = kept
                self._found = self._make_listing()
            return
        self._away, self._failures = "", 0
        self._listed_at = time.monotonic()
        self._due = self._listed_at + self._poll

    def _take_in(self, documents: Mapping[str, Document]) -> None:
        entries: dict[str, IndexEntry] = {}
        faults: dict[str, tuple[str, Problem]] = {}
        known = self._entries or self._index.load() or {}
        beside: dict[tuple[str, Version], list[Document]] = {}
        for text, document in documents.items():
            match parse_key(text):
                case ManifestKey() as key:
                    self._take_manifest(key, document, known, entries, faults)
                case EvidenceRecordKey() as key:
                    beside.setdefault((key.model, key.version), []).append(document)
                case PlanKey(model):
                    self._take_file(document, self.root / model / PLAN_FILE, MAX_PLAN_BYTES)
                case _:
                    pass
        for found in beside.values():
            for document in sorted(found, key=lambda one: one.key)[:MAX_ATTESTATIONS]:
                model, _, version, file = document.key.split("/")
                target = self.root / model / ATTESTATIONS / version / file
                self._take_file(document, target, MAX_ATTESTATION_BYTES)
        self._drop_files(documents)
        changed = entries.keys() != self._entries.keys() or any(entries[k] is not self._entries[k] for k in entries)
        self._entries, self._faults = entries, faults
        if changed or self._found is None:
            with suppress(OSError):  # a cache that is full keeps nobody from serving what is in memory
                for text, entry in entries.items():
                    if entry is not known.get(text):
                        self._index.keep(canonical_bytes(entry.published.manifest), entry.published.digest)
                self._index.save(entries)
        self._found = self._make_listing()

    def _take_manifest(
        self,
        key: ManifestKey,
        document: Document,
        known: Mapping[str, IndexEntry],
        entries: dict[str, IndexEntry],
        faults: dict[str, tuple[str, Problem]],
    ) -> None:
        text = document.key
        if (before := known.get(text)) is not None and before.stamp == document.stamp:
            entries[text] = before
            return
        if (fault := self._faults.get(text)) is not None and fault[0] == document.stamp:
            faults[text] = fault
            return
        try:
            published = self._read_manifest(key, document)
        except FileNotFoundError:  # removed since it was listed
            return
        except ValueError as error:
            reason = f"{key.model} {key.version}: {manifest_fault(error)}"
            faults[text] = document.stamp, Problem(key.model, str(key.version), reason, damaged=True)
        else:
            # The same object where the same version was written again, which nothing needs to notice.
            same = before is not None and before.published.digest == published.digest
            published = before.published if before is not None and same else published
            entries[text] = IndexEntry(document.stamp, document.modified, published)

    def _read_manifest(self, key: ManifestKey, document: Document) -> Published:
        data = self._store.read(document, MAX_MANIFEST_BYTES)
        if len(data) > MAX_MANIFEST_BYTES:
            raise ValueError(f"is larger than {MAX_MANIFEST_BYTES} bytes")
        published = Published(read_canonical(data), bytes_digest(data))
        manifest = published.manifest
        if (manifest.model, str(manifest.version)) != (key.model, str(key.version)):
            raise ValueError(f"is that of {manifest.model} {manifest.version}")
        return published

    def _take_file(self, document: Document, target: Path, most: int) -> None:
        """Brings a small document here, if it changed; one that is too large is left where it is."""
        if self._evidence_records.get(document.key) == document.stamp and target.exists():
            return
        if document.size > most:
            return
        try:
            data = self._store.read(document, most)
        except FileNotFoundError:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.parent / f".{os.getpid()}-{threading.get_ident()}-{target.name}"
        fresh.unlink(missing_ok=True)
        try:
            write_file(fresh, data)
            os.replace(fresh, target)
        finally:
            fresh.unlink(missing_ok=True)
        self._evidence_records[document.key] = document.stamp

    def _drop_files(self, documents: Mapping[str, Document]) -> None:
        """Removes here what was removed where it lives, and spares what another process may have just written."""
        before = time.time() - _SPARED_SECONDS
        for pattern in (PLAN_FILE, f"*/{PLAN_FILE}", f"*/{ATTESTATIONS}/*/*"):
            for file in self.root.glob(pattern):
                if (key := str(file.relative_to(self.root))) in documents:
                    continue
                with suppress(FileNotFoundError):
                    if self._evidence_records.pop(key, None) or file.stat().st_mtime < before:
                        file.unlink()

    def _make_listing(self) -> Listing:
        twice = differing_in_case({e.published.manifest.model for e in self._entries.values()})
        published: dict[tuple[str, Version], Published] = {}
        problems = {f"{p.model} {p.version}": p for _, p in self._faults.values()}
        for _, entry in sorted(self._entries.items()):
            model, version = entry.published.manifest.model, entry.published.manifest.version
            if (alike := published.get((model, version))) is not None:
                # No write of one name keeps another name from being written in the same moment.
                reason = (
                    f"{model} {version} differs from {alike.manifest.version} in build metadata alone, and is not"
                    " served: remove one"
                )
                problems[f"{model} {version}"] = Problem(model, str(version), reason, unserved=True)
            elif (other := twice.get(model)) is not None:
                problems[model] = Problem(model, "", f"{model!r} differs from {other!r} in case only: remove one")
            else:
                published[model, version] = entry.published
        ordered = tuple(sorted(problems.values(), key=lambda p: (p.model, p.version)))
        # Whoever looks for changes compares by identity; `_sorted` returns the same tuple where nothing changed.
        return Listing(self._sorted(list(published.values())), ordered)

    def _away_text(self) -> str:
        if self._listed_at == float("-inf"):
            return f"{self._away}; what an earlier process listed counts, and what is in the cache can be loaded"
        return f"{self._away}; what was listed before counts, and what is in the cache can be loaded"

    def _unavailable(self, what: str, error: OSError) -> Exception:
        if error.errno in (28, 122):  # no space left, quota exceeded: by this machine's disk alone
            return Exhausted(f"{what}: the cache's disk is full")
        why = error.strerror or type(error).__name__
        where = "the store" if isinstance(error, StoreFault) else "the cache cannot be used:"
        return StoreUnavailable(f"{what}: {where} {why}", retry_after=5.0)
