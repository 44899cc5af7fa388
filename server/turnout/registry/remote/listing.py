"""Lists a store: the versions in it, and the small documents beside them.

The store is asked only every few seconds. While it does not answer, the last listing remains in use.
"""

import random
import threading
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from semver import Version

from turnout.registry.gates.plan import MAX_PLAN_BYTES
from turnout.registry.manifest.digest import canonical_bytes
from turnout.registry.manifest.names import ATTESTATIONS, PLAN_FILE, differing_in_case
from turnout.registry.remote.index import Index, IndexEntry
from turnout.registry.remote.keys import EvidenceRecordKey, ManifestKey, PlanKey, parse_key
from turnout.registry.remote.store import Document, Store
from turnout.registry.storage.attestations import MAX_BYTES, MAX_FILES, SIGNATURE
from turnout.registry.storage.faults import StoreFault
from turnout.registry.storage.files import file_stamp, replace_file
from turnout.registry.storage.listing import Listing, Problem, Published
from turnout.registry.storage.manifests import MAX_MANIFEST_BYTES, check_named, manifest_fault, parse_manifest
from turnout.registry.storage.scanning import VersionOrder

FRESH_SECONDS = 1.0
"""Age in seconds up to which a listing counts as current."""
_BACKOFF_MOST = 60.0
_SPARED_SECONDS = 600.0


