"""The interface of stores for versions that are not in a directory. An object store and a registry implement it.

There are two kinds of objects. *Blobs* are the files of versions, each under its digest, so that writing one never
changes anything that exists. *Documents* are small and have names: the manifest, whose creation makes a version exist,
attestations of versions, and `gates.toml`.

    NAME/VERSION/manifest.json
    NAME/.attestations/VERSION/FILE
    gates.toml, NAME/gates.toml

All methods block. Failures raise OSError, whose text contains no address, path or credential.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

CHUNK = 8 << 20
"""Number of bytes of a blob that are read at a time."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document in a listing.

    Attributes:
        stamp: Changes whenever the document does; never empty.
        size: Size in bytes.
        modified: When it was written, in seconds since the epoch by the store's clock; None if the store does not
            report it.
    """

    key: str
    stamp: str
    size: int
    modified: float | None = None


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob as the store describes it.

    Attributes:
        digest: SHA-256 of its content according to its name, `sha256:...`.
        size: Size in bytes.
        modified: When it was written, in seconds since the epoch by the store's clock.
    """

    digest: str
    size: int
    modified: float


class Store(Protocol):
    """A store for versions. Thread-safe. Methods raise OSError if the store does not answer, refuses the request, or
    contains more objects than it may.
    """

    def documents(self) -> Sequence[Document]:
        """Lists all documents, perhaps with objects that are not Turnout's. Raises FileNotFoundError if the bucket or
        repository does not exist.
        """

    def read(self, document: Document, most: int) -> bytes:
        """Reads a document, up to one byte more than `most`. Raises FileNotFoundError if it no longer exists."""

    def create(self, key: str, data: bytes) -> None:
        """Writes a document that must not exist yet, atomically.

        Raises:
            FileExistsError: The document exists, or another process is writing it at the same time.
            OSError: The store does not answer, or refuses the request. The document may have been written nevertheless.
        """

    def replace(self, key: str, data: bytes) -> None:
        """Writes a document, whether it exists or not."""

    def current(self, key: str, most: int) -> bytes | None:
        """Reads the current content of a document, not that of the listing, like `read`; None if it does not exist."""

    def delete(self, key: str) -> None:
        """Removes a document if it exists."""

    def stat_blob(self, digest: str) -> Blob | None:
        """Describes a blob; None if it does not exist."""

    def put_blob(self, digest: str, file: Path) -> None:
        """Writes a blob atomically. If it exists, it is written again, unless the store checks digests by itself."""

    def read_blob(self, digest: str, size: int) -> Iterator[bytes]:
        """Yields a blob's bytes in blocks, at most `size` bytes in total, without checking its digest. Raises
        FileNotFoundError if it does not exist.
        """

    def blobs(self) -> Sequence[Blob] | None:
        """Lists all blobs; None if the store removes unreferenced blobs by itself, or only it can."""

    def delete_blob(self, digest: str) -> None:
        """Removes a blob if it exists."""

    def close(self) -> None:
        """Closes the connections."""
