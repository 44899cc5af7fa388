"""Caches the files of remote versions on this machine: content-addressed, bounded, and shared by processes.

    HOME/blobs/sha256/HEX                      each file once, under its digest
    HOME/repositories/ID/MODEL/VERSION/...     a version as in a repository on disk: hard links to blobs
    HOME/repositories/ID/.staging/             where versions are assembled (`turnout.registry.storage.staging`)

A version's directory is complete or absent, as in any repository, and a blob is added only after its digest was
verified; both by rename. Versions are removed to make room, the least recently used first, and then the blobs that no
version links to. A server holds a lock on the manifest of each version that it has loaded, which protects it from
removal. A fetch reserves room for the blobs that are missing, by a locked file in HOME/.staging/ of their total size,
so that several fetches together do not exceed the cache's limit.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from turnout.cancellation import checkpoint
from turnout.config import RepositoryUrl
from turnout.errors import ConfigError, DigestMismatch, Exhausted
from turnout.host import files
from turnout.registry.manifest.digest import blocks_digest, bytes_digest
from turnout.registry.manifest.manifest import MANIFEST_FILE, FileEntry, Manifest
from turnout.registry.storage.staging import STAGING, locked, staged

_POLL = 0.05
_ROOM_POLL = 0.5
"""Interval in seconds at which a fetch looks whether others have left room for it, which reads all blobs' sizes."""

_LOCKS = ".locks"
_RESERVED = "reserved-"

ReadBlob = Callable[[FileEntry], Iterable[bytes]]
"""Yields a file's bytes from the remote repository."""


