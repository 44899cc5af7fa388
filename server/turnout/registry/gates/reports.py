"""Stores the results of gates beside a version: `.attestations/<version>/gates-<n>.json`.

A report names the digest of the version it is about. A report about a version that was never committed, or that was
committed with other content, therefore applies to no existing version.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from semver import Version

from turnout import __version__
from turnout.registry.gates.gate import Candidate, GateOutcome, GateReport, GateResult, GateVerdict, Skip
from turnout.registry.storage import attestations
from turnout.registry.storage.repository import Repository

SCHEMA = 1
_STEM = "gates"
_NUMBERED = re.compile(rf"{_STEM}-([1-9][0-9]{{0,8}})\.json")


@dataclass(frozen=True, slots=True)
class GateAttestation:
    """A stored gate report.

    Attributes:
        digest: Digest of the version that it is about.
        time: When the gates ran, in RFC 3339.
        turnout: Release of Turnout that ran the gates.
        parent: Version with which it was compared; "" if there was no lower one.
        report: The results.
        imported: Whether it came with the version from another repository.
    """

    digest: str
    time: str
    turnout: str
    parent: str
    report: GateReport
    imported: bool = False

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """Reads the JSON form.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: It is not a form that `to_json` writes.
        """
        return cls(
            digest=str(body["digest"]),
            time=str(body["time"]),
            turnout=str(body["turnout"]),
            parent=str(body["parent"] or ""),
            report=GateReport(
                tuple(_result(result) for result in body["gates"]),
                tuple(Skip.from_json(skip) for skip in body["skips"]),
            ),
            imported=bool(body["imported"]),
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON form."""
        return {
            "digest": self.digest,
            "time": self.time,
            "turnout": self.turnout,
            "parent": self.parent or None,
            **report_json(self.report),
            "imported": self.imported,
        }


def report_body(candidate: Candidate, report: GateReport) -> dict[str, Any]:
    """Returns the JSON form of the results of gates."""
    manifest, parent = candidate.manifest, candidate.parent
    return {
        "schema": SCHEMA,
        "model": manifest.model,
        "version": str(manifest.version),
        "digest": candidate.digest,
        "parent": None if parent is None else {"version": str(parent.manifest.version), "digest": parent.digest},
        **report_json(report),
    }


def attest_gates(repository: Repository, candidate: Candidate, report: GateReport) -> Path:
    """Stores the results of gates durably, under the next free number.

    Returns:
        The file.

    Raises:
        OSError: The repository cannot be written to.
    """
    body = report_body(candidate, report) | {
        "kind": "gates",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "turnout": __version__,
    }
    data = json.dumps(body, indent=2, ensure_ascii=False, sort_keys=True).encode() + b"\n"
    return attestations.add(repository, candidate.manifest.model, candidate.manifest.version, _STEM, data)


def gate_attestations(repository: Repository, model: str, version: Version, digest: str) -> tuple[GateAttestation, ...]:
    """Returns the gate reports about the version with this digest. Unreadable reports are left out.

    Reports from other repositories come first, and within each group the oldest.
    """
    found: list[tuple[bool, int, GateAttestation]] = []
    try:
        kept = attestations.read(repository, model, version, _STEM, f"{attestations.IMPORTED}{_STEM}")
    except OSError:
        return ()
    for name, data in kept.items():
        imported = name.startswith(attestations.IMPORTED)
        number = _NUMBERED.fullmatch(name.removeprefix(attestations.IMPORTED))
        if number is None:
            continue
        with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
            body = json.loads(data)
            if body["digest"] == digest and body["schema"] == SCHEMA:
                parent = body["parent"] and body["parent"]["version"]
                attestation = GateAttestation.from_json({**body, "parent": parent, "imported": imported})
                found.append((not imported, int(number[1]), attestation))
    return tuple(attestation for *_, attestation in sorted(found, key=lambda one: one[:2]))


def report_json(report: GateReport) -> dict[str, Any]:
    """Returns the results of gates, and which were skipped, as JSON values."""
    return {
        "gates": [
            {
                "gate": result.gate,
                "outcome": str(result.verdict.outcome),
                "evidence": result.verdict.evidence,
                "numbers": dict(result.verdict.numbers),
            }
            for result in report.results
        ],
        "skips": [skip.to_json() for skip in report.skips],
    }


def _result(body: Mapping[str, Any]) -> GateResult:
    numbers = {str(name): float(value) for name, value in body["numbers"].items()}
    return GateResult(str(body["gate"]), GateVerdict(GateOutcome(body["outcome"]), str(body["evidence"]), numbers))
