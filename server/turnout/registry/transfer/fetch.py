"""Reads a version in pieces, to be sent to a client."""

import os
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from turnout.errors import DigestMismatch
from turnout.registry.manifest.manifest import Manifest
from turnout.registry.storage.files import explain, open_inside


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a file.

    Attributes:
        file: Index of the file in the manifest.
        offset: Offset in the file in bytes.
        data: The bytes.
    """

    file: int
    offset: int
    data: bytes


def pieces(directory: Path, manifest: Manifest, most: int) -> Generator[Piece, None, None]:
    """Yields a version's files in the order of the manifest, in pieces of at most `most` bytes. Blocks.

    Raises:
        DigestMismatch: A file is not what was published. Only sizes are checked here; the receiver checks digests.
    """
    for index, entry in enumerate(manifest.files):
        try:
            with open_inside(directory, entry.path) as file:
                if os.fstat(file.fileno()).st_size != entry.size:
                    raise DigestMismatch(f"{entry.path} is not what was published")
                offset = 0
                while data := file.read(most):
                    yield Piece(index, offset, data)
                    offset += len(data)
        except OSError as error:
            raise DigestMismatch(f"{entry.path} {explain(error)}") from error
