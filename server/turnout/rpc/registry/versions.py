"""Methods of the registry service that describe and send published versions, and store their signatures."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import TypeAlias

from turnout.errors import Conflict, Exhausted
from turnout.registry.manifest.digest import canonical_bytes
from turnout.registry.manifest.names import parse_version
from turnout.registry.publishing.evidence_records import EvidenceRecords
from turnout.registry.signing.trust import Trust, bundles
from turnout.registry.storage.listing import Published
from turnout.registry.storage.repository import Repository
from turnout.registry.transfer.fetch import pieces
from turnout.registry.transfer.upload import CHUNK
from turnout.releases.release import ReleaseStateWriter
from turnout.rpc.control.calls import check_record
from turnout.rpc.registry.messages import described_message, sent_bundles, signature
from turnout.rpc.registry.threads import CancellableThreads
from turnout.state.release_status import ModelReleaseState
from turnout_proto.v1 import registry_pb2 as pb

_BUSY_SECONDS = 1.0

Write: TypeAlias = Callable[[pb.FetchVersionResponse], Awaitable[None]]


class PublishedVersionMethods:
    """Describes and sends published versions, and stores their signatures."""

    def __init__(
        self,
        repository: Repository,
        release_writer: ReleaseStateWriter,
        release_state: Callable[[str], ModelReleaseState],
        trust: Callable[[str], Trust],
        refresh: Callable[[], Awaitable[None]],
        threads: CancellableThreads,
        idle_seconds: float,
        max_fetches: int,
    ) -> None:
        """Initializes the methods.

        Args:
            repository: Repository that contains the versions.
            release_writer: Records signatures.
            release_state: Returns the release state of a model. Blocking.
            trust: Returns the trusted signers of a model. Blocking.
            refresh: Makes the server discover the signature.
            threads: Threads for disk work.
            idle_seconds: Maximum time in seconds that a client may take to accept the next message of a fetch.
            max_fetches: Maximum number of concurrent fetches.
        """
        self._repository = repository
        self._release_writer = release_writer
        self._release_state = release_state
        self._trust = trust
        self._refresh = refresh
        self._threads = threads
        self._idle = idle_seconds
        self._fetches_left = max_fetches

    async def SignVersion(self, request: pb.SignVersionRequest) -> pb.SignVersionResponse:
        """Stores a signature for a version."""
        check_record(request.actor, request.reason)
        changed = await self._threads.run(self._sign, request)
        await self._refresh()
        return pb.SignVersionResponse(changed=changed)

    async def DescribeVersion(self, request: pb.DescribeVersionRequest) -> pb.DescribeVersionResponse:
        """Describes a version."""
        return await self._threads.run(self._described, request)

    async def FetchVersion(self, request: pb.FetchVersionRequest, write: Write) -> None:
        """Sends a version, no faster than the client receives it."""
        if not self._fetches_left:
            raise Exhausted("as many fetches are under way as may be", retry_after=_BUSY_SECONDS)
        self._fetches_left -= 1
        try:
            await self._fetch(request, write)
        finally:
            self._fetches_left += 1

    def _sign(self, request: pb.SignVersionRequest) -> bool:
        version, signer = parse_version(request.version), signature(request)
        return self._release_writer.sign(
            request.model, version, signer, actor=request.actor, reason=request.reason
        ).changed

    def _described(self, request: pb.DescribeVersionRequest) -> pb.DescribeVersionResponse:
        found: Published = self._repository.find(request.model, parse_version(request.version))
        evidence_records = EvidenceRecords.of(self._repository, found, self._trust(request.model))
        release_state = self._release_state(request.model)
        return described_message(found, evidence_records, release_state.reasons.get(found.manifest.version, ""))

    async def _fetch(self, request: pb.FetchVersionRequest, write: Write) -> None:
        version = parse_version(request.version)
        found = await self._threads.run(self._repository.find, request.model, version)
        signatures = await self._threads.run(bundles, self._repository, found)
        manifest = pb.FetchedManifest(
            manifest=canonical_bytes(found.manifest),
            digest=found.digest,
            signature_bundles=sent_bundles(signatures.values()),
        )
        await self._send(write, pb.FetchVersionResponse(manifest=manifest))
        directory = await self._threads.run(self._repository.fetch, request.model, version)
        with closing(pieces(directory, found.manifest, CHUNK)) as reading:
            while (piece := await self._threads.run(next, reading, None)) is not None:
                chunk = pb.FileChunk(file=piece.file, offset=piece.offset, data=piece.data)
                await self._send(write, pb.FetchVersionResponse(chunk=chunk))

    async def _send(self, write: Write, message: pb.FetchVersionResponse) -> None:
        try:
            await asyncio.wait_for(write(message), self._idle)
        except TimeoutError:
            raise Conflict(f"nothing was taken for {self._idle:g} s") from None
