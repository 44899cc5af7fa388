"""Reads manifests, and compares files with their entries in a manifest."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from turnout.errors import DigestMismatch
from turnout.registry.manifest.digest import Progress, bytes_digest, read_canonical, stream_digest
from turnout.registry.manifest.manifest import MANIFEST_FILE, FileEntry
from turnout.registry.storage.files import FileStamp, explain, file_stamp, open_inside
from turnout.registry.storage.listing import Published

MAX_MANIFEST_BYTES = 16 << 20

_LOADS = 3

T = TypeVar("T")


def read_version(directory: Path, model: str, version: str) -> Published:
    """Reads the manifest in the directory of a version. Raises as `read_manifest` and `check_named` do."""
    return check_named(read_manifest(directory), model, version)


def check_named(published: Published, model: str, version: str) -> Published:
    """Returns `published`. Raises ValueError if it is another version."""
    manifest = published.manifest
    if (manifest.model, str(manifest.version)) != (model, version):
        raise ValueError(f"is that of {manifest.model} {manifest.version}")
    return published


def read_manifest(directory: Path) -> Published:
    """Reads the manifest in `directory`.

    Raises:
        ValueError: The file is not a manifest.
        OSError: The file cannot be read.
    """
    with open_inside(directory, MANIFEST_FILE) as file:
        return parse_manifest(file.read(MAX_MANIFEST_BYTES + 1))


def parse_manifest(data: bytes) -> Published:
    """Reads the bytes of a manifest. Raises ValueError if they are not one, or more than `MAX_MANIFEST_BYTES`."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise ValueError(f"is larger than {MAX_MANIFEST_BYTES} bytes")
    return Published(read_canonical(data), bytes_digest(data))


def manifest_fault(error: ValueError | OSError) -> str:
    """Returns what is wrong with a manifest that could not be read."""
    return f"{MANIFEST_FILE} {explain(error) if isinstance(error, OSError) else error}"


def check_files(directory: Path, files: Iterable[FileEntry]) -> None:
    """Checks the files of a version before it is loaded again.

    Raises:
        DigestMismatch: A file has changed since it was published.
    """
    for entry in files:
        if fault := file_fault(directory, entry, None):
            raise DigestMismatch(f"{entry.path} {fault}: it changed since the version was loaded")


def load_unchanged(
    directory: Path, files: Sequence[FileEntry], load: Callable[[], T], discard: Callable[[T], object]
) -> T:
    """Returns what `load` returns, which verifies files and then has them read again, by their paths.

    Whatever was loaded while a file was written or replaced is passed to `discard`, and loaded again.

    Raises:
        DigestMismatch: The files change each time.
    """
    for _ in range(_LOADS):
        before = _stamps(directory, files)
        loaded = load()
        if _stamps(directory, files) == before:
            return loaded
        discard(loaded)
    raise DigestMismatch("its files change while they are loaded")


def _stamps(directory: Path, files: Sequence[FileEntry]) -> list[FileStamp | None]:
    found: list[FileStamp | None] = []
    for entry in files:
        try:
            found.append(file_stamp((directory / entry.path).lstat()))
        except OSError:  # which the verification reports
            found.append(None)
    return found


def file_fault(directory: Path, entry: FileEntry, progress: Progress | None) -> str | None:
    """Returns how a file differs from its entry in the manifest; None if it does not."""
    try:
        with open_inside(directory, entry.path) as file:
            size = os.fstat(file.fileno()).st_size
            if size != entry.size:
                return f"is not what was published (expected {entry.size} bytes, got {size})"
            if stream_digest(file, progress=progress) != entry.digest:
                return "is not what was published"
    except OSError as error:
        return explain(error)
    return None
