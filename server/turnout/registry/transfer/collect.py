"""Finds and describes the files of a version before it is uploaded."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from semver import Version

from turnout.errors import InvalidModel
from turnout.registry.manifest.digest import stream_digest
from turnout.registry.manifest.manifest import MODEL_FILE, FileEntry
from turnout.registry.onnx.model import ModelFacts, read_model
from turnout.registry.onnx.model_files import open_external
from turnout.registry.publishing.manifest_builder import stated
from turnout.registry.publishing.publish import PublishRequest
from turnout.registry.storage.files import explain, open_outside
from turnout.registry.storage.golden import GOLDEN_DIRECTORY
from turnout.registry.storage.listing import Published
from turnout.registry.transfer.upload_manifest import UploadManifest


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a version in its original place.

    Attributes:
        path: Path of the file in the version's directory.
        directory: Directory to start from.
        name: Path relative to `directory`. It must stay inside if it comes from the model, but not if it comes from a
            person.
        named: Whether a person named the file.
    """

    path: str
    directory: Path
    name: str
    named: bool

    def open(self) -> AbstractContextManager[BinaryIO]:
        """Opens the file as a publish would. Raises OSError if the file cannot be read."""
        return open_outside(self.directory / self.name) if self.named else open_external(self.directory, self.name)


@dataclass(frozen=True, slots=True)
class Collected:
    """A version that is ready to be uploaded.

    Attributes:
        sources: Files in the order of the upload manifest.
    """

    upload_manifest: UploadManifest
    sources: tuple[SourceFile, ...]
    facts: ModelFacts

    def published(self, version: Version) -> Published:
        """Returns the version as it will be when published under this number.

        Raises:
            InvalidModel: Its manifest would be invalid.
        """
        upload = self.upload_manifest
        return Published(*stated(upload.model, version, upload.files, self.facts, upload.metadata))


def collect(request: PublishRequest) -> Collected:
    """Finds the model's files, and reads all their bytes to compute digests.

    Raises:
        InvalidModel: A file is missing, or the model is not an ONNX file.
        InvalidRequest: The files do not form a valid version.
    """
    home = request.source.parent
    sources = [SourceFile(MODEL_FILE, home, request.source.name, named=True)]
    with _explained("the ONNX file"), open_outside(request.source):  # never reads something that is not a file
        facts = read_model(request.source)
    request.metadata.check_against(facts.signature)
    sources += [SourceFile(external.path, home, external.path, named=False) for external in facts.external]
    sources += [
        SourceFile(f"{GOLDEN_DIRECTORY}/{case.name}", case.parent, case.name, named=True) for case in request.golden
    ]
    entries = tuple(_entry(source) for source in sources)
    upload_manifest = UploadManifest(request.model, request.version, entries, request.metadata)
    return Collected(upload_manifest, tuple(sources), facts)


def _entry(source: SourceFile) -> FileEntry:
    with _explained(source.path), source.open() as file:
        size = os.fstat(file.fileno()).st_size
        entry = FileEntry(source.path, size, stream_digest(file, most=size))
        if file.read(1):
            raise InvalidModel(f"{source.path} grew while it was read")
        return entry


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidModel(f"{what} {explain(error)}") from error
