"""Caches the files of remote versions on this machine: content-addressed, bounded, and shared by processes.

    HOME/blobs/sha256/HEX                      each file once, under its digest
    HOME/repositories/ID/MODEL/VERSION/...     a version as in a repository on disk: hard links to blobs
    HOME/repositories/ID/.staging/             where versions are assembled (`turnout.registry.storage.staging`)

A version's directory is complete or absent, as in any repository, and a blob is added only after its digest was
verified; both by rename. Versions are removed to make room, the least recently used first, and then the blobs that no
version links to. A server holds a lock on the manifest of each version that it has loaded, which protects it from
removal.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from turnout.cancellation import checkpoint
from turnout.config import RepositoryUrl
from turnout.errors import ConfigError, DigestMismatch, Exhausted
from turnout.host import files
from turnout.registry.manifest.digest import blocks_digest, bytes_digest
from turnout.registry.manifest.manifest import MANIFEST_FILE, FileEntry, Manifest
from turnout.registry.remote.reservations import reserved, reserved_bytes
from turnout.registry.storage.staging import STAGING, locked, staged

_POLL = 0.05
_LOCKS = ".locks"

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
        with ExitStack() as until_stored:
            with locked(self.home):
                self._make_room(lambda: self._missing_bytes(manifest), manifest)
                reservation = until_stored.enter_context(reserved(self.home / STAGING, self._missing_bytes(manifest)))
            home = until_stored.enter_context(staged(self.root))
            for entry in manifest.files:
                if self._bring(entry, home / entry.path, read):
                    reservation.stored(entry.size)
            (home / MANIFEST_FILE).write_bytes(data)
            (home / MANIFEST_FILE).chmod(0o444)
            self._place(home, directory)

    def adopt(self, staged_version: Path, directory: Path, manifest: Manifest) -> None:
        """Moves a version that was built on this machine into the cache. Leaves it if there is not enough room.

        Raises:
            OSError: The cache cannot be written to.
        """
        try:
            with locked(self.home):
                self._make_room(lambda: manifest.size, manifest)
        except Exhausted:
            return
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

    def _make_room(self, needed: Callable[[], int], manifest: Manifest) -> None:
        """Removes the least recently used versions of all repositories until what is needed fits.

        The caller holds the cache's lock.

        Args:
            needed: Returns the number of bytes needed: it grows when files that versions share are removed.
            manifest: Of the version that needs them.

        Raises:
            Exhausted: They do not fit, because all remaining versions are in use.
        """
        what = f"{manifest.model} {manifest.version}"
        if (size := needed()) > self.max_bytes:
            raise Exhausted(
                f"{what} has {size:,} bytes, and the cache takes {self.max_bytes:,} (repository.cache_max_bytes)"
            )
        fetched = reserved_bytes(self.home / STAGING)
        if self.used_bytes + fetched + size <= self.max_bytes:
            return
        self._drop_unlinked()
        for directory in self._least_recent():
            if self.used_bytes + fetched + needed() <= self.max_bytes:
                return
            if (held := _claim(directory)) is None:
                continue
            try:
                self._trash(directory)
            finally:
                os.close(held)
            self._drop_unlinked()
        if (used := self.used_bytes) + fetched + (size := needed()) > self.max_bytes:
            being_fetched = f", and {fetched:,} are being fetched" if fetched else ""
            raise Exhausted(
                f"the cache has no room for the {size:,} bytes of {what}: {used:,} of {self.max_bytes:,} bytes"
                f" (repository.cache_max_bytes) are versions in use{being_fetched}",
                retry_after=5.0,
            )

    def _missing_bytes(self, manifest: Manifest) -> int:
        return sum(e.size for e in {e.digest: e for e in manifest.files}.values() if not self._has_blob(e))

    def _bring(self, entry: FileEntry, target: Path, read: ReadBlob) -> bool:
        """Puts a file at `target`. Returns whether it had to be fetched."""
        target.parent.mkdir(parents=True, exist_ok=True)
        if self._has_blob(entry):
            with suppress(FileNotFoundError):  # removed in the meantime
                os.link(self.blob(entry.digest), target)
                return False
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
        return True

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
