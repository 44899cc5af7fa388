"""Publishing and fetching by stream. What touches the disk runs in threads of its own, behind live traffic."""

import asyncio
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from typing import ParamSpec, TypeAlias, TypeVar

from turnout.cancellation import Cancellation, WorkCancelled
from turnout.errors import Conflict, Exhausted, InvalidRequest, RequestCancelled, TurnoutError
from turnout.registry.gates import GateRefused
from turnout.registry.manifest.digest import canonical_bytes
from turnout.registry.manifest.names import parse_version
from turnout.registry.publishing.evidence_records import EvidenceRecords
from turnout.registry.publishing.publish import PublishResult
from turnout.registry.signing.trust import Trust, bundles
from turnout.registry.storage.listing import Published
from turnout.registry.storage.repository import Repository
from turnout.registry.transfer.fetch import VersionReader
from turnout.registry.transfer.upload import CHUNK
from turnout.registry.transfer.upload_manifest import (
    UploadManifest,
    announced_files,
    announced_metadata,
    announced_version,
)
from turnout.registry.transfer.uploads import Uploads
from turnout.releases.release import ReleaseStateWriter
from turnout.rollout.changes.operations import ChangeResult, Operations
from turnout.rpc.control.calls import check_record
from turnout.rpc.control.messages import answers_message
from turnout.rpc.errors import to_status
from turnout.rpc.registry.messages import (
    described_message,
    publish_options,
    published_message,
    refused_message,
    sent_bundles,
    signature,
)
from turnout.rpc.transport.port import StatusError
from turnout.state.release_status import ModelReleaseState
from turnout_proto.v1 import registry_pb2 as pb

_BUSY_SECONDS = 1.0

P = ParamSpec("P")
T = TypeVar("T")

Write: TypeAlias = Callable[[pb.FetchVersionResponse], Awaitable[None]]


