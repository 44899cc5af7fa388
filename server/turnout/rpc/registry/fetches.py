"""The method of the registry service that sends published versions."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import TypeAlias

from turnout.errors import Conflict, Exhausted
from turnout.registry.manifest.digest import canonical_bytes
from turnout.registry.manifest.names import parse_version
from turnout.registry.signing.trust import bundles
from turnout.registry.storage.repository import Repository
from turnout.registry.transfer.fetch import pieces
from turnout.registry.transfer.upload import CHUNK
from turnout.rpc.registry.messages import sent_bundles
from turnout.rpc.registry.threads import CancellableThreads
from turnout_proto.v1 import registry_pb2 as pb

_BUSY_SECONDS = 1.0

Write: TypeAlias = Callable[[pb.FetchVersionResponse], Awaitable[None]]


class FetchMethods:
    """Sends published versions."""

    def __init__(
        self, repository: Repository, threads: CancellableThreads, idle_seconds: float, max_fetches: int
    ) -> None:
        """Initializes the methods.

        A client has `idle_seconds` to accept the next message, and `max_fetches` may be under way.
        """
        self._repository = repository
        self._threads = threads
        self._idle = idle_seconds
        self._fetches_left = max_fetches

    async def FetchVersion(self, request: pb.FetchVersionRequest, write: Write) -> None:
        """Sends a version, no faster than the client receives it."""
        if not self._fetches_left:
            raise Exhausted("as many fetches are under way as may be", retry_after=_BUSY_SECONDS)
        self._fetches_left -= 1
        try:
            await self._fetch(request, write)
        finally:
            self._fetches_left += 1

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
                file, offset, data = piece
                await self._send(
                    write, pb.FetchVersionResponse(chunk=pb.FileChunk(file=file, offset=offset, data=data))
                )

    async def _send(self, write: Write, message: pb.FetchVersionResponse) -> None:
        try:
            async with asyncio.timeout(self._idle):
                await write(message)
        except TimeoutError:
            raise Conflict(f"nothing was taken for {self._idle:g} s") from None