class RemoteListing:
    """The versions in a store, as of the last listing. Thread-safe."""

    def __init__(self, root: Path, store: Store, poll_seconds: float) -> None:
        """Creates the listing without asking the store. Small documents are copied to `root`, the cache's directory."""
        self._root = root
        self._store = store
        self._poll_seconds = poll_seconds
        self._index = Index(root)
        self._order = VersionOrder()
        self._lock = threading.Lock()  # guards the following attributes
        self._entries: Mapping[str, IndexEntry] = {}
        self._faults: dict[str, tuple[str, Problem]] = {}  # stamp and problem, by key
        self._partial: dict[str, IndexEntry] = {}  # read by listings that failed, by key
        self._copied = self._index.copied()  # the documents copied here, by key
        self._found: Listing | None = None
        self._listed_at = float("-inf")
        self._due = float("-inf")
        self._failures = 0
        self._away = ""
        self._missed: frozenset[tuple[str, Version]] = frozenset()

    @property
    def keys(self) -> list[ManifestKey]:
        """Keys of all versions, whether their manifests can be read or not."""
        return [key for key in map(parse_key, (*self._entries, *self._faults)) if isinstance(key, ManifestKey)]

    def entry(self, key: str) -> IndexEntry | None:
        """Returns the version with this key; None if there is none, or its manifest cannot be read."""
        return self._entries.get(key)

    def fault(self, key: str) -> str:
        """Returns what is wrong with the manifest that has this key; "" if nothing is."""
        fault = self._faults.get(key)
        return "" if fault is None else fault[1].reason

    def used_digests(self) -> set[str] | None:
        """Returns the digests of all files of versions; None if an unreadable manifest may refer to other files."""
        if self._faults:
            return None
        return {file.digest for entry in self._entries.values() for file in entry.published.manifest.files}

    def scan(self) -> Listing:
        """Lists the store if the last listing is old enough. While the store does not answer, keeps the last listing.

        Raises:
            OSError: The store does not answer, and there is no earlier listing.
        """
        with self._lock:
            if time.monotonic() >= self._due:
                self._look()
            if self._found is None:
                raise StoreFault(5, f"the store {self._away}")
            if not self._away:
                return self._found
            earlier = "the listing of an earlier process" if self._listed_at == float("-inf") else "the last listing"
            return replace(self._found, away=f"{self._away}; {earlier} is used, and cached versions can be loaded")

    def look_soon(self) -> None:
        """Makes the next scan list the store, unless the store did not answer last time."""
        if not self._failures:
            self._due = float("-inf")

    def expect(self, keys: Collection[tuple[str, Version]]) -> None:
        """Makes the next scan list the store if `keys` contains unknown versions, like `Repository.expect`."""
        known = frozenset((e.published.manifest.model, e.published.manifest.version) for e in self._entries.values())
        missed = frozenset(keys) - known
        if missed - self._missed:
            self.look_soon()
        self._missed = missed

    def look_now(self, age: float = 0.0) -> None:
        """Lists the store if the last listing is more than `age` seconds old.

        Raises:
            OSError: The store does not answer.
        """
        with self._lock:
            if self._failures or time.monotonic() - self._listed_at >= age or self._due == float("-inf"):
                self._look()
            if self._away:
                raise StoreFault(5, f"the store {self._away}")

    def look_for(self, key: str) -> None:
        """Lists the store because the last listing lacks a document, unless the store did not answer last time.

        If that listing is so recent that it counts as current, the store is listed only if the document exists now.
        """
        with self._lock:
            fresh = time.monotonic() - self._listed_at <= FRESH_SECONDS
            if not self._failures and (not fresh or self._exists(key)):
                self._look()

    def _exists(self, key: str) -> bool:
        with suppress(OSError):
            return self._store.current(key, MAX_MANIFEST_BYTES) is not None
        return False

    def _look(self) -> None:
        """Lists the store. If that fails, keeps the last listing, if necessary that of another process."""
        try:
            self._take_in({document.key: document for document in self._store.documents()})
        except OSError as error:
            self._away = error.strerror or f"cannot be read ({type(error).__name__})"
            self._failures += 1
            seconds = min(self._poll_seconds * 2 ** min(self._failures - 1, 10), max(_BACKOFF_MOST, self._poll_seconds))
            # Servers that lost a store at the same time should not all return to it at the same time.
            self._due = time.monotonic() + seconds * random.uniform(0.8, 1.2)  # noqa: S311
            if self._found is None and (kept := self._index.load()):
                self._entries = kept
                self._found = self._make_listing()
            return
        self._away, self._failures = "", 0
        self._listed_at = time.monotonic()
        self._due = self._listed_at + self._poll_seconds

    def _take_in(self, documents: Mapping[str, Document]) -> None:
        entries: dict[str, IndexEntry] = {}
        faults: dict[str, tuple[str, Problem]] = {}
        before, copied_before = self._entries or self._index.load() or {}, dict(self._copied)
        known = {**before, **self._partial}
        beside: dict[tuple[str, Version, bool], list[Document]] = {}  # signatures, and other records
        for text, document in documents.items():
            match parse_key(text):
                case ManifestKey() as key:
                    self._take_manifest(key, document, known, entries, faults)
                case EvidenceRecordKey() as key:
                    kind = key.model, key.version, key.file.startswith(SIGNATURE)
                    beside.setdefault(kind, []).append(document)
                case PlanKey(model):
                    self._take_file(document, self._root / model / PLAN_FILE, MAX_PLAN_BYTES)
                case _:
                    pass
        for found in beside.values():
            for document in sorted(found, key=lambda one: one.key)[:MAX_FILES]:
                model, _, version, file = document.key.split("/")
                target = self._root / model / ATTESTATIONS / version / file
                self._take_file(document, target, MAX_BYTES)
        self._drop_files(documents)
        self._copied = {key: copied for key, copied in self._copied.items() if key in documents}
        self._partial = {}
        changed = entries.keys() != self._entries.keys() or any(entries[k] is not self._entries[k] for k in entries)
        self._entries, self._faults = entries, faults
        if changed or self._found is None or self._copied != copied_before:
            with suppress(OSError):  # a full cache must not prevent serving versions that are in memory
                for text, entry in entries.items():
                    if entry is not before.get(text):
                        self._index.keep(canonical_bytes(entry.published.manifest), entry.published.digest)
                self._index.save(entries, self._copied)
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
            found = parse_manifest(self._store.read(document, MAX_MANIFEST_BYTES))
            published = check_named(found, key.model, str(key.version))
        except FileNotFoundError:  # removed since it was listed
            return
        except ValueError as error:
            reason = f"{key.model} {key.version}: {manifest_fault(error)}"
            faults[text] = document.stamp, Problem(key.model, str(key.version), reason, damaged=True)
        else:
            # The same object if the same version was written again, so that it does not count as a change.
            same = before is not None and before.published.digest == published.digest
            published = before.published if before is not None and same else published
            entries[text] = self._partial[text] = IndexEntry(document.stamp, document.modified, published)

    def _take_file(self, document: Document, target: Path, most: int) -> None:
        """Copies a small document here if it or its copy changed. Documents that are too large are skipped."""
        with suppress(OSError):
            if self._copied.get(document.key) == (document.stamp, file_stamp(target.stat())):
                return
        if document.size > most:
            return
        try:
            data = self._store.read(document, most)
        except FileNotFoundError:
            return
        with suppress(OSError):  # the next listing tries again; a full disk must not pass for a store that is away
            if not target.is_file() or target.read_bytes() != data:  # another process may have copied it already
                replace_file(target, data)
            self._copied[document.key] = document.stamp, file_stamp(target.stat())

    def _drop_files(self, documents: Mapping[str, Document]) -> None:
        """Removes local copies of deleted documents, except those that another process may have just written."""
        before = time.time() - _SPARED_SECONDS
        for pattern in (PLAN_FILE, f"*/{PLAN_FILE}", f"*/{ATTESTATIONS}/*/*"):
            for file in self._root.glob(pattern):
                if (key := str(file.relative_to(self._root))) in documents:
                    continue
                with suppress(FileNotFoundError):
                    if self._copied.pop(key, None) or file.stat().st_mtime < before:
                        file.unlink()

    def _make_listing(self) -> Listing:
        twice = differing_in_case({e.published.manifest.model for e in self._entries.values()})
        published: dict[tuple[str, Version], Published] = {}
        problems = {f"{p.model} {p.version}": p for _, p in self._faults.values()}
        for _, entry in sorted(self._entries.items()):
            model, version = entry.published.manifest.model, entry.published.manifest.version
            if (alike := published.get((model, version))) is not None:
                # Writing one of these names does not prevent another process from writing the other at the same time.
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
        # Callers detect changes by identity. `VersionOrder` returns the same tuple if nothing changed.
        return Listing(self._order.of(list(published.values())), ordered)
