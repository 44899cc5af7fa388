"""Versions that come in piece by piece: announced, collected out of sight, then published as any other.

announced -> collected -> published, or thrown away: by the client, by a refusal, by the time, by the end of the server

An upload's files lie in a staging directory (`turnout.registry.storage.staging`), which the kernel unlocks when the
process dies, so that a kill -9 leaves nothing that the next sweep does not take. A stream that breaks off leaves the
upload for its client to go on with; it is found by its upload manifest, so a client need not remember anything.
"""

import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from semver import Version

from turnout.errors import (
    AlreadyExistsError,
    DigestMismatch,
    Exhausted,
    InvalidRequest,
    ModelNotFound,
    NotFoundError,
    UnavailableError,
    VersionNotFound,
)
from turnout.registry.gates.gate import GateReport
from turnout.registry.gates.version_history import VersionHistory
from turnout.registry.manifest.digest import manifest_digest
from turnout.registry.manifest.manifest import Manifest
from turnout.registry.onnx.model import ReadModel
from turnout.registry.publishing.commit import check_number, is_published
from turnout.registry.publishing.publish import PublishRequest, PublishResult
from turnout.registry.publishing.publish_options import PublishOptions
from turnout.registry.storage.files import storage_errors
from turnout.registry.storage.repository import Repository
from turnout.registry.storage.staging import staged
from turnout.registry.transfer.upload import Upload
from turnout.registry.transfer.upload_manifest import Bounds, UploadManifest

_BUSY_SECONDS = 1.0
_ENDING = "it is being thrown away"
_COPIES = 2
"""The upload itself, and the version that is staged from it."""


class Publishes(Protocol):
    """Publishes what lies in a directory."""

    def publish(self, request: PublishRequest, how: PublishOptions) -> PublishResult:
        """Publishes it; raises as `turnout.registry.publishing.publish.publish`."""

    def describe(self, request: PublishRequest) -> PublishResult:
        """Says which version it would become; runs no gate, and changes nothing."""

    def reader(self, model: str) -> ReadModel:
        """Returns what reads the ONNX file of a version of `model`."""


Yanked = Callable[[str], Sequence[Version]]
"""Returns the yanked versions of a model."""


@dataclass(frozen=True, slots=True)
class UploadStatus:
    """What became of an upload manifest that a client sent.

    Attributes:
        upload_id: Names the upload; "" if the version exists.
        received: Bytes that are there of each file.
        existing: The version, where the very same one exists.
    """

    upload_id: str
    received: tuple[int, ...]
    existing: PublishResult | None = None


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """Limits on the uploads of one server.

    Attributes:
        each: On one upload.
        uploads: Open at the same time.
        keep_seconds: How long an upload that nothing happens to is kept.
        idle_seconds: How long it is kept where its place is wanted.
    """

    each: Bounds
    uploads: int
    keep_seconds: float
    idle_seconds: float


