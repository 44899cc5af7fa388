"""The formats in which a container registry stores Turnout's artifacts, and the tags that name them."""

import hashlib
from datetime import UTC, datetime
from typing import Any

from turnout.registry.manifest.digest import bytes_digest
from turnout.registry.manifest.manifest import Manifest
from turnout.registry.manifest.names import is_exact_version, model_name_fault
from turnout.registry.manifest.provenance import DIGEST
from turnout.registry.manifest.versions import known_version
from turnout.registry.remote.keys import ManifestKey
from turnout.registry.storage.faults import StoreFault

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
VERSION_TYPE = "application/vnd.turnout.version.v1+json"
CONFIG_TYPE = "application/vnd.turnout.manifest.v1+json"
DOCUMENT_TYPE = "application/vnd.turnout.document.v1+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
FILE_TYPE = "application/octet-stream"
TITLE = "org.opencontainers.image.title"
CREATED = "org.opencontainers.image.created"
KEY = "dev.turnout.key"

_MAX_TAG = 128


def version_artifact(manifest: Manifest, data: bytes) -> dict[str, Any]:
    """Returns the artifact of a version. It depends only on the version, not on the publisher."""
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": VERSION_TYPE,
        "config": descriptor(CONFIG_TYPE, bytes_digest(data), len(data)),
        "layers": [
            descriptor(FILE_TYPE, file.digest, file.size) | {"annotations": {TITLE: file.path}}
            for file in manifest.files
        ],
        "annotations": {TITLE: f"{manifest.model} {manifest.version}"},
    }


def document_artifact(key: str, data: bytes) -> dict[str, Any]:
    """Returns the artifact of a document, with the current time."""
    layer = descriptor("application/json", bytes_digest(data), len(data))
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": DOCUMENT_TYPE,
        "config": descriptor(EMPTY_TYPE, bytes_digest(b"{}"), 2),
        "layers": [layer | {"annotations": {TITLE: key.rpartition("/")[2]}}],
        "annotations": {KEY: key, CREATED: datetime.now(UTC).isoformat(timespec="microseconds")},
    }


def descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    """Returns the descriptor of a blob in a manifest."""
    return {"mediaType": media_type, "digest": digest, "size": size}


def digest_text(value: Any) -> str:
    """Checks a digest in an artifact, and returns it. Raises ValueError if it is invalid."""
    if not DIGEST.fullmatch(text := str(value)):
        raise ValueError("no digest")
    return text


def version_tag(key: ManifestKey) -> str:
    """Returns the tag of a version. Raises StoreFault if the tag would be too long."""
    # Versions contain no underscores, so the last two separate model and version. Tags cannot contain plus signs.
    tag = f"{key.model}__{str(key.version).replace('+', '_')}"
    if len(tag) > _MAX_TAG:
        raise StoreFault(22, f"cannot have the tag {tag[:40]}..., of {len(tag)} characters: at most {_MAX_TAG}")
    return tag


def parse_version_tag(tag: str) -> tuple[str, Any] | None:
    """Returns the model and the version that a tag names; None if it does not name a version."""
    model, sign, text = tag.rpartition("__")
    text = text.replace("_", "+")
    if not sign or model_name_fault(model) is not None or not is_exact_version(text):
        return None
    return model, known_version(text)


def document_prefix(key: str) -> str:
    """Returns the common prefix of all tags of a document, regardless of its content."""
    return f"_doc_{hashlib.sha256(key.encode()).hexdigest()[:40]}_"


def document_tag(key: str, data: bytes) -> str:
    """Returns the tag of a document with the content `data`."""
    return f"{document_prefix(key)}{hashlib.sha256(data).hexdigest()[:40]}"


def is_ours(tag: str) -> bool:
    """Returns whether a tag may be one of Turnout's."""
    return len(tag) <= _MAX_TAG and (tag.startswith("_doc_") or parse_version_tag(tag) is not None)
