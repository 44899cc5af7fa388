"""The files that a version will consist of, described where they lie, before they go anywhere."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from semver import Version

from turnout.errors import InvalidModel
from turnout.registry.manifest.digest import Progress, stream_digest
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
    """One file of a version, where it lies now.

    Attributes:
        path: Where it goes in the version's directory.
        directory: Where to start from.
        name: Relative to `directory`; held to it if the model names the file, free if a person does.
        named: A person named it.
    """

    path: str
    directory: Path
    name: str
    named: bool

    def open(self) -> AbstractContextManager[BinaryIO]:
        """Opens it, as a publish would.

        Raises:
            OSError: It cannot be read.
        """
        return open_outside(self.directory / self.name) if self.named else open_external(self.directory, self.name)


@dataclass(frozen=True, slots=True)
class Collected:
    """A version that is ready to go.

    Attributes:
        sources: In the upload manifest's order.
    """

    upload_manifest: UploadManifest
    sources: tuple[SourceFile, ...]
    facts: ModelFacts

    def published(self, version: Version) -> Published:
        """Returns the version that it will be, published under that number.

        Raises:
            InvalidModel: It cannot be described.
        """
        metadata_given = self.upload_manifest
        return Published(
            *stated(metadata_given.model, version, metadata_given.files, self.facts, metadata_given.metadata)
        )


def collect(request: PublishRequest, progress: Progress | None = None) -> Collected:
    """Finds the model's files and reads every byte of them for their digests.

    Raises:
        InvalidModel: One is missing, or the model's file is not an ONNX file.
        InvalidRequest: They cannot be those of a version.
    """
    home = request.source.parent
    sources = [SourceFile(MODEL_FILE, home, request.source.name, named=True)]
    with _explained("the ONNX file"), open_outside(request.source):  # what is no file is never read
        facts = read_model(request.source)
    request.metadata.check_against(facts.signature)
    sources += [SourceFile(external.path, home, external.path, named=False) for external in facts.external]
    sources += [
        SourceFile(f"{GOLDEN_DIRECTORY}/{case.name}", case.parent, case.name, named=True) for case in request.golden
    ]
    entries = tuple(_entry(source, progress) for source in sources)
    upload_manifest = UploadManifest(request.model, request.version, entries, request.metadata)
    return Collected(upload_manifest, tuple(sources), facts)


def _entry(source: SourceFile, progress: Progress | None) -> FileEntry:
    with _explained(source.path), source.open() as file:
        size = os.fstat(file.fileno()).st_size
        entry = FileEntry(source.path, size, stream_digest(file, progress=progress, most=size))
        if file.read(1):
            raise InvalidModel(f"{source.path} grew while it was read")
        return entry


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidModel(f"{what} {explain(error)}") from error
