"""Builds a version's manifest from its files, the description of its ONNX file, and its publisher's metadata.

The same files always result in the same manifest, and so in the same digest, on any machine.
"""

from collections.abc import Iterable

from semver import Version

from turnout.errors import InvalidModel
from turnout.registry.manifest.digest import bytes_digest, canonical_bytes
from turnout.registry.manifest.manifest import FileEntry, Manifest
from turnout.registry.onnx.model import ModelFacts
from turnout.registry.publishing.metadata import VersionMetadata
from turnout.registry.storage.manifests import MAX_MANIFEST_BYTES


def stated(
    model: str, version: Version, files: Iterable[FileEntry], facts: ModelFacts, metadata: VersionMetadata
) -> tuple[Manifest, str]:
    """Returns a version's manifest and digest. `files` are all files except the manifest, in any order.

    Raises:
        InvalidModel: A value is invalid, or the manifest would be too large.
    """
    try:
        ordered = tuple(sorted(files, key=lambda entry: entry.path))
        manifest = Manifest(model, version, ordered, facts.signature, facts.opset, facts.ir_version)
        manifest = metadata.applied_to(manifest)
    except ValueError as error:
        raise InvalidModel(f"the version cannot be described: {error}") from error
    try:
        data = canonical_bytes(manifest)
    except ValueError as error:
        raise InvalidModel(f"the manifest has no canonical form: {error}") from error
    if len(data) > MAX_MANIFEST_BYTES:
        raise InvalidModel(f"the manifest would have {len(data)} bytes, at most {MAX_MANIFEST_BYTES} are allowed")
    return manifest, bytes_digest(data)
