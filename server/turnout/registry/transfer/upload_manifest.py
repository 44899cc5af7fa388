"""Checks a client's announcement of an upload before any data is received.

Paths are restricted to those that a manifest and a version may contain, so that none can refer to a place outside the
staging directory of the upload.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import rfc8785
from semver import Version

from turnout.config import Transfers
from turnout.errors import InvalidRequest
from turnout.registry.manifest.digest import bytes_digest
from turnout.registry.manifest.manifest import MANIFEST_FILE, MODEL_FILE, FileEntry
from turnout.registry.manifest.names import check_model_name, parse_version
from turnout.registry.publishing.metadata import MAX_METADATA_BYTES, VersionMetadata, parse_metadata
from turnout.registry.storage.golden import GOLDEN_DIRECTORY, GOLDEN_FILE, is_golden

AUTO = "auto"
"""Used instead of a version to have it chosen."""

MAX_FILES = 5000
MAX_PATH_BYTES = 1024
MAX_NAME_BYTES = 255


@dataclass(frozen=True, slots=True)
class UploadManifest:
    """A version to be uploaded.

    Attributes:
        model: Name of the model.
        version: Exact version; None to have it chosen when the upload is published.
        files: Files in the client's order.
    """

    model: str
    version: Version | None
    files: tuple[FileEntry, ...]
    metadata: VersionMetadata

    def __post_init__(self) -> None:
        check_model_name(self.model)
        if not 0 < len(self.files) <= MAX_FILES:
            raise InvalidRequest.at("files", f"expected 1 to {MAX_FILES} files, got {len(self.files)}")
        paths = [file.path for file in self.files]
        for index, path in enumerate(paths):
            _check_path(path, f"files[{index}].path")
            if self.files[index].size == 0 and self.files[index].digest != bytes_digest(b""):
                raise InvalidRequest.at(f"files[{index}].digest", "is not that of a file of 0 bytes")
        if MODEL_FILE not in paths:
            raise InvalidRequest.at("files", f"expected one with the path {MODEL_FILE}")
        if len(set(paths)) < len(paths):
            raise InvalidRequest.at("files", "a path is listed twice")
        directories = {"/".join(path.split("/")[:depth]) for path in paths for depth in range(1, path.count("/") + 1)}
        if clash := sorted(directories & set(paths)):
            raise InvalidRequest.at("files", f"{clash[0]!r} is both a file and a directory")

    @property
    def size(self) -> int:
        """Total size of all files in bytes."""
        return sum(file.size for file in self.files)

    @property
    def golden(self) -> tuple[str, ...]:
        """Paths of the golden cases."""
        return tuple(file.path for file in self.files if is_golden(file.path))

    @property
    def key(self) -> str:
        """Key that is the same for equal upload manifests of all clients."""
        files = sorted((file.path, file.size, file.digest) for file in self.files)
        return bytes_digest(rfc8785.dumps([self.model, written_version(self.version), files, self.metadata.to_meta()]))

    def check_bounds(self, bounds: Transfers) -> None:
        """Checks the announced sizes. Raises InvalidRequest if a file, or the total, is too large."""
        for index, file in enumerate(self.files):
            if file.size > bounds.max_file_bytes:
                raise InvalidRequest.at(
                    f"files[{index}].size", f"expected at most {bounds.max_file_bytes} bytes, got {file.size}"
                )
        if self.size > bounds.max_upload_bytes:
            raise InvalidRequest.at(
                "files", f"expected at most {bounds.max_upload_bytes} bytes together, got {self.size}"
            )


def announced_version(text: str) -> Version | None:
    """Parses an announced version; None if it is to be chosen.

    Raises:
        InvalidRequest: The text is neither an exact version nor `auto`.
    """
    return None if text == AUTO else parse_version(text)


def written_version(version: Version | None) -> str:
    """Returns the form that `announced_version` parses."""
    return AUTO if version is None else str(version)


def announced_files(files: Sequence[tuple[str, int, str]]) -> tuple[FileEntry, ...]:
    """Checks announced paths, sizes and digests. Raises InvalidRequest if a path, a size or a digest is invalid."""
    entries = []
    for index, (path, size, digest) in enumerate(files):
        try:
            if len(path) > MAX_PATH_BYTES:  # checked first: parsing 60 MiB stalled the event loop for 0.3 s
                raise ValueError
            entries.append(FileEntry(path, size, digest))
        except ValueError:
            # The error of the manifest would quote the path, however long it is.
            raise InvalidRequest.at(
                f"files[{index}]",
                f"expected a relative path in its plain form and a digest of sha256: and 64 hex digits,"
                f" got {path[:64]!r}, {digest[:80]!r}",
            ) from None
    return tuple(entries)


def announced_metadata(text: str) -> VersionMetadata:
    """Parses announced metadata. Raises InvalidRequest if the text is not metadata as for `publish --meta`, in JSON."""
    if not text:
        return VersionMetadata()
    if len(text.encode()) > MAX_METADATA_BYTES:
        raise InvalidRequest.at("metadata_json", f"expected at most {MAX_METADATA_BYTES} bytes")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidRequest.at("metadata_json", "expected JSON") from None
    return parse_metadata(body)


def _check_path(path: str, where: str) -> None:
    encoded = path.encode("utf-8", "surrogatepass")
    names = encoded.split(b"/")
    if len(encoded) > MAX_PATH_BYTES or max(map(len, names)) > MAX_NAME_BYTES or not path.isprintable():
        raise InvalidRequest.at(
            where, f"expected printable text of at most {MAX_PATH_BYTES} bytes, each name at most {MAX_NAME_BYTES}"
        )
    if path == MANIFEST_FILE:
        raise InvalidRequest.at(where, f"{MANIFEST_FILE} is written by the server")
    if is_golden(path) and not GOLDEN_FILE.fullmatch(path):
        raise InvalidRequest.at(where, f"expected golden cases as {GOLDEN_DIRECTORY}/NAME.npz, NAME a plain name")
