"""Publishes to a running server: announces the files, sends those it lacks, publishes. Resumes after disconnects."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import grpc
from grpc_status import rpc_status

from turnout.cli.connection import Server
from turnout.cli.output import Bar, ServerRefused
from turnout.cli.publish.publish_view import PublishOutcome, PublishRefusal, Released, gate_text
from turnout.cli.releases.answers_view import read_answers
from turnout.errors import DigestMismatch, FieldViolation, InvalidModel
from turnout.registry.gates.gate import GateOutcome, GateReport, GateResult, GateVerdict
from turnout.registry.manifest.digest import bytes_digest, read_canonical
from turnout.registry.manifest.names import parse_version
from turnout.registry.publishing.publish import PublishRequest, PublishResult
from turnout.registry.publishing.publish_options import PublishOptions
from turnout.registry.signing.signer import Signer
from turnout.registry.storage.files import explain
from turnout.registry.storage.listing import Published
from turnout.registry.transfer.collect import Collected, collect
from turnout.registry.transfer.upload_manifest import written_version
from turnout.state.release_status import ReleaseStatus
from turnout_proto.v1 import registry_pb2 as pb
from turnout_proto.v1.registry_pb2_grpc import RegistryServiceStub

CHUNK = 1 << 20
ATTEMPTS = 8
"""Number of attempts in a row without progress after which a command gives up."""

_CALL_SECONDS = 60.0
_GATES_SECONDS = 3600.0
_PROGRESS_SECONDS, _PROGRESS_TIMEOUT = 1.0, 5.0
_PAUSE_SECONDS = 0.25
_AGAIN = ("Unavailable", "Aborted")
"""Errors that a client gets after a lost connection, after a restart, or because of another writer."""


class RefusedByGates(ServerRefused):
    """Raised when a gate of the server fails.

    Attributes:
        refusal: The refused version, and the results of all gates.
    """

    def __init__(self, message: str, refusal: PublishRefusal) -> None:
        failure = refusal.report.failure
        violations = [] if failure is None else [FieldViolation(failure.gate, failure.verdict.evidence)]
        super().__init__("GateRefused", message, violations=violations)
        self.refusal = refusal


def publish_to(
    server: Server, request: PublishRequest, how: PublishOptions, bar: Bar, *, release: bool
) -> PublishOutcome:
    """Publishes a version on a server, and releases it if that was requested. Reports progress to `bar`.

    Raises:
        InvalidRequest: The files do not form a valid version.
        ServerRefused: The server refuses the version, or cannot be reached.
        RefusedByGates: A gate of the server failed.
    """
    collected = collect(request)
    reported = 0
    failures, best = 0, -1

    def advance_to(sent: int) -> None:
        nonlocal reported
        bar.advance(max(sent - reported, 0))
        reported = max(reported, sent)

    while True:
        try:
            begun = _begin(server, collected)
            if not begun.upload_id:
                return _existing(server, begun.published, collected, how, release=release)
            received = sum(begun.received)
            if received > best:
                failures, best = 0, received
            bar.say("uploading")
            advance_to(received)
            with server.registry() as registry:
                _send(registry, begun, collected, advance_to)
                response = _publish(registry, begun.upload_id, collected, how, bar, release=release)
            released = Released(response.sentence, read_answers(response.answers)) if release else None
            return PublishOutcome(*_read(response.published), released)
        except ServerRefused as error:
            failures += 1
            if error.kind not in _AGAIN or failures >= ATTEMPTS:
                raise
            time.sleep(_PAUSE_SECONDS * 2 ** min(failures, 4))


def _begin(server: Server, collected: Collected) -> pb.BeginUploadResponse:
    manifest = collected.upload_manifest
    request = pb.BeginUploadRequest(
        model=manifest.model,
        version=written_version(manifest.version),
        files=[pb.AnnouncedFile(path=file.path, size=file.size, digest=file.digest) for file in manifest.files],
        metadata_json=json.dumps(manifest.metadata.to_meta()),
    )
    with server.registry() as registry:
        return registry.BeginUpload(request, timeout=_CALL_SECONDS)


def _send(
    registry: RegistryServiceStub,
    begun: pb.BeginUploadResponse,
    collected: Collected,
    advance_to: Callable[[int], None],
) -> None:
    # gRPC runs the iterator in its own thread, and would turn its exceptions into the status "Unknown".
    trouble: list[InvalidModel] = []

    def pieces() -> Iterator[pb.UploadFilesRequest]:
        yield pb.UploadFilesRequest(upload_id=begun.upload_id)
        sent = sum(begun.received)
        for index, (source, entry) in enumerate(zip(collected.sources, collected.upload_manifest.files, strict=True)):
            offset = begun.received[index]
            if offset == entry.size:
                continue
            try:
                with source.open() as file:
                    file.seek(offset)
                    while data := file.read(min(CHUNK, entry.size - offset)):
                        yield pb.UploadFilesRequest(chunk=pb.FileChunk(file=index, offset=offset, data=data))
                        offset += len(data)
                        sent += len(data)
                        advance_to(sent)
            except OSError as error:
                trouble.append(InvalidModel(f"{source.path} {explain(error)}"))
                return

    registry.UploadFiles(pieces())
    if trouble:
        raise trouble[0]


def _publish(
    registry: RegistryServiceStub, upload_id: str, collected: Collected, how: PublishOptions, bar: Bar, *, release: bool
) -> pb.PublishUploadResponse:
    bar.say(gate_text("", 0.0))
    request = pb.PublishUploadRequest(
        upload_id=upload_id, release=release, actor=how.actor, reason=how.reason,
        skip_gates=[skip.gate for skip in how.skips], dry_run=how.dry_run,
    )  # fmt: skip
    if how.signer is not None:
        version = collected.upload_manifest.version
        if version is None:
            describe = pb.DescribeUploadRequest(upload_id=upload_id)
            described = registry.DescribeUpload(describe, timeout=_GATES_SECONDS).version
            version = _read(described)[0].manifest.version
        # Only the number comes from the server. Everything else that is signed was read from the local files.
        request.model_signature.CopyFrom(_signature(how.signer, collected.published(version)))
    call = registry.PublishUpload.future(request, timeout=_GATES_SECONDS)
    try:
        if bar.shown:
            _show_gates(registry, upload_id, call, bar)
        return call.result()
    except grpc.RpcError as error:
        if (refused := _refusal(error, collected.upload_manifest.model)) is not None:
            raise refused from error
        raise


def _show_gates(
    registry: RegistryServiceStub, upload_id: str, call: "grpc.Future[pb.PublishUploadResponse]", bar: Bar
) -> None:
    """Shows which gate runs, until the call ends or the server does not say it."""
    describe = pb.DescribeUploadRequest(upload_id=upload_id, progress=True)
    while True:
        try:
            call.exception(_PROGRESS_SECONDS)
            return
        except grpc.FutureTimeoutError:
            pass
        try:
            response = registry.DescribeUpload(describe, timeout=_PROGRESS_TIMEOUT)
        except grpc.RpcError:  # the upload has just ended, or an older server refuses this while it publishes
            return
        if not response.HasField("progress"):
            return
        bar.say(gate_text(response.progress.gate, response.progress.seconds))


def _signature(signer: Signer, published: Published) -> pb.ModelSignature:
    return pb.ModelSignature(bundle=signer.sign(published).to_bytes(), public_key=signer.key.der)


def _refusal(error: grpc.RpcError, model: str) -> RefusedByGates | None:
    """Returns the refusal by a gate; None if the call failed for another reason."""
    status = rpc_status.from_call(error)
    refused = pb.GatesRefused()
    if status is None or not any(detail.Unpack(refused) for detail in status.details):
        return None
    report = _report(refused.gates)
    refusal = PublishRefusal(model, refused.version, refused.parent or None, refused.digest, report)
    return RefusedByGates(status.message, refusal)


def _existing(
    server: Server, published: pb.PublishedVersion, collected: Collected, how: PublishOptions, *, release: bool
) -> PublishOutcome:
    """Signs and releases an already published version, as a publish would."""
    result, release_status = _read(published)
    manifest = result.manifest
    if how.dry_run:
        return PublishOutcome(replace(result, dry_run=True), release_status)
    if how.signer is not None:
        own = collected.published(manifest.version)  # never sign something known only from the server
        if own.digest != result.digest:
            raise DigestMismatch(
                f"the server has {result.digest} as {manifest.version}, and the files are {own.digest}"
            )
        request = pb.SignVersionRequest(
            model=manifest.model, version=str(manifest.version), model_signature=_signature(how.signer, own),
            actor=how.actor, reason=how.reason,
        )  # fmt: skip
        with server.registry() as registry:
            registry.SignVersion(request, timeout=_GATES_SECONDS)
    if not release:
        return PublishOutcome(result, release_status)
    _, sentence, answers = server.release(manifest.model, str(manifest.version), how.actor, how.reason)
    return PublishOutcome(result, ReleaseStatus.RELEASED, Released(sentence, answers))


def _read(published: pb.PublishedVersion) -> tuple[PublishResult, ReleaseStatus]:
    if bytes_digest(published.manifest) != published.digest:
        raise DigestMismatch("the server's manifest does not match its digest")
    try:
        manifest = read_canonical(published.manifest)
        report = _report(published.gates)
        release_status = ReleaseStatus(published.standing)
        parent = parse_version(published.parent) if published.parent else None
    except ValueError as error:
        raise DigestMismatch(f"this release of Turnout cannot read the server's answer: {error}") from error
    result = PublishResult(manifest, published.digest, published.created, report, parent, published.dry_run)
    return result, release_status


def _report(gates: Iterable[pb.GateResult]) -> GateReport:
    """Converts the results of gates. Raises ValueError if an outcome is unknown to this release."""
    return GateReport(
        tuple(GateResult(g.gate, GateVerdict(GateOutcome(g.outcome), g.evidence, dict(g.numbers))) for g in gates)
    )
