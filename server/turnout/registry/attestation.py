"""What is found out about a version besides what its publisher states: kept beside it, outside its digest.

    <root>/<model>/.attestations/<version>/gates-<n>.json

The version's own directory holds what its manifest lists and nothing else, so that `verify` can tell a file that does
not belong there. An attestation names the digest that it is about: one whose version never came to be, or came to be
with other content, is about nothing that exists.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from semver import Version

from turnout import __version__
from turnout.registry.files import sync_directory, write_file
from turnout.registry.gates import Candidate, GateReport
from turnout.registry.repository import Repository

ATTESTATIONS = ".attestations"
SCHEMA = 1
MAX_ATTESTATION_BYTES = 4 << 20


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


def attestation_directory(repository: Repository, model: str, version: Version) -> Path:
    """Returns where what is attested of a version goes."""
    return repository.directory(model, version).parent / ATTESTATIONS / str(version)


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
    directory = attestation_directory(repository, candidate.manifest.model, candidate.manifest.version)
    directory.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        target = directory / f"gates-{number}.json"
        if not os.path.lexists(target):
            with suppress(FileExistsError):  # another publish took the number in this moment
                write_file(target, data)
                break
        number += 1
    for made in (directory, directory.parent, directory.parent.parent):
        sync_directory(made)
    return target


def gate_attestations(repository: Repository, model: str, version: Version, digest: str) -> tuple[GateAttestation, ...]:
    """Returns the reports of gates about the version with that digest, the oldest first, less unreadable ones."""
    directory = attestation_directory(repository, model, version)
    found: list[tuple[int, GateAttestation]] = []
    with suppress(FileNotFoundError, NotADirectoryError):
        for path in directory.iterdir():
            number = path.stem.removeprefix("gates-")
            if path.suffix != ".json" or not number.isdecimal() or path.stat().st_size > MAX_ATTESTATION_BYTES:
                continue
            with suppress(ValueError, KeyError, TypeError, OSError):
                body = json.loads(path.read_bytes())
                if body["digest"] == digest and body["schema"] == SCHEMA:
                    found.append((int(number), GateAttestation(body["digest"], str(body["time"]), body)))
    return tuple(attestation for _, attestation in sorted(found, key=lambda pair: pair[0]))
