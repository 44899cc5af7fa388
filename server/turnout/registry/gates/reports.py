"""Stores the results of gates beside a version: `.attestations/<version>/gates-<n>.json`.

A report names the digest of the version it is about. A report about a version that was never committed, or that was
committed with other content, therefore applies to no existing version.
"""

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from semver import Version

from turnout.registry.gates.gate import Candidate, GateReport, GateResult, Skip
from turnout.registry.manifest.json_form import JsonForm
from turnout.registry.storage import attestations
from turnout.registry.storage.repository import Repository

_STEM = "gates"
_NUMBERED = re.compile(rf"{_STEM}-([1-9][0-9]{{0,8}})\.json")


@dataclass(frozen=True, slots=True)
class GateAttestation(JsonForm):
    """A stored gate report.

    Attributes:
        digest: Digest of the version that it is about.
        time: When the gates ran, in RFC 3339.
        turnout: Release of Turnout that ran the gates.
        parent: Version with which it was compared; None if there was no lower one.
        skips: Gates that were skipped on request.
        imported: Whether it came with the version from another repository.
    """

    digest: str
    time: str
    turnout: str
    parent: str | None
    gates: tuple[GateResult, ...]
    skips: tuple[Skip, ...]
    imported: bool

    @property
    def report(self) -> GateReport:
        """The results, as they were reported when the gates ran."""
        return GateReport(self.gates, self.skips)


def attest_gates(repository: Repository, candidate: Candidate, report: GateReport) -> Path:
    """Stores the results of gates durably, under the next free number. Returns the file.

    Raises:
        OSError: The repository cannot be written to.
    """
    manifest, parent = candidate.manifest, candidate.parent
    against = None if parent is None else {"version": str(parent.manifest.version), "digest": parent.digest}
    data = attestations.record("gates", manifest, candidate.digest, parent=against, **report.to_json())
    return attestations.add(repository, manifest.model, manifest.version, _STEM, data)


def gate_attestations(repository: Repository, model: str, version: Version, digest: str) -> tuple[GateAttestation, ...]:
    """Returns the gate reports about the version with this digest. Unreadable reports are left out.

    Reports from other repositories come first, and within each group the oldest.
    """
    found: list[tuple[bool, int, GateAttestation]] = []
    try:
        kept = dict(attestations.read(repository, model, version, _STEM, f"{attestations.IMPORTED}{_STEM}"))
    except OSError:
        return ()
    for name, data in kept.items():
        imported = name.startswith(attestations.IMPORTED)
        number = _NUMBERED.fullmatch(name.removeprefix(attestations.IMPORTED))
        if number is None:
            continue
        with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
            body = json.loads(data)
            if body["digest"] == digest and body["schema"] == attestations.SCHEMA:
                parent = body["parent"] and body["parent"]["version"]
                attestation = GateAttestation.from_json({**body, "parent": parent, "imported": imported})
                found.append((not imported, int(number[1]), attestation))
    return tuple(attestation for *_, attestation in sorted(found, key=lambda one: one[:2]))