class RegistryServicer:
    """Takes versions in and gives them out."""

    def __init__(
        self,
        repository: Repository,
        uploads: Uploads,
        declarer: ReleaseStateWriter,
        operations: Operations,
        release_state: Callable[[str], ModelReleaseState],
        trust: Callable[[str], Trust],
        refresh: Callable[[], Awaitable[None]],
        threads: Executor,
        idle_seconds: float,
        max_fetches: int,
    ) -> None:
        self._repository = repository
        self._uploads = uploads
        self._declarer = declarer
        self._operations = operations
        self._release_state = release_state
        self._trust = trust
        self._refresh = refresh
        self._threads = threads
        self._idle = idle_seconds
        self._fetches_left = max_fetches
        self._working: set[Cancellation] = set()
        self._stopped: TurnoutError | None = None

    def model_of_upload(self, upload_id: str) -> str | None:
        """Returns the model that an upload is of; None if there is no such upload."""
        return self._uploads.model_of(upload_id)

    def stop(self, cause: TurnoutError) -> None:
        """Ends all work that goes on, and refuses what would begin: whoever waits for it is told the cause."""
        self._stopped = cause
        for cancellation in self._working:
            cancellation.cancel(cause)

    async def BeginUpload(self, request: pb.BeginUploadRequest) -> pb.BeginUploadResponse:  # noqa: N802 - gRPC's
        """Opens an upload, or finds it again."""
        upload_manifest = UploadManifest(
            request.model,
            announced_version(request.version),
            announced_files([(file.path, file.size, file.digest) for file in request.files]),
            announced_metadata(request.metadata_json),
        )
        begun = await self._in_thread(self._uploads.begin, upload_manifest)
        if begun.existing is not None:
            return pb.BeginUploadResponse(published=await self._message(begun.existing))
        return pb.BeginUploadResponse(upload_id=begun.upload_id, received=begun.received)

    async def UploadFiles(  # noqa: N802
        self, requests: AsyncIterator[pb.UploadFilesRequest]
    ) -> pb.UploadFilesResponse:
        """Collects what a client sends."""
        first = await self._next(requests)
        if first is None:
            raise InvalidRequest.at("upload_id", "expected in the first message, and none came")
        with self._uploads.writing(first.upload_id):
            message: pb.UploadFilesRequest | None = first
            while message is not None:
                if message.HasField("chunk"):
                    chunk = message.chunk
                    await self._in_thread(self._uploads.write, first.upload_id, chunk.file, chunk.offset, chunk.data)
                message = await self._next(requests)
        return pb.UploadFilesResponse(received=self._uploads.received(first.upload_id))

    async def DescribeUpload(self, request: pb.DescribeUploadRequest) -> pb.DescribeUploadResponse:  # noqa: N802
        """Says which version an upload would become."""
        result = await self._in_thread(self._uploads.describe, request.upload_id)
        return pb.DescribeUploadResponse(version=await self._message(result))

    async def PublishUpload(self, request: pb.PublishUploadRequest) -> pb.PublishUploadResponse:  # noqa: N802
        """Runs the gates and makes the version exist."""
        check_record(request.actor, request.reason)
        try:
            result, released = await self._in_thread(self._publish, request)
        except GateRefused as error:
            raise StatusError(to_status(error, details=[refused_message(error)])) from None
        await self._refresh()
        response = pb.PublishUploadResponse(published=await self._message(result))
        if released is not None:
            response.sentence = released.sentence
            response.answers.CopyFrom(answers_message(released.answers))
        return response

    async def AbandonUpload(self, request: pb.AbandonUploadRequest) -> pb.AbandonUploadResponse:  # noqa: N802
        """Throws an upload away."""
        await self._in_thread(self._uploads.abandon, request.upload_id)
        return pb.AbandonUploadResponse()

    async def SignVersion(self, request: pb.SignVersionRequest) -> pb.SignVersionResponse:  # noqa: N802
        """Keeps a signature beside a version."""
        check_record(request.actor, request.reason)
        changed = await self._in_thread(self._sign, request)
        await self._refresh()
        return pb.SignVersionResponse(changed=changed)

    async def DescribeVersion(self, request: pb.DescribeVersionRequest) -> pb.DescribeVersionResponse:  # noqa: N802
        """Tells what is known of a version."""
        return await self._in_thread(self._described, request)

    async def FetchVersion(self, request: pb.FetchVersionRequest, write: Write) -> None:  # noqa: N802
        """Sends a version, no faster than its receiver takes it."""
        if not self._fetches_left:
            raise Exhausted("as many fetches are under way as may be", retry_after=_BUSY_SECONDS)
        self._fetches_left -= 1
        try:
            await self._fetch(request, write)
        finally:
            self._fetches_left += 1

    def _publish(self, request: pb.PublishUploadRequest) -> tuple[PublishResult, ChangeResult | None]:
        result = self._uploads.publish(request.upload_id, publish_options(request))
        if not request.release:
            return result, None
        manifest = result.manifest
        return result, self._operations.release_published(
            manifest.model, manifest.version, actor=request.actor, reason=request.reason
        )

    def _sign(self, request: pb.SignVersionRequest) -> bool:
        version, signer = parse_version(request.version), signature(request)
        return self._declarer.sign(request.model, version, signer, actor=request.actor, reason=request.reason).changed

    def _described(self, request: pb.DescribeVersionRequest) -> pb.DescribeVersionResponse:
        found: Published = self._repository.find(request.model, parse_version(request.version))
        evidence_records = EvidenceRecords.of(self._repository, found, self._trust(request.model))
        release_state = self._release_state(request.model)
        return described_message(found, evidence_records, release_state.reasons.get(found.manifest.version, ""))

    async def _fetch(self, request: pb.FetchVersionRequest, write: Write) -> None:
        version = parse_version(request.version)
        found = await self._in_thread(self._repository.find, request.model, version)
        signatures = await self._in_thread(bundles, self._repository, found)
        manifest = pb.FetchedManifest(
            manifest=canonical_bytes(found.manifest),
            digest=found.digest,
            signature_bundles=sent_bundles(signatures.values()),
        )
        await self._send(write, pb.FetchVersionResponse(manifest=manifest))
        directory = await self._in_thread(self._repository.fetch, request.model, version)
        reading = VersionReader(directory, found.manifest, CHUNK)
        try:
            while (piece := await self._in_thread(reading.next)) is not None:
                chunk = pb.FileChunk(file=piece.file, offset=piece.offset, data=piece.data)
                await self._send(write, pb.FetchVersionResponse(chunk=chunk))
        finally:
            reading.close()

    async def _send(self, write: Write, message: pb.FetchVersionResponse) -> None:
        try:
            await asyncio.wait_for(write(message), self._idle)
        except TimeoutError:
            raise Conflict(f"nothing was taken for {self._idle:g} s") from None

    async def _next(self, requests: AsyncIterator[pb.UploadFilesRequest]) -> pb.UploadFilesRequest | None:
        try:
            return await asyncio.wait_for(anext(requests), self._idle)
        except StopAsyncIteration:
            return None
        except TimeoutError:
            raise Conflict(f"nothing came for {self._idle:g} s; begin again, and go on") from None

    async def _in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._stopped is not None:
            raise self._stopped
        cancellation = Cancellation()

        def work() -> T:
            with cancellation.applies():
                return call(*args, **kwargs)

        context = contextvars.copy_context()  # it says which models whoever asks may be told of
        future = asyncio.get_running_loop().run_in_executor(self._threads, context.run, work)
        self._working.add(cancellation)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            cancellation.cancel(RequestCancelled("whoever asked for it is gone"))
            # It ends at its next step: what it uses stays reserved until then, and what it published is published.
            await asyncio.wait([future])
            if not future.cancelled():
                future.exception()  # looked at: nobody is left to be told
            raise
        except WorkCancelled as error:
            raise error.cause from None
        finally:
            self._working.discard(cancellation)
            del future  # it holds the error, whose traceback leads here

    async def _message(self, result: PublishResult) -> pb.PublishedVersion:
        release_state = await self._in_thread(self._release_state, result.manifest.model)
        return published_message(result, release_state.release_status(result.manifest.version))
