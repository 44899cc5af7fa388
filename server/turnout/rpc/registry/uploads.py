"""Methods of the registry service that receive uploads and publish them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from turnout.errors import Conflict, InvalidRequest
from turnout.registry.gates.gate import GateRefused
from turnout.registry.publishing.publish import PublishResult
from turnout.registry.transfer.upload_manifest import (
    UploadManifest,
    announced_files,
    announced_metadata,
    announced_version,
)
from turnout.registry.transfer.uploads import Uploads
from turnout.rollout.changes.operations import ChangeResult, Operations
from turnout.rpc.control.calls import check_record
from turnout.rpc.control.messages import answers_message
from turnout.rpc.errors import to_status
from turnout.rpc.registry.messages import publish_options, published_message, refused_message
from turnout.rpc.registry.threads import CancellableThreads
from turnout.rpc.transport.port import StatusError
from turnout.serving.versions.follow import follow_recorded
from turnout.state.release_status import ModelReleaseState
from turnout_proto.v1 import registry_pb2 as pb


class UploadMethods:
    """Receives and publishes versions."""

    def __init__(
        self,
        uploads: Uploads,
        operations: Operations,
        release_state: Callable[[str], ModelReleaseState],
        refresh: Callable[[], Awaitable[None]],
        threads: CancellableThreads,
        idle_seconds: float,
    ) -> None:
        """Initializes the methods.

        `release_state` blocks, `refresh` makes the server discover a published version, and `idle_seconds` may pass
        between two messages of an upload.
        """
        self._uploads = uploads
        self._operations = operations
        self._release_state = release_state
        self._refresh = refresh
        self._threads = threads
        self._idle = idle_seconds

    async def BeginUpload(self, request: pb.BeginUploadRequest) -> pb.BeginUploadResponse:
        """Opens an upload, or resumes an existing one."""
        upload_manifest = UploadManifest(
            request.model,
            announced_version(request.version),
            announced_files([(file.path, file.size, file.digest) for file in request.files]),
            announced_metadata(request.metadata_json),
        )
        begun = await self._threads.run(self._uploads.begin, upload_manifest)
        if begun.existing is not None:
            return pb.BeginUploadResponse(published=await self._message(begun.existing))
        return pb.BeginUploadResponse(upload_id=begun.upload_id, received=begun.received)

    async def UploadFiles(self, requests: AsyncIterator[pb.UploadFilesRequest]) -> pb.UploadFilesResponse:
        """Stores the file chunks that a client sends."""
        first = await self._next(requests)
        if first is None:
            raise InvalidRequest.at("upload_id", "expected in the first message, and none came")
        with self._uploads.writing(first.upload_id):
            message: pb.UploadFilesRequest | None = first
            while message is not None:
                if message.HasField("chunk"):
                    chunk = message.chunk
                    await self._threads.run(self._uploads.write, first.upload_id, chunk.file, chunk.offset, chunk.data)
                message = await self._next(requests)
        return pb.UploadFilesResponse(received=self._uploads.received(first.upload_id))

    async def DescribeUpload(self, request: pb.DescribeUploadRequest) -> pb.DescribeUploadResponse:
        """Describes the version that an upload would become, or what its publish is doing."""
        if request.progress:  # not in a thread: publishes may occupy all of them
            now = self._uploads.progress(request.upload_id)
            return pb.DescribeUploadResponse(progress=pb.PublishProgress(gate=now.gate, seconds=now.seconds))
        result = await self._threads.run(self._uploads.describe, request.upload_id)
        return pb.DescribeUploadResponse(version=await self._message(result))

    async def PublishUpload(self, request: pb.PublishUploadRequest) -> pb.PublishUploadResponse:
        """Runs the gates on an upload and publishes it as a version."""
        check_record(request.actor, request.reason)
        try:
            result, released = await self._threads.run(self._publish, request)
        except GateRefused as error:
            raise StatusError(to_status(error, details=[refused_message(error)])) from None
        await follow_recorded(self._refresh)
        response = pb.PublishUploadResponse(published=await self._message(result))
        if released is not None:
            response.sentence = released.sentence
            response.answers.CopyFrom(answers_message(released.answers))
        return response

    async def AbandonUpload(self, request: pb.AbandonUploadRequest) -> pb.AbandonUploadResponse:
        """Discards an upload."""
        await self._threads.run(self._uploads.abandon, request.upload_id)
        return pb.AbandonUploadResponse()

    def _publish(self, request: pb.PublishUploadRequest) -> tuple[PublishResult, ChangeResult | None]:
        result = self._uploads.publish(request.upload_id, publish_options(request))
        if not request.release:
            return result, None
        manifest = result.manifest
        return result, self._operations.release_published(
            manifest.model, manifest.version, actor=request.actor, reason=request.reason
        )

    async def _next(self, requests: AsyncIterator[pb.UploadFilesRequest]) -> pb.UploadFilesRequest | None:
        try:
            async with asyncio.timeout(self._idle):
                return await anext(requests)
        except StopAsyncIteration:
            return None
        except TimeoutError:
            raise Conflict(f"nothing came for {self._idle:g} s; begin again, and go on") from None

    async def _message(self, result: PublishResult) -> pb.PublishedVersion:
        release_state = await self._threads.run(self._release_state, result.manifest.model)
        return published_message(result, release_state.release_status(result.manifest.version))
