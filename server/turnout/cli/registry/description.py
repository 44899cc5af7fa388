"""Describes a version for commands, from a server's answer or from the disk."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from semver import Version

from turnout.registry.manifest.json_form import JsonForm
from turnout.registry.manifest.manifest import BatchingDeclaration, FileEntry, Manifest
from turnout.registry.manifest.provenance import Provenance
from turnout.registry.manifest.signature import DataType, TensorSpec
from turnout.registry.publishing.evidence_records import EvidenceRecords
from turnout.registry.storage.listing import Published
from turnout.state.release_status import ModelReleaseState

if TYPE_CHECKING:  # importing the client imports gRPC
    from turnout_client.model import ModelInfo, TensorInfo, VersionInfo


@dataclass(frozen=True, slots=True)
class Content:
    """A version's manifest, and the records beside it.

    Attributes:
        files: All but the manifest.
        metadata: The publisher's statements.
        opset: Operator set version by domain.
        tolerances: Absolute and relative, by output or dtype.
        yanked: Why it was yanked; "" if it was not.
        provenance: Where it comes from.
        evidence_records: Its signatures, the environment that published it, and reports of gates.
    """

    files: tuple[FileEntry, ...]
    metadata: dict[str, Any]
    opset: dict[str, int]
    tolerances: dict[str, tuple[float, float]]
    yanked: str = ""
    provenance: Provenance = field(default_factory=Provenance)
    evidence_records: EvidenceRecords = field(default_factory=EvidenceRecords)

    @classmethod
    def of(cls, manifest: Manifest, evidence_records: EvidenceRecords, yanked: str) -> Self:
        """Gathers what is known of a version."""
        return cls(
            manifest.files,
            dict(manifest.metadata),
            dict(manifest.opset),
            {name: (t.atol, t.rtol) for name, t in manifest.tolerances.items()},
            yanked,
            manifest.provenance,
            evidence_records,
        )


@dataclass(frozen=True, slots=True)
class Live(JsonForm):
    """The state of a version in a server.

    Attributes:
        state: Its lifecycle state.
        reason: Why, "" if there is nothing to say.
        providers: The execution providers of its session, in order.
        max_batch_rows: Rows that a batch may hold; 0 if it is served unbatched.
        load_seconds: The time that loading and warming took.
        isolation: Whether it runs in its own processes, and why, in words.
        cuda_graphs: The batch sizes that are captured as CUDA graphs, or why there are none, in words.
        tensorrt: Whether it runs on TensorRT, with which precision, and why, in words.
    """

    state: str
    reason: str
    providers: tuple[str, ...]
    max_batch_rows: int
    load_seconds: float
    isolation: str = ""
    cuda_graphs: str = ""
    tensorrt: str = ""


@dataclass(frozen=True, slots=True)
class VersionDescription:
    """One version.

    Attributes:
        version: Exact.
        digest: Pins its content.
        release_status: Its release status.
        tags: The tags that point to it, sorted.
        default: Whether the empty selector resolves to it.
        inputs, outputs: Its signature.
        size_bytes: Of its files.
        batching: How it is batched, in words.
        content: From the disk, or from a server's registry.
        live: From a server.
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
    live: Live | None = None

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
        content = Content.of(
            manifest, evidence_records or EvidenceRecords(), model_releases.reasons.get(manifest.version, "")
        )
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
            content=content,
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
            live=Live(
                version.state,
                version.reason,
                version.providers,
                version.max_batch_rows,
                version.load_seconds,
                version.isolation,
                version.cuda_graphs,
                version.tensorrt,
            ),
        )

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON values; unknown fields are left out."""
        body: dict[str, Any] = {
            "model": self.model,
            "version": self.version,
            "digest": self.digest,
            "standing": self.release_status,
            "tags": list(self.tags),
            "default": self.default,
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
            "size_bytes": self.size_bytes,
            "batching": self.batching,
        }
        if self.content is not None:
            body["files"] = [file.to_json() for file in self.content.files]
            body["metadata"] = self.content.metadata
            evidence_records = self.content.evidence_records
            body["signatures"] = dict(evidence_records.signatures)
            body["yanked"] = self.content.yanked or None
            body["provenance"] = self.content.provenance.to_json()
            body["published_on"] = None if evidence_records.seen is None else evidence_records.seen.to_json()
            body["gate_reports"] = [report.to_json() for report in evidence_records.reports]
            body["opset"] = self.content.opset
            tolerances = self.content.tolerances
            body["tolerances"] = {name: {"atol": atol, "rtol": rtol} for name, (atol, rtol) in tolerances.items()}
        if self.live is not None:
            body |= self.live.to_json()
        return body


def spec_of(tensor: "TensorInfo") -> TensorSpec:
    """Returns a server's description of an input or output as a TensorSpec."""
    return TensorSpec(tensor.name, DataType(tensor.dtype), tensor.shape, tensor.has_default)


def _declared_batching(batching: BatchingDeclaration | None) -> str:
    if batching is None:
        return "left to the server, which proves at load that batching changes no answer"
    if not batching.enabled:
        return "off: its manifest says so"
    rows = "" if batching.max_rows is None else f", up to {batching.max_rows} rows"
    if batching.axes is None:
        return f"on{rows}; the server finds and proves the axes"
    axes = ", ".join(f"{name}[{axis}]" for name, axis in batching.axes.items())
    return f"on{rows}, along {axes}"
