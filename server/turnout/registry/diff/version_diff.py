"""Compares two published versions in every respect."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from turnout.errors import TurnoutError
from turnout.registry.compatibility.agreement import AnswerAgreement, agree
from turnout.registry.compatibility.sandbox import LatencyComparison, Sandbox, SandboxVersion
from turnout.registry.diff.weight_changes import WeightsDiff, compare_weights
from turnout.registry.gates.comparison import ParentComparison, VersionDifference, golden_files
from turnout.registry.manifest.manifest import Manifest

_STATED = ("batching", "tolerances", "scores", "labels", "preprocessing")


@dataclass(frozen=True, slots=True)
class ManifestDifference:
    """A value that differs between two manifests.

    Attributes:
        name: Name of the value, for example `opset ai.onnx` or `metadata.licence`.
        old: Value in the older version; None if it has none.
        new: Value in the newer version; None if it has none.
    """

    name: str
    old: Any
    new: Any


@dataclass(frozen=True, slots=True)
class VersionDiff:
    """The differences between two versions.

    Attributes:
        old, new: Manifests of the two versions.
        difference: What changed for clients of the older version.
        weights: Differences of the weights, by tensor.
        stated: Values that differ between the manifests, except signature and files.
        golden: Comparison of answers to the golden cases that both accept; None if nothing could be run.
        synthetic: Comparison of answers to synthetic inputs that both accept; None if nothing could be run.
        latency_comparison: Latencies measured alternately; None if they could not be measured.
        peak_bytes: Peak memory of each in bytes, the older version's first; None if one could not be run.
        trouble: Why something could not be run; "" if everything could.
    """

    old: Manifest
    new: Manifest
    difference: VersionDifference
    weights: WeightsDiff
    stated: tuple[ManifestDifference, ...]
    golden: AnswerAgreement | None = None
    synthetic: AnswerAgreement | None = None
    latency_comparison: LatencyComparison | None = None
    peak_bytes: tuple[int, int] | None = None
    trouble: str = ""


def diff_versions(old: SandboxVersion, new: SandboxVersion, sandbox: Sandbox) -> VersionDiff:
    """Compares two versions, each of which runs in a separate process. Raises OSError if a file cannot be read."""
    golden = golden_files(new, old)
    trouble: list[str] = []
    ran: dict[str, Any] = {}
    try:
        before, after = sandbox.examine(old, golden), sandbox.examine(new, golden)
    except TurnoutError as error:
        trouble.append(f"answers: {error.message}")
    else:
        for name, is_golden in (("golden", True), ("synthetic", False)):
            first, second = ([one for one in seen.answers if one.golden is is_golden] for seen in (before, after))
            ran[name] = agree(old.manifest, first, second)
        ran["peak_bytes"] = before.peak_bytes, after.peak_bytes
    try:
        ran["latency_comparison"] = sandbox.compare_latency(new, old, golden)
    except TurnoutError as error:
        trouble.append(f"latency: {error.message}")
    return VersionDiff(
        old.manifest,
        new.manifest,
        ParentComparison(sandbox).difference(new, old),
        compare_weights(old.directory, new.directory),
        manifest_differences(old.manifest, new.manifest),
        **ran,
        trouble="; ".join(trouble),
    )


def manifest_differences(old: Manifest, new: Manifest) -> tuple[ManifestDifference, ...]:
    """Returns the values that differ between two manifests, except signature and files."""
    before, after = _statements(old), _statements(new)
    names = [*before, *(name for name in after if name not in before)]
    return tuple(
        ManifestDifference(name, before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    )


def _statements(manifest: Manifest) -> Mapping[str, Any]:
    body = manifest.to_json()
    stated: dict[str, Any] = {f"opset {domain or 'ai.onnx'}": version for domain, version in manifest.opset.items()}
    stated |= {"ir_version": manifest.ir_version, "size": manifest.size}
    stated |= {name: body[name] for name in _STATED if name in body}
    return stated | {f"metadata.{name}": value for name, value in manifest.metadata.items()}


def diff_body(diff: VersionDiff) -> dict[str, Any]:
    """Returns the JSON form."""
    latency_comparison = diff.latency_comparison
    return {
        "model": diff.old.model,
        "old": str(diff.old.version),
        "new": str(diff.new.version),
        "bump": str(diff.difference.bump),
        "changes": [{"subject": c.subject, "bump": str(c.bump), "reason": c.reason} for c in diff.difference.changes],
        "weights": {
            "tensors": diff.weights.tensors,
            "bytes": diff.weights.size,
            "changed_tensors": len(diff.weights.changed),
            "changed_bytes": diff.weights.changed_size,
            "max_relative_change": max(
                (c.relative for c in diff.weights.changed if c.relative is not None), default=0.0
            ),
            "changed": [asdict(change) for change in diff.weights.changed],
            "new": list(diff.weights.new),
            "gone": list(diff.weights.gone),
            "renamed": diff.weights.renamed,
        },
        "stated": [asdict(one) for one in diff.stated],
        "golden": None if diff.golden is None else asdict(diff.golden),
        "synthetic": None if diff.synthetic is None else asdict(diff.synthetic),
        "latency": None
        if latency_comparison is None
        else {
            "rounds": latency_comparison.rounds,
            "example": latency_comparison.example,
            "busy": latency_comparison.busy,
            "old_p50_ms": latency_comparison.p50[1] * 1e3,
            "new_p50_ms": latency_comparison.p50[0] * 1e3,
            "old_p99_ms": latency_comparison.p99[1] * 1e3,
            "new_p99_ms": latency_comparison.p99[0] * 1e3,
        },
        "peak_bytes": None if diff.peak_bytes is None else {"old": diff.peak_bytes[0], "new": diff.peak_bytes[1]},
        "trouble": diff.trouble,
    }
