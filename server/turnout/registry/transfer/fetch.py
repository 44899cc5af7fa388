"""Reads a version in pieces, to be sent to a client."""

import os
from collections.abc import Generator
from pathlib import Path

from turnout.errors import DigestMismatch
from turnout.registry.manifest.manifest import Manifest
from turnout.registry.storage.files import explain, open_inside

Piece = tuple[int, int, bytes]
"""A part of a file: the file's index in the manifest, the offset in it in bytes, and the data."""


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
                    yield index, offset, data
                    offset += len(data)
        except OSError as error:
            raise DigestMismatch(f"{entry.path} {explain(error)}") from error
