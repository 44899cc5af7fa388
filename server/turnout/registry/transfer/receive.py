"""Receives a version into a new directory, verifying everything by digests."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from semver import Version

from turnout.errors import DigestMismatch, InvalidRequest
from turnout.registry.manifest.digest import Progress, blocks_digest, bytes_digest, canonical_bytes, read_canonical
from turnout.registry.manifest.manifest import MANIFEST_FILE, FileEntry
from turnout.registry.storage.files import seal, sync_directory, sync_tree, write_file
from turnout.registry.storage.listing import Published
from turnout.registry.transfer.fetch import Piece

_NOT_IN_ORDER = "the data that was sent does not follow the previous piece"


def sent_version(manifest: bytes, digest: str, model: str, version: Version) -> Published:
    """Reads a manifest that was sent with its digest.

    Raises:
        DigestMismatch: The manifest is invalid, or is not that of the requested version.
    """
    try:
        read = read_canonical(manifest)
    except ValueError as error:
        raise DigestMismatch(f"the manifest {error}") from error
    if bytes_digest(manifest) != digest or (read.model, str(read.version)) != (model, str(version)):
        raise DigestMismatch(f"the manifest is not that of {model} {version}")
    return Published(read, digest)


def receive(to: Path, published: Published, pieces: Iterator[Piece], progress: Progress) -> None:
    """Writes a version to the directory `to`, which appears under its name when it is complete, or not at all.

    Raises:
        InvalidRequest: `to` exists, or cannot be written to.
        DigestMismatch: A piece does not follow the previous one or is missing, or a file does not match the manifest.
    """
    try:
        with new_directory(to) as directory:
            write_file(directory / MANIFEST_FILE, canonical_bytes(published.manifest))
            for index, entry in enumerate(published.manifest.files):
                target = directory / entry.path
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as file:
                    digest = blocks_digest(_blocks(index, entry, pieces), copy_to=file, progress=progress)
                    file.flush()
                    seal(file.fileno())
                if digest != entry.digest:
                    raise DigestMismatch(f"{entry.path} is not what its manifest says")
            if next(pieces, None) is not None:
                raise DigestMismatch(_NOT_IN_ORDER)
    except OSError as error:
        raise InvalidRequest.at("--to", f"{to.name} cannot be written to ({error.strerror})") from error


def _blocks(index: int, entry: FileEntry, pieces: Iterator[Piece]) -> Iterator[bytes]:
    """Yields the data of one file."""
    received = 0
    while received < entry.size:
        if (piece := next(pieces, None)) is None:
            raise DigestMismatch(f"{entry.path} was not sent completely")
        file, offset, data = piece
        if (file, offset) != (index, received) or not data:
            raise DigestMismatch(_NOT_IN_ORDER)
        received += len(data)
        if received > entry.size:
            raise DigestMismatch(f"{entry.path} is longer than its manifest says")
        yield data


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
