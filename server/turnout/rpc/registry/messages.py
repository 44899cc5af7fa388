"""Converts between the messages of the registry service and the registry's types."""

import json
from collections.abc import Iterable, Sequence

from turnout.errors import InvalidRequest
from turnout.registry.gates.gate import GateRefused, GateReport, Skip
from turnout.registry.manifest.digest import canonical_bytes
from turnout.registry.publishing.evidence_records import EvidenceRecords
from turnout.registry.publishing.publish import PublishResult
from turnout.registry.publishing.publish_options import PublishOptions
from turnout.registry.signing.keys import PublicKey
from turnout.registry.signing.signer import MadeElsewhere
from turnout.registry.storage.attestations import MAX_BYTES
from turnout.registry.storage.listing import Published
from turnout.state.release_status import ReleaseStatus
from turnout_proto.v1 import registry_pb2 as pb

MAX_SKIPS = 32
MAX_REPORTS_BYTES = 1 << 20
MAX_BUNDLES, MAX_BUNDLES_BYTES = 16, 1 << 20
MAX_DETAIL_BYTES = 4 << 10
"""Maximum size of a GatesRefused message in bytes: it is sent in headers, which are limited to 8 KiB."""

_CLIPPED = 160


def publish_options(request: pb.PublishUploadRequest) -> PublishOptions:
    """Returns the publish options of a request.

    Raises:
        InvalidRequest: The options are invalid or contradict each other.
    """
    if request.dry_run and request.release:
        raise InvalidRequest.at("dry_run", "publishes nothing, so that there is nothing to release")
    if len(request.skip_gates) > MAX_SKIPS:
        raise InvalidRequest.at("skip_gates", f"expected at most {MAX_SKIPS}, got {len(request.skip_gates)}")
    return PublishOptions(
        request.actor,
        request.reason,
        signature(request) if request.HasField("model_signature") or request.HasField("signature") else None,
        [Skip(gate, request.reason, request.actor) for gate in dict.fromkeys(request.skip_gates)],
        request.dry_run,
    )


def signature(request: pb.PublishUploadRequest | pb.SignVersionRequest) -> MadeElsewhere:
    """Reads a signature that the client made, and verifies it with its public key.

    Raises:
        InvalidRequest: The signature is malformed, was made with another key, or is in the format of earlier releases.
    """
    if request.HasField("signature"):
        raise InvalidRequest.at(
            "signature",
            "a signature over the digest alone counts no more: expected `model_signature`, which newer clients send",
        )
    message = request.model_signature
    if len(message.bundle) > MAX_BYTES:
        raise InvalidRequest.at(
            "model_signature.bundle", f"expected at most {MAX_BYTES} bytes, got {len(message.bundle)}"
        )
    key = None
    if message.public_key:
        try:
            key = PublicKey.from_der(message.public_key)
        except ValueError as error:
            raise InvalidRequest.at("model_signature.public_key", str(error)) from None
    return MadeElsewhere.read(message.bundle, key)


def sent_bundles(bundles: Iterable[bytes]) -> Sequence[bytes]:
    """Returns as many of the signature bundles as fit into a message."""
    sent: list[bytes] = []
    left = MAX_BUNDLES_BYTES
    for bundle in bundles:
        if len(sent) < MAX_BUNDLES and len(bundle) <= left:
            sent.append(bundle)
            left -= len(bundle)
    return sent


def published_message(result: PublishResult, release_status: ReleaseStatus) -> pb.PublishedVersion:
    """Converts the result of a publish, or of a dry run, to a message."""
    return pb.PublishedVersion(
        manifest=canonical_bytes(result.manifest),
        digest=result.digest,
        created=result.created,
        gates=_results(result.report),
        standing=release_status,
        parent="" if result.parent is None else str(result.parent),
        dry_run=result.dry_run,
    )


def refused_message(error: GateRefused) -> pb.GatesRefused:
    """Returns the results of the gates that rejected a version, shortened if they exceed `MAX_DETAIL_BYTES`."""
    candidate = error.candidate
    message = pb.GatesRefused(
        version=str(candidate.manifest.version),
        digest=candidate.digest,
        parent="" if candidate.parent is None else str(candidate.parent.manifest.version),
        gates=_results(error.report),
    )
    if message.ByteSize() > MAX_DETAIL_BYTES:
        for gate in message.gates:
            gate.numbers.clear()
            if len(gate.evidence) > _CLIPPED:
                gate.evidence = f"{gate.evidence[: _CLIPPED - 3]}..."
    return message


def described_message(
    published: Published, evidence_records: EvidenceRecords, yank_reason: str
) -> pb.DescribeVersionResponse:
    """Returns the full description of a version."""
    reports: list[str] = []
    left = MAX_REPORTS_BYTES
    for report in reversed(evidence_records.reports):
        text = _json(report.to_json())
        left -= len(text.encode())
        if left < 0:
            break
        reports.append(text)
    return pb.DescribeVersionResponse(
        manifest=canonical_bytes(published.manifest),
        digest=published.digest,
        signatures=[pb.KnownSignature(key=key, worth=worth) for key, worth in evidence_records.signatures.items()],
        yank_reason=yank_reason,
        environment_json="" if evidence_records.seen is None else _json(evidence_records.seen.to_json()),
        gate_reports_json=reports[::-1],
    )


def _results(report: GateReport) -> Sequence[pb.GateResult]:
    return [
        pb.GateResult(
            gate=one.gate, outcome=one.verdict.outcome, evidence=one.verdict.evidence, numbers=one.verdict.numbers
        )
        for one in report.results
    ]


def _json(body: object) -> str:
    return json.dumps(body, ensure_ascii=False)
