"""Uploads versions to a server under test, in pieces."""

import hashlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager

import grpc

from turnout.app.server import Running
from turnout_proto.v1 import registry_pb2 as pb
from turnout_proto.v1.registry_pb2_grpc import RegistryServiceStub

Files = Mapping[str, bytes]


@asynccontextmanager
async def registry_of(server: Running) -> AsyncIterator[RegistryServiceStub]:
    """Opens the registry service."""
    async with grpc.aio.insecure_channel(str(server.control)) as channel:
        yield RegistryServiceStub(channel)


def sha(data: bytes) -> str:
    """Returns the digest of `data`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def announced(files: Files) -> list[pb.AnnouncedFile]:
    """Returns the announcement of the files."""
    return [pb.AnnouncedFile(path=path, size=len(data), digest=sha(data)) for path, data in files.items()]


def beginning(files: Files, model: str = "m", version: str = "1.0.0", metadata: str = "") -> pb.BeginUploadRequest:
    """Returns the request that begins an upload."""
    return pb.BeginUploadRequest(model=model, version=version, files=announced(files), metadata_json=metadata)


def pieces(
    upload_id: str, files: Files, received: Sequence[int] = (), size: int = 1 << 20
) -> Iterator[pb.UploadFilesRequest]:
    """Yields the messages of an upload, continuing after the data already received."""
    yield pb.UploadFilesRequest(upload_id=upload_id)
    for index, data in enumerate(files.values()):
        start = received[index] if received else 0
        for offset in range(start, len(data), size):
            chunk = pb.FileChunk(file=index, offset=offset, data=data[offset : offset + size])
            yield pb.UploadFilesRequest(chunk=chunk)


async def upload(registry: RegistryServiceStub, files: Files, **message: str) -> str:
    """Uploads all files, and returns the id of the upload."""
    begun = await registry.BeginUpload(beginning(files, **message))
    await registry.UploadFiles(pieces(begun.upload_id, files, begun.received))
    return begun.upload_id