class Uploads:
    """The uploads of one server. Blocking; safe to use from several threads."""

    def __init__(
        self,
        repository: Repository,
        publisher: Publishes,
        yanked: Yanked,
        limits: UploadLimits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Creates nothing on disk yet. `yanked` is called before an upload begins, and again by the publish."""
        self._repository = repository
        self._publisher = publisher
        self._yanked = yanked
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._uploads: dict[str, Upload] = {}
        self._by_key: dict[str, str] = {}

    def begin(self, upload_manifest: UploadManifest) -> UploadStatus:
        """Opens an upload, or finds it again, or finds that nothing has to be uploaded.

        Raises:
            ChangeRefused: The repository is mounted read-only.
            InvalidRequest: A bound is passed.
            AlreadyExistsError: The version number is taken.
            DigestMismatch: The same version exists, and its bytes changed.
            Exhausted: As many uploads are open as may be, or the disk has no room.
            ConfigError: The repository cannot be written to.
        """
        self._repository.check_writable()
        upload_manifest.check_bounds(self._limits.each)
        yanked = self._yanked(upload_manifest.model)
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
                upload.touched = self._clock()
                return UploadStatus(upload.id, upload.received)
            if len(self._uploads) >= self._limits.uploads:
                raise Exhausted(
                    f"{self._limits.uploads} uploads are open, which is as many as may be", retry_after=_BUSY_SECONDS
                )
            upload = self._open(upload_manifest)
            self._uploads[upload.id] = upload
            self._by_key[key] = upload.id
            return UploadStatus(upload.id, upload.received)

    @contextmanager
    def writing(self, upload_id: str) -> Iterator[None]:
        """Reserves an upload for one writer.

        Raises:
            NotFoundError: There is no such upload.
            UnavailableError: It has a writer, or is being published.
        """
        upload = self._claim(upload_id, "another stream writes to it")
        try:
            yield
        finally:
            self._unclaim(upload)

    def write(self, upload_id: str, file: int, offset: int, data: bytes) -> None:
        """Takes a piece of a file. The caller is its one writer.

        Raises:
            InvalidRequest: It does not follow what is there, or completes a file that is not the announced one.
            NotFoundError: There is no such upload any more.
            Exhausted: The disk is full.
        """
        self._find(upload_id).write(file, offset, data, self._clock())

    def model_of(self, upload_id: str) -> str | None:
        """Returns the model that an upload is of; None if there is no such upload."""
        upload = self._uploads.get(upload_id)
        return None if upload is None else upload.upload_manifest.model

    def received(self, upload_id: str) -> tuple[int, ...]:
        """Returns the bytes that are there of each file.

        Raises:
            NotFoundError: There is no such upload.
        """
        return self._find(upload_id).received

    def describe(self, upload_id: str) -> PublishResult:
        """Says which version a complete upload would become. Runs no gate, and changes nothing.

        Raises:
            TurnoutError: As `publish`, less what gates find.
        """
        with self._complete(upload_id, "it is being described") as upload:
            return self._publisher.describe(upload.request())

    def publish(self, upload_id: str, how: PublishOptions) -> PublishResult:
        """Publishes a complete upload, and throws it away, unless trying again may help.

        Raises:
            ChangeRefused: Files are not complete.
            NotFoundError, UnavailableError: As `writing`.
            InvalidModel: A gate failed, or the files are not those of the model.
            TurnoutError: As `turnout.registry.publishing.publish.publish`.
        """
        with self._complete(upload_id, "it is being published") as upload:
            result = self._publisher.publish(upload.request(), how)
            self._close(upload)
            return result

    @contextmanager
    def _complete(self, upload_id: str, what: str) -> Iterator[Upload]:
        """Claims an upload of which all is there; throws it away if the block says that it can never succeed."""
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
        """Throws an upload away.

        Raises:
            NotFoundError: There is no such upload.
            UnavailableError: Something goes on with it.
        """
        self._close(self._claim(upload_id, _ENDING))

    def expire(self) -> int:
        """Throws away what nothing has happened to for too long, and returns how much."""
        before = self._clock() - self._limits.keep_seconds
        with self._lock:
            old = [upload for upload in self._uploads.values() if not upload.busy and upload.touched <= before]
            for upload in old:
                upload.busy = _ENDING
        for upload in old:
            self._close(upload)
        return len(old)

    def _make_place(self, upload_manifest: UploadManifest) -> None:
        """Throws away one upload if as many are open as may be, so that nobody keeps others from publishing.

        The one that was touched longest ago goes, of those that nothing has happened to for a while, and those of
        models that have at least two more of them than the new one's.
        """
        before = self._clock() - self._limits.idle_seconds
        with self._lock:
            if len(self._uploads) < self._limits.uploads or upload_manifest.key in self._by_key:
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
        """Throws everything away."""
        with self._lock:
            uploads = list(self._uploads.values())
        for upload in uploads:
            self._close(upload)

    def _existing(self, upload_manifest: UploadManifest, yanked: Sequence[Version]) -> PublishResult | None:
        """Returns the version that has exactly what is announced: the one named, or the highest; None if it does not.

        Raises:
            AlreadyExistsError: It exists with other content.
        """
        if upload_manifest.version is None:
            with storage_errors():
                highest = VersionHistory.of(self._repository, upload_manifest.model, yanked).highest
            if highest is None or _offered(upload_manifest, highest.manifest)[1] != highest.digest:
                return None
            found = highest.manifest
        else:
            try:
                found = self._repository.find(upload_manifest.model, upload_manifest.version).manifest
            except (ModelNotFound, VersionNotFound):
                return None
            except DigestMismatch as error:
                raise AlreadyExistsError(f"a version that cannot be read stands there: {error.message}") from error
        offered, digest = _offered(upload_manifest, found)
        assert is_published(self._repository, offered, digest), "it was found a moment ago"
        return PublishResult(found, digest, created=False, report=GateReport())

    def _open(self, upload_manifest: UploadManifest) -> Upload:
        with storage_errors(), ExitStack() as stack:
            directory = stack.enter_context(staged(self._repository.root))
            if shutil.disk_usage(directory).free < _COPIES * upload_manifest.size:
                raise Exhausted(f"the repository has no room for {upload_manifest.size} bytes twice")
            return Upload.begun(upload_manifest, directory, stack.pop_all(), self._clock())

    def _find(self, upload_id: str) -> Upload:
        upload = self._uploads.get(upload_id)
        if upload is None:
            raise NotFoundError("there is no such upload; begin again")
        return upload

    def _claim(self, upload_id: str, what: str) -> Upload:
        with self._lock:
            upload = self._find(upload_id)
            if upload.busy:
                raise UnavailableError(f"the upload is taken: {upload.busy}", retry_after=_BUSY_SECONDS)
            upload.busy = what
            return upload

    def _unclaim(self, upload: Upload) -> None:
        with self._lock:
            upload.busy = ""
            upload.touched = self._clock()

    def _close(self, upload: Upload) -> None:
        with self._lock:
            self._uploads.pop(upload.id, None)
            self._by_key.pop(upload.upload_manifest.key, None)
        upload.stack.close()


def _offered(upload_manifest: UploadManifest, found: Manifest) -> tuple[Manifest, str]:
    """Returns what the manifest of a published version would be, and its digest, were it that of what is announced."""
    # What a manifest says beyond this is read from the ONNX file, so the same files say the same.
    offered = upload_manifest.metadata.applied_to(found)
    offered = replace(offered, files=tuple(sorted(upload_manifest.files, key=lambda entry: entry.path)))
    return offered, manifest_digest(offered)
