"""Reads a version in pieces, to be sent to a client."""

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

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


class VersionReader:
    """Reads a version's files in the order of the manifest. Blocks; used by one caller at a time."""

    def __init__(self, directory: Path, manifest: Manifest, piece_bytes: int) -> None:
        self._directory = directory
        self._manifest = manifest
        self._size = piece_bytes
        self._file = -1
        self._offset = 0
        self._open: BinaryIO | None = None
        self._stack = ExitStack()

    def next(self) -> Piece | None:
        """Returns the next piece; None if there are no more.

        Raises:
            DigestMismatch: A file is not what was published. Only sizes are checked here; the receiver checks digests.
        """
        entries = self._manifest.files
        try:
            while True:
                if self._open is None:
                    self._file += 1
                    if self._file >= len(entries):
                        return None
                    self._open = self._stack.enter_context(open_inside(self._directory, entries[self._file].path))
                    self._offset = 0
                    if os.fstat(self._open.fileno()).st_size != entries[self._file].size:
                        raise DigestMismatch(f"{entries[self._file].path} is not what was published")
                if data := self._open.read(self._size):
                    piece = Piece(self._file, self._offset, data)
                    self._offset += len(data)
                    return piece
                self._stack.close()
                self._open = None
        except OSError as error:
            raise DigestMismatch(f"{entries[self._file].path} {explain(error)}") from error

    def close(self) -> None:
        """Closes the open file, if any."""
        self._stack.close()
