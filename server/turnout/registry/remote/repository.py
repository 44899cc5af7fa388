"""A repository whose versions are in an object store or a registry, and are fetched when they are needed.

    a publish    blobs, each under its digest -> attestations -> the manifest, by a write that only one publisher can
                 make -> the blobs are checked once more -> the event in the state store
    a load       listed -> fetched into the cache, with each file's digest checked -> verified as a whole -> loaded

A publish that is killed before it writes the manifest leaves blobs and attestations that belong to no version, and are
not visible. The next publish of the same content reuses the blobs, and `turnout prune` removes the rest.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from semver import Version

from turnout.cancellation import checkpoint
from turnout.config import RepositorySettings, RepositoryUrl
from turnout.errors import AlreadyExistsError, ChangeRefused, DigestMismatch, Exhausted, StoreUnavailable
from turnout.registry.manifest.digest import Progress, blocks_digest, bytes_digest, canonical_bytes
from turnout.registry.manifest.manifest import MANIFEST_FILE, FileEntry
from turnout.registry.manifest.names import check_model_name
from turnout.registry.remote.cache import Cache, default_home
from turnout.registry.remote.keys import evidence_record_key, manifest_key
from turnout.registry.remote.listing import FRESH_SECONDS, RemoteListing
from turnout.registry.remote.objects import ObjectStore
from turnout.registry.remote.store import Store
from turnout.registry.storage.faults import StoreFault
from turnout.registry.storage.files import NO_ROOM, explain
from turnout.registry.storage.listing import CacheUse, Listing, Published, UnusedFiles
from turnout.registry.storage.manifests import MAX_MANIFEST_BYTES, file_fault
from turnout.registry.storage.repository import Repository, not_found, refuse_faults, refuse_other_case

UNUSED_SECONDS = 86_400.0
"""Age in seconds from which unused blobs are garbage: no publish takes that long."""

_FETCHES = 5
"""Number of attempts to verify a version that other processes remove from the cache at the same time."""

_RECORDING_SECONDS = 60.0
"""Maximum time in seconds between a publisher's manifest and its event, including differences between clocks."""