def default_home() -> Path:
    """Returns the default directory of the cache. Raises ConfigError if there is no home directory."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "turnout"
    except RuntimeError as error:
        raise ConfigError("there is no home directory for the cache: name one with repository.cache") from error


@dataclass(frozen=True, slots=True)
class Cache:
    """The cache of one repository, in a directory shared with other repositories.

    Attributes:
        home: The shared directory.
        root: Directory of this repository's versions.
        max_bytes: Maximum total size of the blobs of all repositories, in bytes.
    """

    home: Path
    root: Path
    max_bytes: int

    @classmethod
    def open(cls, home: Path, url: RepositoryUrl, endpoint: str, max_bytes: int) -> "Cache":
        """Creates the directories, accessible only to this user.

        Raises:
            ConfigError: The directories cannot be created.
        """
        name = hashlib.sha256(f"{endpoint} {url}".encode()).hexdigest()[:16]
        cache = cls(home, home / "repositories" / f"{url.scheme}-{url.host.replace(':', '_')}-{name}", max_bytes)
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in (STAGING, "blobs", "repositories"):  # the home itself may already exist, accessible to others
                (home / name).mkdir(mode=0o700, exist_ok=True)
            for directory in (cache._blobs, cache.root / STAGING, cache.root / _LOCKS):
                directory.mkdir(parents=True, exist_ok=True)
            if not os.access(cache.root, os.W_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            raise ConfigError(
                f"the cache {home} cannot be used ({error.strerror}): name a directory on a local disk with"
                " repository.cache"
            ) from error
        return cache

    @property
    def _blobs(self) -> Path:
        return self.home / "blobs" / "sha256"

    def blob(self, digest: str) -> Path:
        """Returns the path of a blob, whether it exists or not."""
        return self._blobs / digest.removeprefix("sha256:")

    @property
    def used_bytes(self) -> int:
        """Total size of all blobs of all repositories, in bytes."""
        return sum(size for _, size, _ in self._stored())

    @contextmanager
    def fetching(self, directory: Path) -> Iterator[None]:
        """Holds the lock for fetching a version, so that only one of several processes fetches it."""
        name = hashlib.sha256(str(directory.relative_to(self.root)).encode()).hexdigest()[:32]
        for made in (self.root / _LOCKS, self._blobs, self.home / STAGING):  # the cache may have been emptied
            made.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.root / _LOCKS / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not files.try_lock(descriptor):
                checkpoint()
                time.sleep(_POLL)
            yield
        finally:
            os.close(descriptor)

    def has(self, directory: Path, digest: str) -> bool:
        """Returns whether a version with this digest is in the cache, and marks it as used."""
        try:
            if bytes_digest((directory / MANIFEST_FILE).read_bytes()) != digest:
                return False
            os.utime(directory)
        except OSError:
            return False
        return True

    def put(self, directory: Path, manifest: Manifest, data: bytes, read: ReadBlob) -> None:
        """Fetches a version into `directory`, with its manifest as `data`. The caller holds the lock `fetching`.

        Raises:
            DigestMismatch: A file does not match the manifest.
            Exhausted: There is not enough room.
            OSError: The cache cannot be written to, or a file cannot be read from the remote repository.
        """
        with staged(self.root) as home:
            missing = self._link_blobs(manifest.files, home)
            while (room := self._reserve(missing, manifest)) is None:
                checkpoint()
                time.sleep(_ROOM_POLL)
                missing = self._link_blobs(missing, home)
            with closing(room):
                for entry in missing:
                    self._bring(entry, home / entry.path, read)
                    room.filled(entry)
            (home / MANIFEST_FILE).write_bytes(data)
            (home / MANIFEST_FILE).chmod(0o444)
            self._place(home, directory)

    def adopt(self, staged_version: Path, directory: Path, manifest: Manifest) -> None:
        """Moves a version that was built on this machine into the cache. Leaves it if there is not enough room.

        Raises:
            OSError: The cache cannot be written to.
        """
        try:
            room = self._reserve(manifest.files, manifest)
        except Exhausted:
            return
        if room is not None:
            with closing(room):
                self._move_in(staged_version, directory, manifest)

    def _move_in(self, staged_version: Path, directory: Path, manifest: Manifest) -> None:
        for entry in manifest.files:
            file, blob = staged_version / entry.path, self.blob(entry.digest)
            try:
                os.link(file, blob)
            except FileExistsError:  # each file is stored once; a damaged one is repaired when it is loaded
                with suppress(FileNotFoundError):
                    fresh = file.with_name(f".{uuid4().hex}")
                    os.link(blob, fresh)
                    os.replace(fresh, file)
                    fresh.unlink(missing_ok=True)
        self._place(staged_version, directory)

    def repair(self, directory: Path, entry: FileEntry, read: ReadBlob) -> None:
        """Replaces a file of a cached version with a newly fetched copy.

        Raises:
            DigestMismatch, OSError: As for `put`.
        """
        self.blob(entry.digest).unlink(missing_ok=True)
        with staged(self.root) as home:
            fresh = home / "fresh"
            self._bring(entry, fresh, read)
            (directory / entry.path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(fresh, directory / entry.path)

    def _reserve(self, missing: Sequence[FileEntry], manifest: Manifest) -> "_Reservation | None":
        """Reserves room for blobs that are missing. Makes room by removing the least recently used versions.

        Returns:
            The reservation; None if there may be room once fetches that are running have ended.

        Raises:
            Exhausted: There is not enough room, because all remaining versions are in use.
        """
        sizes = {entry.digest: entry.size for entry in missing}
        needed = sum(sizes.values())
        if needed > self.max_bytes:
            raise Exhausted(
                f"{manifest.model} {manifest.version} has {needed:,} bytes, and the cache takes {self.max_bytes:,}"
                " (repository.cache_max_bytes)"
            )
        with locked(self.home):
            reserved = self._reserved_bytes()
            if needed + reserved > self.max_bytes:
                return None
            if self._reduce(self.max_bytes - needed - reserved):
                return _Reservation(self.home / STAGING / f"{_RESERVED}{uuid4().hex}", sizes)
            if reserved:
                return None
        raise Exhausted(
            f"the cache has no room for the {needed:,} bytes of {manifest.model} {manifest.version}:"
            f" {self.used_bytes:,} of {self.max_bytes:,} bytes (repository.cache_max_bytes) are versions in use",
            retry_after=5.0,
        )

    def _reduce(self, most: int) -> bool:
        """Removes the least recently used versions of all repositories until the blobs take at most `most` bytes.

        Returns whether they do. The caller holds the lock of the cache.
        """
        if self.used_bytes <= most:
            return True
        self._drop_unlinked()
        for directory in self._least_recent():
            if self.used_bytes <= most:
                break
            if (held := _claim(directory)) is None:
                continue
            try:
                self._trash(directory)
            finally:
                os.close(held)
            self._drop_unlinked()
        return self.used_bytes <= most

    def _reserved_bytes(self) -> int:
        """Returns the total size of all reservations, and removes those of processes that were killed.

        The caller holds the lock of the cache.
        """
        total = 0
        for path in (self.home / STAGING).glob(f"{_RESERVED}*"):
            with suppress(FileNotFoundError):  # released in the meantime
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    if files.try_lock(descriptor):
                        path.unlink()
                    else:
                        total += os.fstat(descriptor).st_size
                finally:
                    os.close(descriptor)
        return total

    def _link_blobs(self, entries: Iterable[FileEntry], home: Path) -> Sequence[FileEntry]:
        """Links files to their blobs, which are not removed from then on. Returns the files whose blob is missing."""
        return [entry for entry in entries if not self._link_blob(entry, home / entry.path)]

    def _link_blob(self, entry: FileEntry, target: Path) -> bool:
        target.parent.mkdir(parents=True, exist_ok=True)
        if self._has_blob(entry):
            with suppress(FileNotFoundError):  # removed in the meantime
                os.link(self.blob(entry.digest), target)
                return True
        return False

    def _bring(self, entry: FileEntry, target: Path, read: ReadBlob) -> None:
        if self._link_blob(entry, target):
            return
        with target.open("xb") as file:
            digest, size = blocks_digest(read(entry), copy_to=file), file.tell()
            os.fchmod(file.fileno(), 0o444)
        if (size, digest) != (entry.size, entry.digest):
            target.unlink()
            raise DigestMismatch(f"{entry.path} is not what was published, where it lives")
        fresh = self._blobs / f".{uuid4().hex}"
        os.link(target, fresh)
        os.replace(fresh, self.blob(entry.digest))
        fresh.unlink(missing_ok=True)  # rename(2) does nothing if both names are links to the same file

    def _has_blob(self, entry: FileEntry) -> bool:
        try:
            return self.blob(entry.digest).stat().st_size == entry.size
        except OSError:
            return False

    def _place(self, staged_version: Path, directory: Path) -> None:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.home):
            self._trash(directory)
            staged_version.rename(directory)
        os.utime(directory)

    def _trash(self, directory: Path) -> None:
        """Removes a directory: first renames it, so that it disappears atomically, then deletes it."""
        trash = self.home / STAGING / f"trash-{uuid4().hex}"
        with suppress(FileNotFoundError):
            directory.rename(trash)
        for left in (self.home / STAGING).glob("trash-*"):  # including those of processes that were killed
            shutil.rmtree(left, ignore_errors=True)

    def _least_recent(self) -> list[Path]:
        """Returns the directories of all versions of all repositories, least recently used first."""
        found: list[tuple[float, Path]] = []
        for manifest in (self.home / "repositories").glob(f"*/[A-Za-z0-9]*/*/{MANIFEST_FILE}"):
            with suppress(OSError):
                found.append((manifest.parent.stat().st_mtime, manifest.parent))
        return [directory for _, directory in sorted(found)]

    def _stored(self) -> Iterator[tuple[str, int, int]]:
        """Yields the path, size and number of links of each blob; of none if the cache was emptied."""
        try:
            entries = os.scandir(self._blobs)
        except FileNotFoundError:
            return
        with entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    yield entry.path, status.st_size, status.st_nlink

    def _drop_unlinked(self) -> None:
        for path, _, links in list(self._stored()):
            if links == 1:
                Path(path).unlink(missing_ok=True)


class _Reservation:
    """Room for blobs that are being fetched: a file of their size, locked until its process ends.

    It is created under the lock of the cache, so nobody can take it for one whose process was killed.
    """

    def __init__(self, path: Path, sizes: dict[str, int]) -> None:
        """Reserves room for blobs of these sizes in bytes, by digest."""
        self._path = path
        self._sizes = sizes
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        files.lock(self._descriptor)
        os.ftruncate(self._descriptor, sum(sizes.values()))

    def filled(self, entry: FileEntry) -> None:
        """Releases the room of a blob, which is in the cache now."""
        if self._sizes.pop(entry.digest, None) is not None:
            os.ftruncate(self._descriptor, sum(self._sizes.values()))

    def close(self) -> None:
        """Releases the room."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def _claim(directory: Path) -> int | None:
    """Returns a descriptor that locks a version against servers; None if a server has it loaded."""
    try:
        descriptor = os.open(directory / MANIFEST_FILE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    with suppress(OSError):
        if files.try_lock(descriptor):
            return descriptor
    os.close(descriptor)
    return None
