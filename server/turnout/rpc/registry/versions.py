"""Methods of the registry service that describe published versions, and store their signatures."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from turnout.registry.manifest.names import parse_version
from turnout.registry.publishing.evidence_records import EvidenceRecords
from turnout.registry.signing.trust import Trust
from turnout.registry.storage.listing import Published
from turnout.registry.storage.repository import Repository
from turnout.releases.release import ReleaseStateWriter
from turnout.rpc.control.calls import check_record
from turnout.rpc.registry.messages import described_message, signature
from turnout.rpc.registry.threads import CancellableThreads
from turnout.serving.versions.follow import follow_recorded
from turnout.state.release_status import ModelReleaseState
from turnout_proto.v1 import registry_pb2 as pb


@dataclass(frozen=True, slots=True)
class PublishedVersionMethods:
    """Describes published versions, and stores their signatures.

    `release_state` and `trust` block; `refresh` makes the server discover a new signature.
    """

    repository: Repository
    release_writer: ReleaseStateWriter
    release_state: Callable[[str], ModelReleaseState]
    trust: Callable[[str], Trust]
    refresh: Callable[[], Awaitable[None]]
    threads: CancellableThreads

    async def SignVersion(self, request: pb.SignVersionRequest) -> pb.SignVersionResponse:
        """Stores a signature for a version."""
        check_record(request.actor, request.reason)
        changed = await self.threads.run(self._sign, request)
        await follow_recorded(self.refresh)
        return pb.SignVersionResponse(changed=changed)

    async def DescribeVersion(self, request: pb.DescribeVersionRequest) -> pb.DescribeVersionResponse:
        """Describes a version."""
        return await self.threads.run(self._described, request)

    def _sign(self, request: pb.SignVersionRequest) -> bool:
        version, signer = parse_version(request.version), signature(request)
        return self.release_writer.sign(
            request.model, version, signer, actor=request.actor, reason=request.reason
        ).changed

    def _described(self, request: pb.DescribeVersionRequest) -> pb.DescribeVersionResponse:
        found: Published = self.repository.find(request.model, parse_version(request.version))
        evidence_records = EvidenceRecords.of(self.repository, found, self.trust(request.model))
        release_state = self.release_state(request.model)
        return described_message(found, evidence_records, release_state.reasons.get(found.manifest.version, ""))
