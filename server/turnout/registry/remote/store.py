"""Where versions live that do not live in a directory: the port, which an object store and a registry implement.

Two kinds of things are kept. *Blobs* are the files of versions, each under its digest, so that nothing that is written
ever changes what is there. *Documents* are small, and have names: the manifest whose coming makes a version exist, what
is attested of it, and what `gates.toml` asks for.

    NAME/VERSION/manifest.json
    NAME/.attestations/VERSION/FILE
    gates.toml, NAME/gates.toml

Everything blocks. What cannot be done raises OSError, whose text holds no address, no path and no credential.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

CHUNK = 8 << 20
"""Bytes of a blob that are read at a time."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document as a listing shows it.

    Attributes:
        stamp: Changes when it does; never empty.
        size: Bytes.
        modified: When it was written, seconds since the epoch by the store's clock; None if the store does not say.
    """

    key: str
    stamp: str
    size: int
    modified: float | None = None


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob as the store describes it.

    Attributes:
        digest: `sha256:` of its bytes, as far as its name says.
        size: Bytes.
        modified: When it was written, seconds since the epoch by the store's clock.
    """

    digest: str
    size: int
    modified: float


class StoreFault(OSError):
    """The store cannot be reached, or refuses what it is asked."""


class Store(Protocol):
    """What versions live in. Safe to use from several threads."""

    def documents(self) -> Sequence[Document]:
        """Lists all documents. What is not a document of Turnout's may be among them.

        Raises:
            FileNotFoundError: There is no such bucket or repository.
            OSError: The store does not answer, refuses, or holds more than it may.
        """

    def read(self, document: Document, most: int) -> bytes:
        """Reads a document, and at most one byte more than `most` of it.

        Raises:
            FileNotFoundError: It is gone.
            OSError: The store does not answer, or refuses.
        """

    def create(self, key: str, data: bytes) -> None:
        """Writes a document that must not exist, for everyone at once or not at all.

        Raises:
            FileExistsError: It exists, or somebody else writes it in this moment.
            OSError: The store does not answer, or refuses. It may have been written all the same.
        """

    def replace(self, key: str, data: bytes) -> None:
        """Writes a document, whether or not it exists.

        Raises:
            OSError: The store does not answer, or refuses.
        """

    def current(self, key: str, most: int) -> bytes | None:
        """Reads a document as it is now, whatever was listed; None if there is none. Raises as `read`."""

    def delete(self, key: str) -> None:
        """Removes a document, if it is there.

        Raises:
            OSError: The store does not answer, or refuses.
        """

    def stat_blob(self, digest: str) -> Blob | None:
        """Describes a blob; None if there is none.

        Raises:
            OSError: The store does not answer, or refuses.
        """

    def put_blob(self, digest: str, file: Path) -> None:
        """Writes a blob, whole or not at all, anew where it exists.

        Raises:
            OSError: The store does not answer or refuses, or the file cannot be read.
        """

    def read_blob(self, digest: str, size: int) -> Iterator[bytes]:
        """Yields a blob's bytes in pieces, `size` of them at most; they are not compared with its digest.

        Raises:
            FileNotFoundError: There is no such blob.
            OSError: The store does not answer, or refuses.
        """

    def blobs(self) -> Sequence[Blob] | None:
        """Lists all blobs; None if the store removes by itself what nothing refers to, or nobody but it can.

        Raises:
            OSError: The store does not answer, refuses, or holds more than it may.
        """

    def delete_blob(self, digest: str) -> None:
        """Removes a blob, if it is there.

        Raises:
            OSError: The store does not answer, or refuses.
        """

    def close(self) -> None:
        """Closes the connections."""
