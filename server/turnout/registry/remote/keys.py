"""Parses names of documents. They are not trusted, since anyone with write access to a store may choose any name."""

import re
from dataclasses import dataclass

from semver import Version

from turnout.registry.manifest.manifest import MANIFEST_FILE
from turnout.registry.manifest.names import ATTESTATIONS, PLAN_FILE, is_exact_version, model_name_fault
from turnout.registry.manifest.versions import known_version

_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,159}")


@dataclass(frozen=True, slots=True)
class ManifestKey:
    """Key of a version's manifest."""

    model: str
    version: Version


@dataclass(frozen=True, slots=True)
class EvidenceRecordKey:
    """Key of an attestation of a version."""

    model: str
    version: Version
    file: str


@dataclass(frozen=True, slots=True)
class PlanKey:
    """Key of the gates' plan of a model; of the plan for all models if `model` is ""."""

    model: str


Key = ManifestKey | EvidenceRecordKey | PlanKey


def parse_key(text: str) -> Key | None:
    """Parses the name of a document; None if it is not one of Turnout's, or not in its plain form."""
    parts = text.split("/")
    if parts == [PLAN_FILE]:
        return PlanKey("")
    if model_name_fault(parts[0]) is not None:
        return None
    match parts[1:]:
        case [plan] if plan == PLAN_FILE:
            return PlanKey(parts[0])
        case [version, file] if file == MANIFEST_FILE and is_exact_version(version):
            return ManifestKey(parts[0], known_version(version))
        case [folder, version, file] if folder == ATTESTATIONS and is_exact_version(version) and _FILE.fullmatch(file):
            return EvidenceRecordKey(parts[0], known_version(version), file)
    return None


def manifest_key(model: str, version: Version) -> str:
    """Returns the key of a version's manifest."""
    return f"{model}/{version}/{MANIFEST_FILE}"


def evidence_record_key(model: str, version: Version, file: str) -> str:
    """Returns the key of an attestation of a version."""
    return f"{model}/{ATTESTATIONS}/{version}/{file}"
