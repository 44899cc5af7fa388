"""Publishing to a running server: announce, send what it lacks, publish. A cut is gone on from."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from turnout.cli.connection import Server
from turnout.cli.output import ServerRefused
from turnout.errors import DigestMismatch, InvalidModel
from turnout.registry.collect import Collected, collect
from turnout.registry.digest import bytes_digest, read_canonical
from turnout.registry.files import explain
from turnout.registry.gates import GateReport, GateResult, GateVerdict, Outcome
from turnout.registry.publish import PublishRequest, PublishResult
from turnout.registry.standing import Standing
from turnout_proto.v1 import registry_pb2 as pb
from turnout_proto.v1.registry_pb2_grpc import RegistryServiceStub

CHUNK = 1 << 20
ATTEMPTS = 8
"""Tries in a row that may bring nothing new before a command gives up."""

_CALL_SECONDS = 60.0
_PAUSE_SECONDS = 0.25
_AGAIN = ("Unavailable", "Aborted")
"""What a cut, a restart, and another writer look like to a client."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to become of the version.

    Attributes:
        release: Release it too.
        actor, reason: For the record.
        timeout: Seconds that its gates may take.
    """

    release: bool
    actor: str
    reason: str
    timeout: float


def publish_to(
    server: Server, request: PublishRequest, wish: Wish, advance: Callable[[int], None]
) -> tuple[PublishResult, Standing]:
    """Publishes a version on a server.

    Raises:
        InvalidRequest: The files cannot be those of a version.
        ServerRefused: The server refuses it, or cannot be reached.
    """
    collected = collect(request)
    shown = 0
    failures, best = 0, -1
    while True:
        try:
            begun = _begin(server, collected)
            if not begun.upload_id:
                return _released(server, collected, begun.published, wish)
            received = sum(begun.received)
            if received > best:
                failures, best = 0, received
            advance(max(received - shown, 0))
            shown = max(shown, received)
            sent = [received]

            def told(size: int, sent: list[int] = sent) -> None:
                nonlocal shown
                sent[0] += size
                advance(max(sent[0] - shown, 0))
                shown = max(shown, sent[0])

            with server.registry() as registry:
                _send(registry, begun, collected, told)
                publish = pb.PublishUploadRequest(
                    upload_id=begun.upload_id, release=wish.release, actor=wish.actor, reason=wish.reason
                )
                answer = registry.PublishUpload(publish, timeout=wish.timeout)
            return _read(answer.published)
        except ServerRefused as error:
            failures += 1
            if error.kind not in _AGAIN or failures >= ATTEMPTS:
                raise
            time.sleep(_PAUSE_SECONDS * 2 ** min(failures, 4))


def _begin(server: Server, collected: Collected) -> pb.BeginUploadResponse:
    said = collected.announcement
    request = pb.BeginUploadRequest(
        model=said.model,
        version=str(said.version),
        files=[pb.AnnouncedFile(path=file.path, size=file.size, digest=file.digest) for file in said.files],
        metadata_json=json.dumps(said.metadata.to_meta()),
    )
    with server.registry() as registry:
        return registry.BeginUpload(request, timeout=_CALL_SECONDS)


def _send(
    registry: RegistryServiceStub, begun: pb.BeginUploadResponse, collected: Collected, told: Callable[[int], None]
) -> None:
    # gRPC runs the iterator in a thread of its own, and would make "Unknown" of what it raises.
    trouble: list[InvalidModel] = []

    def pieces() -> Iterator[pb.UploadFilesRequest]:
        try:
            yield from _pieces(begun, collected, told)
        except InvalidModel as error:
            trouble.append(error)

    registry.UploadFiles(pieces())
    if trouble:
        raise trouble[0]


def _pieces(
    begun: pb.BeginUploadResponse, collected: Collected, told: Callable[[int], None]
) -> Iterator[pb.UploadFilesRequest]:
    yield pb.UploadFilesRequest(upload_id=begun.upload_id)
    for index, (source, entry) in enumerate(zip(collected.sources, collected.announcement.files, strict=True)):
        offset = begun.received[index]
        if offset == entry.size:
            continue
        try:
            with source.open() as file:
                file.seek(offset)
                while data := file.read(min(CHUNK, entry.size - offset)):
                    yield pb.UploadFilesRequest(chunk=pb.FileChunk(file=index, offset=offset, data=data))
                    offset += len(data)
                    told(len(data))
        except OSError as error:
            raise InvalidModel(f"{source.path} {explain(error)}") from error


def _released(
    server: Server, collected: Collected, published: pb.PublishedVersion, wish: Wish
) -> tuple[PublishResult, Standing]:
    result, standing = _read(published)
    if not wish.release or standing is Standing.RELEASED:
        return result, standing
    said = collected.announcement
    server.release(said.model, str(said.version), wish.actor, wish.reason)
    return result, Standing.RELEASED


def _read(published: pb.PublishedVersion) -> tuple[PublishResult, Standing]:
    if bytes_digest(published.manifest) != published.digest:
        raise DigestMismatch("the server's manifest and its digest do not belong together")
    try:
        manifest = read_canonical(published.manifest)
        report = GateReport(
            tuple(GateResult(g.gate, GateVerdict(Outcome(g.outcome), g.evidence)) for g in published.gates)
        )
        standing = Standing(published.standing)
    except ValueError as error:
        raise DigestMismatch(f"the server's answer is not that of this release of Turnout: {error}") from error
    return PublishResult(manifest, published.digest, published.created, report), standing
