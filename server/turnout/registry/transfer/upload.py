"""The state of one upload: what was announced, and what has been received."""

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from uuid import uuid4

from turnout.errors import ChangeRefused, InvalidModel, InvalidRequest
from turnout.registry.manifest.manifest import MODEL_FILE
from turnout.registry.onnx.model import ReadModel
from turnout.registry.publishing.publish import PublishRequest
from turnout.registry.storage.files import storage_errors
from turnout.registry.transfer.upload_manifest import UploadManifest

CHUNK = 1 << 20
"""Maximum size of a piece in bytes."""


@dataclass(slots=True)
class _File:
    received: int = 0
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)


@dataclass(slots=True)
class Upload:
    """An open upload. It is changed only by the caller that has claimed it.

    Attributes:
        upload_manifest: What was announced.
        directory: Staging directory for its files.
        files: State of each file, in the order of the upload manifest.
        stack: Closing it deletes the directory.
        touched: When the upload was last used, by the clock of `Uploads`.
        busy: Description of what is being done with it; "" if it is not claimed.
        stage: Gate that runs, "" before the first one, and when this stage began, by the same clock; None if the upload
            is not being published.
    """

    id: str
    upload_manifest: UploadManifest
    directory: Path
    files: list[_File]
    stack: ExitStack
    touched: float
    busy: str = ""
    stage: tuple[str, float] | None = None

    @classmethod
    def begun(cls, upload_manifest: UploadManifest, directory: Path, stack: ExitStack, now: float) -> Self:
        """Returns a new upload, in which only the empty files exist."""
        for entry in upload_manifest.files:
            if not entry.size:
                _put(directory / entry.path, 0, b"")
        return cls(uuid4().hex, upload_manifest, directory, [_File() for _ in upload_manifest.files], stack, now)

    @property
    def received(self) -> tuple[int, ...]:
        """Number of bytes received of each file."""
        return tuple(file.received for file in self.files)

    def write(self, file: int, offset: int, data: bytes, now: float) -> None:
        """Writes a piece of a file.

        Raises:
            InvalidRequest: It does not follow the data received so far, or completes a file that does not match its
                announcement.
            Exhausted: The disk is full.
        """
        entries = self.upload_manifest.files
        if file >= len(entries):
            raise InvalidRequest.at("chunk.file", f"expected 0 to {len(entries) - 1}, got {file}")
        if not 0 < len(data) <= CHUNK:
            raise InvalidRequest.at("chunk.data", f"expected 1 to {CHUNK} bytes, got {len(data)}")
        state, entry = self.files[file], entries[file]
        if offset != state.received:
            raise InvalidRequest.at("chunk.offset", f"expected {state.received} for file {file}, got {offset}")
        if offset + len(data) > entry.size:
            raise InvalidRequest.at("chunk.data", f"file {file} was announced with {entry.size} bytes")
        with storage_errors():
            _put(self.directory / entry.path, offset, data)
        state.digest.update(data)
        state.received += len(data)
        self.touched = now
        if state.received == entry.size and (got := f"sha256:{state.digest.hexdigest()}") != entry.digest:
            self.files[file] = _File()
            raise InvalidRequest.at(f"files[{file}].digest", f"announced {entry.digest}, received {got}")

    def check_complete(self) -> None:
        """Checks that all announced data was received. Raises ChangeRefused if data is missing."""
        for state, entry in zip(self.files, self.upload_manifest.files, strict=True):
            if state.received < entry.size:
                raise ChangeRefused(
                    f"{entry.path[:128]} is not complete: {state.received} of {entry.size} bytes were received"
                )

    def check_belonging(self, read: ReadModel) -> None:
        """Checks that the files are exactly the model, its external data and golden cases.

        Raises:
            InvalidModel: A file is missing or does not belong to the model.
        """
        facts = read(self.directory / MODEL_FILE)
        belonging = {MODEL_FILE, *(file.path for file in facts.external), *self.upload_manifest.golden}
        announced = {file.path for file in self.upload_manifest.files}
        if extra := sorted(announced - belonging):
            raise InvalidModel(f"{extra[0][:128]} does not belong to the model: nothing in {MODEL_FILE} refers to it")
        if missing := sorted(belonging - announced):
            raise InvalidModel(f"external data {missing[0][:128]!r} is missing")

    def request(self) -> PublishRequest:
        """Returns the request that publishes the upload once it is complete."""
        return PublishRequest(
            self.upload_manifest.model,
            self.upload_manifest.version,
            self.directory / MODEL_FILE,
            metadata=self.upload_manifest.metadata,
            golden=tuple(self.directory / path for path in self.upload_manifest.golden),
        )


def _put(target: Path, offset: int, data: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # A file that is sent again after a wrong digest is overwritten; it never gets longer than announced.
    with target.open("r+b" if offset else "wb") as file:
        file.seek(offset)
        file.write(data)