class RemoteRepository(Repository):
    """The versions in a store, with a cache on this machine. Thread-safe."""

    remote = True

    def __init__(self, place: str, store: Store, cache: Cache, poll_seconds: float, *, read_only: bool) -> None:
        """Creates the repository without sending a request. `place` is the URL to display."""
        super().__init__(cache.root)
        self.place = place
        self.cache = cache
        self._store = store
        self._read_only = read_only
        self._listing = RemoteListing(cache.root, store, poll_seconds)
        self._ours: set[str] = set()
        self._fetched = 0

    def close(self) -> None:
        """Closes the connections to the store."""
        self._store.close()

    def check_writable(self) -> None:
        """Checks that the repository is not served read-only. Makes the next scan list the store, so that the change
        is based on its current contents.
        """
        if self._read_only:
            raise ChangeRefused(
                "the repository is served read-only, so nothing can be published to it, signed or removed: do so"
                " without --read-only"
            )
        self.look_soon()

    # Listing

    def scan(self) -> Listing:  # noqa: D102 - as RemoteListing
        return self._listing.scan()

    def look_soon(self) -> None:  # noqa: D102 - as Repository
        self._listing.look_soon()

    def expect(self, keys: Collection[tuple[str, Version]]) -> None:  # noqa: D102 - as Repository
        self._listing.expect(keys)

    def numbers(self, model: str) -> list[Version]:  # noqa: D102 - as Repository
        check_model_name(model)
        self._listing.look_now(FRESH_SECONDS)
        keys = self._listing.keys
        refuse_other_case(model, {key.model for key in keys})
        return [key.version for key in keys if key.model == model]

    def find(self, model: str, version: Version) -> Published:
        """Finds a version. If it is not in the last listing, the store is asked again.

        Raises:
            StoreUnavailable: The store does not answer, and there is no earlier listing.
            TurnoutError: As in `Repository`.
        """
        key = manifest_key(check_model_name(model), version)
        try:
            self.scan()
        except OSError as error:
            raise StoreUnavailable(f"the model repository {explain(error)}", retry_after=1.0) from error
        for listed in (True, False):
            if not listed:
                self._listing.look_for(key)
            if (entry := self._listing.entry(key)) is not None:
                return entry.published
            if fault := self._listing.fault(key):
                raise DigestMismatch(fault)
        raise not_found(self.scan(), model, version)

    def being_published(self, published: Published) -> bool:  # noqa: D102 - as Repository
        key = manifest_key(published.manifest.model, published.manifest.version)
        entry = self._listing.entry(key)
        if entry is None or entry.modified is None or key in self._ours:
            return False
        return abs(time.time() - entry.modified) < _RECORDING_SECONDS

    # Files

    def fetch(self, model: str, version: Version) -> Path:  # noqa: D102 - as Repository
        return self._fetch(self.find(model, version))

    def verify(  # noqa: D102 - as Repository
        self, model: str, version: Version, *, expected: str | None = None, progress: Progress | None = None
    ) -> Published:
        published = self.find(model, version)
        if expected is not None and published.digest != expected:
            changed = f"{MANIFEST_FILE} is not what was published (expected {expected}, got {published.digest})"
            refuse_faults(model, version, [changed])
        for _ in range(_FETCHES):
            directory = self._fetch(published)
            faults = {e.path: fault for e in published.manifest.files if (fault := file_fault(directory, e, progress))}
            try:
                strangers = self._strangers(published)
            except FileNotFoundError:  # another process made room in the cache at the same time
                continue
            if faults or strangers:
                self._mend(published, directory, faults, strangers)
            return published
        raise StoreUnavailable(f"{model} {version} leaves the cache before it is verified", retry_after=1.0)

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
        refuse_faults(model, version, faults)
        return published

    def _fetch(self, published: Published) -> Path:
        manifest = published.manifest
        directory = self.directory(manifest.model, manifest.version)
        if not self.cache.has(directory, published.digest):
            with self._fetching(published, directory, "cannot be fetched"):
                if not self.cache.has(directory, published.digest):
                    self.cache.put(directory, manifest, canonical_bytes(manifest), self._read)
        return directory

    def _mend(
        self, published: Published, directory: Path, faults: Mapping[str, str], strangers: Collection[str]
    ) -> None:
        """Fetches files again that have changed in the cache."""
        with self._fetching(published, directory, "changed in the cache, and cannot be fetched again"):
            for path in strangers:
                (directory / path).unlink(missing_ok=True)
            for entry in published.manifest.files:
                if entry.path in faults and file_fault(directory, entry, None):
                    self.cache.repair(directory, entry, self._read)

    @contextmanager
    def _fetching(self, published: Published, directory: Path, failure: str) -> Iterator[None]:
        """Holds the lock for fetching a version. Errors say which version it is, and that it `failure`."""
        name = f"{published.manifest.model} {published.manifest.version}"
        try:
            with self.cache.fetching(directory):
                yield
        except DigestMismatch as error:
            raise DigestMismatch(f"{name}: {error.message}") from error
        except OSError as error:
            raise self._unavailable(f"{name} {failure}", error) from error

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
        try:
            digest = blocks_digest(self._read(entry), progress=progress)
        except DigestMismatch as error:
            return error.message.removeprefix(f"{entry.path} ")
        return "" if digest == entry.digest else "is not what was published"

    # Changes

    def prepare(self, staged: Path, published: Published) -> Callable[[], None]:
        """Uploads the blobs. The manifest follows under the lock, by a write that fails if it already exists."""
        manifest = published.manifest
        model, version = manifest.model, manifest.version
        key = manifest_key(model, version)
        for entry in manifest.files:
            checkpoint()
            self._send(entry, staged, lost_only=False)

        def make_exist() -> None:
            try:
                self._store.create(key, canonical_bytes(manifest))
            except FileExistsError as error:  # if it is the same, perhaps only the answer to the write was lost
                self._check_same(published, error)
            self._ours.add(key)
            self.look_soon()
            with suppress(OSError, Exhausted):  # the version exists, even if this fails
                for entry in manifest.files:  # a blob may have been removed as unused just before it was used
                    self._send(entry, staged, lost_only=True)
                self.cache.adopt(staged, self.directory(model, version), manifest)

        return make_exist

    def withdraw(self, model: str, version: Version) -> None:  # noqa: D102 - as Repository
        self._store.delete(manifest_key(model, version))
        self.look_soon()

    def put_evidence_record(self, model: str, version: Version, name: str, data: bytes, *, new: bool) -> None:  # noqa: D102
        key = evidence_record_key(model, version, name)
        try:
            (self._store.create if new else self._store.replace)(key, data)
        except FileExistsError:
            if self._store.current(key, len(data)) != data:  # else only the answer to the write was lost
                raise
        self.look_soon()

    def delete_evidence_record(self, model: str, version: Version, name: str) -> None:  # noqa: D102 - as Repository
        self._store.delete(evidence_record_key(model, version, name))

    def refresh_evidence_records(self) -> None:  # noqa: D102 - as Repository
        self.scan()

    def cache_use(self) -> CacheUse:  # noqa: D102 - as Repository
        return CacheUse(self.cache.used_bytes, self._fetched)

    def unused_files(self) -> UnusedFiles:  # noqa: D102 - as Repository
        try:
            blobs = self._store.blobs()
            if blobs is None:
                return UnusedFiles()
            self._listing.look_now()  # after listing the blobs, so that those of new versions count as used
            if (used := self._listing.used_digests()) is None:
                return UnusedFiles()
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
                if blob is not None and blob.modified < before:  # else a publish has just uploaded it again
                    self._store.delete_blob(digest)
                    freed += blob.size
        except OSError as error:
            raise self._unavailable("unused files cannot be removed", error) from error
        return freed

    def _send(self, entry: FileEntry, staged: Path, *, lost_only: bool) -> None:
        """Uploads a file if it is missing, or if it is so old that it might be collected right now."""
        found = self._store.stat_blob(entry.digest)
        there = found is not None and found.size == entry.size
        if found is not None and there and (lost_only or time.time() - found.modified < UNUSED_SECONDS / 2):
            return
        self._store.put_blob(entry.digest, staged / entry.path)

    def _check_same(self, published: Published, error: OSError) -> None:
        """Checks that the version that was committed first is the same. Otherwise, the error says which it is."""
        manifest = published.manifest
        data = self._store.current(manifest_key(manifest.model, manifest.version), MAX_MANIFEST_BYTES)
        won = "a version that was removed again" if data is None else bytes_digest(data)
        if won != published.digest:
            raise AlreadyExistsError(
                f"{manifest.model} {manifest.version} was published by another publisher at the same time: it exists"
                f" with other content, published {won}, offered {published.digest}"
            ) from error

    def _unavailable(self, what: str, error: OSError) -> Exception:
        if error.errno in NO_ROOM:  # which only this machine's disk reports
            return Exhausted(f"{what}: the cache's disk is full")
        why = error.strerror or type(error).__name__
        where = "the store" if isinstance(error, StoreFault) else "the cache cannot be used:"
        return StoreUnavailable(f"{what}: {where} {why}", retry_after=5.0)


def open_remote(url: RepositoryUrl, settings: RepositorySettings, *, read_only: bool) -> RemoteRepository:
    """Returns the repository at `url`, without sending a request.

    Raises:
        ConfigError: An extra is not installed, or the cache cannot be used.
    """
    home = Path(settings.cache).absolute() if settings.cache else default_home()
    cache = Cache.open(home, url, settings.endpoint_url, int(settings.cache_max_bytes))
    options = url, settings.endpoint_url, settings.timeout_s, settings.max_objects
    if url.scheme == "oci":
        from turnout.registry.remote.oci import OciStore

        store: Store = OciStore(*options, settings.oci_settle_s)
    else:
        store = ObjectStore(*options)
    return RemoteRepository(str(url), store, cache, settings.remote_poll_s, read_only=read_only)
