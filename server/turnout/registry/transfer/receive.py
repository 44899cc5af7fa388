"""Receives a version into a new directory, verifying everything by digests."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from semver import Version

from turnout.errors import DigestMismatch, InvalidRequest
from turnout.registry.manifest.digest import bytes_digest, read_canonical
from turnout.registry.manifest.manifest import MANIFEST_FILE, FileEntry, Manifest
from turnout.registry.storage.files import seal, sync_directory, sync_tree, write_file
from turnout.registry.storage.listing import Published


class Receiver:
    """Writes pieces to files, in the order of the manifest, and verifies each file when it is complete."""

    def __init__(self, directory: Path, manifest: Manifest, digest: str) -> None:
        self._directory = directory
        self._received = Published(manifest, digest)
        self._file = 0
        self._offset = 0
        self._hash = hashlib.sha256()
        self._skip_empty()

    @property
    def size(self) -> int:
        """Total size of all files in bytes."""
        return self._received.manifest.size

    def write(self, file: int, offset: int, data: bytes) -> None:
        """Writes a piece.

        Raises:
            DigestMismatch: It does not follow the previous piece, or completes a file that does not match the manifest.
            OSError: It cannot be written.
        """
        entries = self._received.manifest.files
        if (file, offset) != (self._file, self._offset) or file >= len(entries) or not data:
            raise DigestMismatch("the data that was sent does not follow the previous piece")
        entry = entries[file]
        if offset + len(data) > entry.size:
            raise DigestMismatch(f"{entry.path} is longer than its manifest says")
        target = self._directory / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("ab") as opened:
            opened.write(data)
            self._hash.update(data)
            self._offset += len(data)
            if self._offset == entry.size:
                self._check(entry)
                opened.flush()
                seal(opened.fileno())
                self._file, self._offset, self._hash = self._file + 1, 0, hashlib.sha256()
        self._skip_empty()

    def finish(self) -> Published:
        """Returns the received version.

        Raises:
            DigestMismatch: Data is missing.
        """
        entries = self._received.manifest.files
        if self._file < len(entries):
            raise DigestMismatch(f"{entries[self._file].path} was not sent completely")
        return self._received

    def _skip_empty(self) -> None:
        entries = self._received.manifest.files
        while self._file < len(entries) and entries[self._file].size == 0:
            self._check(entries[self._file])
            target = self._directory / entries[self._file].path
            target.parent.mkdir(parents=True, exist_ok=True)
            write_file(target, b"")
            self._file += 1

    def _check(self, entry: FileEntry) -> None:
        if f"sha256:{self._hash.hexdigest()}" != entry.digest:
            raise DigestMismatch(f"{entry.path} is not what its manifest says")


@contextmanager
def receiving(to: Path, manifest: bytes, digest: str, model: str, version: Version) -> Iterator[Receiver]:
    """Creates the directory `to` for a version. It appears under its name when it is complete, or not at all.

    Args:
        to: Directory to create.
        manifest: Content of `manifest.json` as received.
        digest: Digest of the manifest as received.
        model: The requested model.
        version: The requested version.

    Raises:
        InvalidRequest: `to` exists, or cannot be written to.
        DigestMismatch: The manifest is invalid, or is of another version.
    """
    try:
        read = read_canonical(manifest)
    except ValueError as error:
        raise DigestMismatch(f"the manifest {error}") from error
    if bytes_digest(manifest) != digest or (read.model, str(read.version)) != (model, str(version)):
        raise DigestMismatch(f"the manifest is not that of {model} {version}")
    try:
        with new_directory(to) as directory:
            write_file(directory / MANIFEST_FILE, manifest)
            yield Receiver(directory, read, digest)
    except OSError as error:
        raise InvalidRequest.at("--to", f"{to.name} cannot be written to ({error.strerror})") from error


@contextmanager
def new_directory(to: Path) -> Iterator[Path]:
    """Creates a directory that appears at `to` when the block ends successfully, and otherwise not at all.

    Raises:
        InvalidRequest: `to` exists.
        OSError: The directory cannot be created.
    """
    if os.path.lexists(to) and (to.is_symlink() or not to.is_dir() or any(to.iterdir())):
        raise InvalidRequest.at("--to", f"{to.name!r} exists and is not an empty directory")
    to.parent.mkdir(parents=True, exist_ok=True)
    home = Path(mkdtemp(prefix=f".{to.name}.", dir=to.parent))
    try:
        home.chmod(0o755)
        yield home
        sync_tree(home)
        home.rename(to)
        sync_directory(to.parent)
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise
