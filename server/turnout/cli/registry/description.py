"""Describes a version for commands, based on a server's answer or on the disk."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from semver import Version

from turnout.registry.manifest.manifest import BatchingDeclaration, Manifest
from turnout.registry.manifest.signature import DataType, TensorSpec
from turnout.registry.publishing.evidence_records import EvidenceRecords
from turnout.registry.storage.listing import Published
from turnout.state.release_status import ModelReleaseState

if TYPE_CHECKING:  # importing the client imports gRPC
    from turnout_client.model import ModelInfo, TensorInfo, VersionInfo


@dataclass(frozen=True, slots=True)
class Content:
    """A version's manifest, and the records stored beside it.

    Attributes:
        evidence_records: Signatures, the environment that published the version, and gate reports.
        yanked: Why the version was yanked; "" if it was not.
    """

    manifest: Manifest
    evidence_records: EvidenceRecords = field(default_factory=EvidenceRecords)
    yanked: str = ""


_LIVE = ("state", "reason", "providers", "max_batch_rows", "load_seconds", "isolation", "cuda_graphs", "tensorrt")
"""Fields that only a running server knows."""


@dataclass(frozen=True, slots=True)
class VersionDescription:
    """A version as commands show it.

    Attributes:
        tags: Tags that point to the version, sorted.
        default: Whether the empty selector resolves to the version.
        inputs, outputs: Signature of the version.
        size_bytes: Total size of the files in bytes.
        batching: Description of how the version is batched.
        content: Manifest and records, from the disk or from a server's registry; None if not read.
        live: Information from a running server; None if it comes from the disk.
    """

    model: str
    version: str
    digest: str
    release_status: str
    tags: tuple[str, ...]
    default: bool
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    size_bytes: int
    batching: str
    content: Content | None = None
    live: "VersionInfo | None" = None

    @classmethod
    def from_disk(
        cls,
        published: Published,
        model_releases: ModelReleaseState,
        default: Version | None,
        evidence_records: EvidenceRecords | None = None,
    ) -> Self:
        """Describes a published version."""
        manifest = published.manifest
        why = model_releases.reasons.get(manifest.version, "")
        return cls(
            model=manifest.model,
            version=str(manifest.version),
            digest=published.digest,
            release_status=model_releases.release_status(manifest.version),
            tags=tuple(sorted(tag for tag, version in model_releases.tags.items() if version == manifest.version)),
            default=manifest.version == default,
            inputs=manifest.signature.inputs,
            outputs=manifest.signature.outputs,
            size_bytes=manifest.size,
            batching=_declared_batching(manifest.batching),
            content=Content(manifest, evidence_records or EvidenceRecords(), why),
        )

    @classmethod
    def from_server(cls, model: "ModelInfo", version: "VersionInfo") -> Self:
        """Describes a version that a server listed."""
        return cls(
            model=model.name,
            version=version.version,
            digest=version.digest,
            release_status=version.standing,
            tags=version.tags,
            default=version.version == model.default_version,
            inputs=tuple(map(spec_of, version.inputs)),
            outputs=tuple(map(spec_of, version.outputs)),
            size_bytes=version.size_bytes,
            batching=version.batching,
            live=version,
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON form. Unknown fields are left out."""
        body: dict[str, Any] = {
            "model": self.model, "version": self.version, "digest": self.digest, "standing": self.release_status,
            "tags": list(self.tags), "default": self.default, "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs], "size_bytes": self.size_bytes,
            "batching": self.batching,
        }  # fmt: skip
        if self.content is not None:
            manifest, records = self.content.manifest, self.content.evidence_records
            body |= {
                "files": [file.to_json() for file in manifest.files],
                "metadata": manifest.metadata,
                "signatures": records.signatures,
                "yanked": self.content.yanked or None,
                "provenance": manifest.provenance.to_json(),
                "published_on": None if records.seen is None else records.seen.to_json(),
                "gate_reports": [report.to_json() for report in records.reports],
                "opset": manifest.opset,
                "tolerances": {name: tolerance.to_json() for name, tolerance in manifest.tolerances.items()},
            }
        if self.live is not None:
            body |= {name: getattr(self.live, name) for name in _LIVE}
        return body


def spec_of(tensor: "TensorInfo") -> TensorSpec:
    """Returns a server's description of an input or output as a TensorSpec."""
    return TensorSpec(tensor.name, DataType(tensor.dtype), tensor.shape, tensor.has_default)


def _declared_batching(batching: BatchingDeclaration | None) -> str:
    if batching is None:
        return "decided by the server, which proves at load that batching changes no answer"
    if not batching.enabled:
        return "off: its manifest says so"
    rows = "" if batching.max_rows is None else f", up to {batching.max_rows} rows"
    if batching.axes is None:
        return f"on{rows}; the server finds and proves the axes"
    axes = ", ".join(f"{name}[{axis}]" for name, axis in batching.axes.items())
    return f"on{rows}, along {axes}"
