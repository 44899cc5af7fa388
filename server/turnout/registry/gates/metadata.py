"""The gate `metadata`: checks that a version states what its repository requires."""

from collections.abc import Mapping

from turnout.registry.gates.comparison import golden_paths
from turnout.registry.gates.gate import Candidate, GateOutcome, GateVerdict, failure_verdict
from turnout.registry.gates.plan import MetadataOptions


class MetadataGate:
    """Passes a candidate that states everything required."""

    name = "metadata"

    def __init__(self, plan: MetadataOptions) -> None:
        self._plan = plan

    def run(self, candidate: Candidate) -> GateVerdict:
        """Checks which required fields the manifest has."""
        if not self._plan.required:
            return GateVerdict(GateOutcome.SKIPPED, "the plan requires no metadata")
        stated = _stated(candidate)
        missing = [name for name in self._plan.required if not stated.get(name)]
        if missing:
            return failure_verdict(self._plan.on_failure, f"not stated: {', '.join(missing)}")
        return GateVerdict(GateOutcome.PASSED, f"stated: {', '.join(self._plan.required)}")


def _stated(candidate: Candidate) -> Mapping[str, object]:
    manifest = candidate.manifest
    own: dict[str, object] = {
        "labels": manifest.labels,
        "preprocessing": manifest.preprocessing,
        "batching": manifest.batching,
        "tolerances": manifest.tolerances,
        "scores": manifest.scores,
        "golden": golden_paths(candidate.manifest),
    }
    return dict(manifest.metadata) | own
