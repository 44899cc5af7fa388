"""Reads all records that are stored beside a version."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from turnout.registry.gates.reports import GateAttestation, gate_attestations
from turnout.registry.publishing.environment_record import SeenEnvironment, recorded_environment
from turnout.registry.signing.trust import Trust
from turnout.registry.storage.listing import Published
from turnout.registry.storage.repository import Repository


@dataclass(frozen=True, slots=True)
class EvidenceRecords:
    """The records beside a version.

    Attributes:
        signatures: Status of each signature, by key.
        seen: Environment of the machine that published the version; None if it was not recorded.
        reports: Gate reports, the newest last.
    """

    signatures: Mapping[str, str] = field(default_factory=dict)
    seen: SeenEnvironment | None = None
    reports: tuple[GateAttestation, ...] = ()

    @classmethod
    def of(cls, repository: Repository, published: Published, trust: Trust) -> Self:
        """Reads the records. Those that cannot be read are left out."""
        model, version = published.manifest.model, published.manifest.version
        return cls(
            {one.key: str(one.worth) for one in trust.signed(repository, published)},
            recorded_environment(repository, model, version, published.digest),
            gate_attestations(repository, model, version, published.digest),
        )
