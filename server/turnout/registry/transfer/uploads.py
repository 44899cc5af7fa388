"""Versions that are uploaded in pieces: announced, collected invisibly, then published like any other.

announced -> collected -> published, or deleted: by the client, after a refusal or a timeout, or when the server ends

An upload's files are in a staging directory (`turnout.registry.storage.staging`), which the kernel unlocks when the
process dies, so that the next sweep removes everything that a killed process leaves. If a stream breaks off, the upload
remains, and its client can continue it. It is found by its upload manifest, so a client need not store its id.
"""

import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from semver import Version

from turnout.config import Transfers
from turnout.errors import (
    AlreadyExistsError,
    DigestMismatch,
    Exhausted,
    InvalidRequest,
    NotFoundError,
    UnavailableError,
)
from turnout.registry.gates.gate import GateReport, Watch
from turnout.registry.gates.version_history import VersionHistory
from turnout.registry.manifest.digest import manifest_digest
from turnout.registry.onnx.model import ReadModel
from turnout.registry.publishing.commit import check_number, is_published, with_number
from turnout.registry.publishing.publish import PublishRequest, PublishResult
from turnout.registry.publishing.publish_options import PublishOptions
from turnout.registry.storage.files import storage_errors
from turnout.registry.storage.repository import Repository
from turnout.registry.storage.staging import staged
from turnout.registry.transfer.upload import Upload
from turnout.registry.transfer.upload_manifest import UploadManifest

_BUSY_SECONDS = 1.0
_ENDING = "it is being deleted"
_COPIES = 2
"""Number of copies on disk: the upload itself, and the version that is staged from it."""


class Publishes(Protocol):
    """Publishes the contents of a directory."""

    def publish(self, request: PublishRequest, how: PublishOptions, *, watch: Watch | None = None) -> PublishResult:
        """Publishes a version. Raises the same errors as `turnout.registry.publishing.publish.publish`."""

    def describe(self, request: PublishRequest) -> PublishResult:
        """Returns the version that the request would become. Runs no gate, and changes nothing."""

    def reader(self, model: str) -> ReadModel:
        """Returns a function that reads the ONNX file of a version of `model`."""

    def yanked(self, model: str) -> Sequence[Version]:
        """Returns the yanked versions of a model."""


@dataclass(frozen=True, slots=True)
class UploadStatus:
    """The answer to a client's announcement of an upload.

    Attributes:
        upload_id: Identifier of the upload; "" if the version exists.
        received: Number of bytes received of each file.
        existing: The version, if the same one already exists.
    """

    upload_id: str
    received: tuple[int, ...]
    existing: PublishResult | None = None


@dataclass(frozen=True, slots=True)
class PublishProgress:
    """What the publish of an upload is doing.

    Attributes:
        gate: Name of the gate that runs; "" before the first gate, and if the upload is not being published.
        seconds: Time for which the gate, or without one the publish, has run; 0.0 if the upload is not being published.
    """

    gate: str
    seconds: float


