"""Stores the last listing in the cache, for servers that start while the store is unavailable, and so that no process
reads again what another one has read.

ROOT/.listing/listing.json          names of documents, with their stamps, and digests or the stamps of their copies
ROOT/.listing/manifests/HEX         manifests, under their digests
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turnout.registry.storage.files import FileStamp, read_small, replace_file
from turnout.registry.storage.listing import Published
from turnout.registry.storage.manifests import MAX_MANIFEST_BYTES, parse_manifest

_FOLDER = ".listing"
_MAX_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A listed manifest.

    Attributes:
        modified: When it was written, by the store's clock; None if the store does not report it.
    """

    stamp: str
    modified: float | None
    published: Published


Copied = tuple[str, FileStamp]
"""Stamp of a document, and of its copy in the cache when the document had that stamp."""


class Index:
    """The stored listing. Every process that lists writes it, atomically; the last one wins."""

    def __init__(self, root: Path) -> None:
        self._home = root / _FOLDER

    def load(self) -> Mapping[str, IndexEntry] | None:
        """Returns the manifests of the last listing, by key; None if there is none, or it cannot be read."""
        found: dict[str, IndexEntry] = {}
        try:
            body = self._read()
            for key, (stamp, modified, digest) in body["manifests"].items():
                with suppress(OSError, ValueError):  # a missing or damaged manifest is read from the store again
                    data = read_small(self._manifest(str(digest)), MAX_MANIFEST_BYTES)
                    if (published := parse_manifest(data)).digest == digest:
                        found[key] = IndexEntry(str(stamp), modified, published)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return found or None
        return found

    def copied(self) -> dict[str, Copied]:
        """Returns the small documents that were copied to the cache, by key; {} if that is not known."""
        try:
            found = self._read()["copied"].items()
            return {key: (str(stamp), (int(a), int(b), int(c), int(d))) for key, (stamp, (a, b, c, d)) in found}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return {}

    def _read(self) -> Any:
        return json.loads(read_small(self._home / "listing.json", _MAX_BYTES))

    def keep(self, data: bytes, digest: str) -> None:
        """Stores a manifest. Raises OSError if the cache cannot be written to."""
        replace_file(self._manifest(digest), data, durable=False)

    def save(self, entries: Mapping[str, IndexEntry], copied: Mapping[str, Copied]) -> None:
        """Stores a listing, and removes all other manifests. Raises OSError if the cache cannot be written to."""
        body = {key: [entry.stamp, entry.modified, entry.published.digest] for key, entry in entries.items()}
        listing = json.dumps({"manifests": body, "copied": copied})
        replace_file(self._home / "listing.json", listing.encode(), durable=False)
        named = {self._manifest(entry.published.digest).name for entry in entries.values()}
        with suppress(FileNotFoundError), os.scandir(self._home / "manifests") as files:
            for file in files:
                if file.name not in named and not file.name.startswith("."):
                    Path(file.path).unlink(missing_ok=True)

    def _manifest(self, digest: str) -> Path:
        return self._home / "manifests" / digest.removeprefix("sha256:").replace("/", "_")
