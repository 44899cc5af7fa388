"""What gates found of a version, kept beside it: `.attestations/<version>/gates-<n>.json`.

A report names the digest that it is about: one whose version never came to be, or came to be with other content, is
about nothing that exists.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from semver import Version

from turnout import __version__
from turnout.registry import attestations
from turnout.registry.gates import Candidate, GateReport
from turnout.registry.repository import Repository

SCHEMA = 1
_STEM = "gates"


@dataclass(frozen=True, slots=True)
class GateAttestation:
    """A report of gates, as it was kept.

    Attributes:
        digest: Of the version that it is about.
        time: When, in RFC 3339.
        body: The whole of it, as JSON values.
    """

    digest: str
    time: str
    body: Mapping[str, Any]


def report_body(candidate: Candidate, report: GateReport) -> dict[str, Any]:
    """Returns the JSON form of what gates found."""
    manifest, parent = candidate.manifest, candidate.parent
    return {
        "schema": SCHEMA,
        "model": manifest.model,
        "version": str(manifest.version),
        "digest": candidate.digest,
        "parent": None
        if parent is None
        else {"version": str(parent.manifest.version), "digest": parent.published.digest},
        "gates": [
            {
                "gate": result.gate,
                "outcome": str(result.verdict.outcome),
                "evidence": result.verdict.evidence,
                "numbers": dict(result.verdict.numbers),
            }
            for result in report.results
        ],
        "skips": [{"gate": s.gate, "reason": s.reason, "actor": s.actor} for s in report.skips],
    }


def attest_gates(repository: Repository, candidate: Candidate, report: GateReport) -> Path:
    """Keeps what gates found, durably, under the next free number.

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
    """Returns the reports of gates about the version with that digest, the oldest first, less unreadable ones."""
    found: list[tuple[int, GateAttestation]] = []
    for name, data in attestations.read(repository, model, version, f"{_STEM}-").items():
        number = name.removeprefix(f"{_STEM}-").removesuffix(".json")
        with suppress(ValueError, KeyError, TypeError):
            body = json.loads(data)
            if number.isdecimal() and body["digest"] == digest and body["schema"] == SCHEMA:
                found.append((int(number), GateAttestation(body["digest"], str(body["time"]), body)))
    return tuple(attestation for _, attestation in sorted(found, key=lambda pair: pair[0]))