class Uploads:
    """The uploads of one server. Thread-safe. Methods block. They raise NotFoundError if there is no such upload, and
    UnavailableError if it has a writer or is being published.
    """

    def __init__(self, repository: Repository, publisher: Publishes, limits: Transfers) -> None:
        """Creates the manager, without writing to disk."""
        self._repository = repository
        self._publisher = publisher
        self._limits = limits
        self._lock = threading.Lock()
        self._uploads: dict[str, Upload] = {}
        self._by_key: dict[str, str] = {}

    def begin(self, upload_manifest: UploadManifest) -> UploadStatus:
        """Opens an upload, or finds an open one, or finds that nothing has to be uploaded.

        Raises:
            ChangeRefused: The repository is mounted read-only.
            InvalidRequest: A limit is exceeded.
            AlreadyExistsError: The version number is taken.
            DigestMismatch: The same version exists, but its bytes have changed.
            Exhausted: There are too many open uploads, or there is not enough disk space.
            ConfigError: The repository cannot be written to.
        """
        self._repository.check_writable()
        upload_manifest.check_bounds(self._limits)
        yanked = self._publisher.yanked(upload_manifest.model)  # a publish checks again
        if upload_manifest.version is not None:
            check_number(self._repository, upload_manifest.model, upload_manifest.version, yanked)
        if existing := self._existing(upload_manifest, yanked):
            return UploadStatus("", (), existing)
        self.expire()
        self._make_place(upload_manifest)
        key = upload_manifest.key
        with self._lock:
            if (known := self._by_key.get(key)) is not None:
                upload = self._uploads[known]
                upload.touched = time.monotonic()
                return UploadStatus(upload.id, upload.received)
            if len(self._uploads) >= self._limits.max_uploads:
                raise Exhausted(
                    f"{self._limits.max_uploads} uploads are open, which is the maximum", retry_after=_BUSY_SECONDS
                )
            upload = self._open(upload_manifest)
            self._uploads[upload.id] = upload
            self._by_key[key] = upload.id
            return UploadStatus(upload.id, upload.received)

    @contextmanager
    def writing(self, upload_id: str) -> Iterator[None]:
        """Claims an upload for one writer."""
        upload = self._claim(upload_id, "another stream writes to it")
        try:
            yield
        finally:
            self._unclaim(upload)

    def write(self, upload_id: str, file: int, offset: int, data: bytes) -> None:
        """Writes a piece of a file as `Upload.write` does. The caller must be the upload's writer."""
        self._find(upload_id).write(file, offset, data, time.monotonic())

    def model_of(self, upload_id: str) -> str | None:
        """Returns the model of an upload; None if there is no such upload."""
        upload = self._uploads.get(upload_id)
        return None if upload is None else upload.upload_manifest.model

    def received(self, upload_id: str) -> tuple[int, ...]:
        """Returns the number of bytes received of each file."""
        return self._find(upload_id).received

    def describe(self, upload_id: str) -> PublishResult:
        """Returns the version that a complete upload would become. Runs no gate, and changes nothing. Raises as
        `publish`, except for errors of gates.
        """
        with self._complete(upload_id, "it is being described") as upload:
            return self._publisher.describe(upload.request())

    def publish(self, upload_id: str, how: PublishOptions) -> PublishResult:
        """Publishes a complete upload, and deletes it, unless another attempt may succeed.

        Raises:
            ChangeRefused: Files are incomplete.
            InvalidModel: A gate failed, or the files do not match the model.
            TurnoutError: As for `turnout.registry.publishing.publish.publish`.
        """

        def enter(gate: str) -> None:
            upload.stage = gate, time.monotonic()

        with self._complete(upload_id, "it is being published") as upload:
            enter("")
            try:
                result = self._publisher.publish(upload.request(), how, watch=enter)
            finally:
                upload.stage = None
            self._close(upload)
            return result

    def progress(self, upload_id: str) -> PublishProgress:
        """Returns what `publish` is doing with an upload. Does not block."""
        if (stage := self._find(upload_id).stage) is None:
            return PublishProgress("", 0.0)
        gate, began = stage
        return PublishProgress(gate, time.monotonic() - began)

    @contextmanager
    def _complete(self, upload_id: str, what: str) -> Iterator[Upload]:
        """Claims a complete upload. Deletes it if the block raises an error that another attempt could not avoid."""
        upload = self._claim(upload_id, what)
        try:
            upload.check_complete()
            try:
                upload.check_belonging(self._publisher.reader(upload.upload_manifest.model))
                yield upload
            except (InvalidRequest, AlreadyExistsError, DigestMismatch):
                self._close(upload)
                raise
        finally:
            self._unclaim(upload)

    def abandon(self, upload_id: str) -> None:
        """Deletes an upload."""
        self._close(self._claim(upload_id, _ENDING))

    def expire(self) -> int:
        """Deletes uploads that have not been used for too long, and returns their number."""
        before = time.monotonic() - self._limits.keep_s
        with self._lock:
            old = [upload for upload in self._uploads.values() if not upload.busy and upload.touched <= before]
            for upload in old:
                upload.busy = _ENDING
        for upload in old:
            self._close(upload)
        return len(old)

    def _make_place(self, upload_manifest: UploadManifest) -> None:
        """Discards an upload if the maximum number is open, so that one publisher cannot block all others.

        The one that was touched longest ago goes, of those that nothing has happened to for a while, and those of
        models that have at least two more of them than the new one's.
        """
        before = time.monotonic() - self._limits.idle_s
        with self._lock:
            if len(self._uploads) < self._limits.max_uploads or upload_manifest.key in self._by_key:
                return
            opened = Counter(upload.upload_manifest.model for upload in self._uploads.values())
            most = opened[upload_manifest.model] + 1
            may_go = [
                upload
                for upload in self._uploads.values()
                if not upload.busy and (upload.touched <= before or opened[upload.upload_manifest.model] > most)
            ]
            if not may_go:
                return
            oldest = min(may_go, key=lambda upload: upload.touched)
            oldest.busy = _ENDING
        self._close(oldest)

    def close(self) -> None:
        """Deletes all uploads."""
        with self._lock:
            uploads = list(self._uploads.values())
        for upload in uploads:
            self._close(upload)

    def _existing(self, upload_manifest: UploadManifest, yanked: Sequence[Version]) -> PublishResult | None:
        """Returns the named version, or else the highest one, if it is exactly what is announced; None if it is not."""
        model, version = upload_manifest.model, upload_manifest.version
        if version is None:
            with storage_errors():
                known = VersionHistory.of(self._repository, model, yanked).highest
        else:
            known = with_number(self._repository, model, version)
        if known is None:
            return None
        # All other fields of a manifest come from the ONNX file, so they are the same for the same files.
        files = tuple(sorted(upload_manifest.files, key=lambda entry: entry.path))
        offered = replace(upload_manifest.metadata.applied_to(known.manifest), files=files)
        digest = manifest_digest(offered)
        if version is None and digest != known.digest:
            return None
        assert is_published(self._repository, offered, digest), "it was just found"
        return PublishResult(known.manifest, digest, created=False, report=GateReport())

    def _open(self, upload_manifest: UploadManifest) -> Upload:
        with storage_errors(), ExitStack() as stack:
            directory = stack.enter_context(staged(self._repository.root))
            if shutil.disk_usage(directory).free < _COPIES * upload_manifest.size:
                raise Exhausted(f"the repository has no room for twice the {upload_manifest.size} bytes of the upload")
            return Upload.begun(upload_manifest, directory, stack.pop_all(), time.monotonic())

    def _find(self, upload_id: str) -> Upload:
        upload = self._uploads.get(upload_id)
        if upload is None:
            raise NotFoundError("there is no such upload; begin again")
        return upload

    def _claim(self, upload_id: str, what: str) -> Upload:
        with self._lock:
            upload = self._find(upload_id)
            if upload.busy:
                raise UnavailableError(f"the upload is in use: {upload.busy}", retry_after=_BUSY_SECONDS)
            upload.busy = what
            return upload

    def _unclaim(self, upload: Upload) -> None:
        with self._lock:
            upload.busy = ""
            upload.touched = time.monotonic()

    def _close(self, upload: Upload) -> None:
        with self._lock:
            self._uploads.pop(upload.id, None)
            self._by_key.pop(upload.upload_manifest.key, None)
        upload.stack.close()
