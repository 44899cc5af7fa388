"""The gate `bump`: a version's number says as much as its difference from the nearest lower version obliges to."""

from turnout.registry.compatibility.numbering import bump_between, next_version
from turnout.registry.gates.comparison import ParentComparison, VersionDifference, as_sandbox_version
from turnout.registry.gates.gate import Candidate, GateOutcome, GateVerdict
from turnout.registry.gates.plan import BumpOptions
from turnout.registry.gates.ruling import ruled

_NAMED = 4


class BumpGate:
    """Passes a candidate whose number is high enough."""

    name = "bump"

    def __init__(self, comparison: ParentComparison | None = None, plan: BumpOptions | None = None) -> None:
        """Prepares.

        Args:
            comparison: Tells what changed; without it, from files alone.
            plan: What becomes of a number that is too low; by default it is refused.
        """
        self._comparison = comparison or ParentComparison()
        self._plan = plan or BumpOptions()

    def run(self, candidate: Candidate) -> GateVerdict:
        """Compares what changed with what the number allows."""
        if candidate.parent is None:
            return GateVerdict(GateOutcome.SKIPPED, "no lower version is published")
        manifest, parent = candidate.manifest, candidate.parent.manifest
        allowed = bump_between(parent.version, manifest.version)
        difference = self._comparison.difference(
            as_sandbox_version(candidate), as_sandbox_version(candidate.parent), allowed
        )
        required = difference.bump
        numbers = {"required": float(required), "allowed": float(allowed)}
        if required <= allowed:
            return GateVerdict(GateOutcome.PASSED, _explain(difference, str(parent.version)), numbers)
        right = next_version(parent.version, required, candidate.taken)
        return ruled(
            self._plan.on_failure,
            f"{manifest.version} over {parent.version} has to be a {required.name} version, {right}: "
            f"{_reasons(difference)}",
            numbers,
        )


def _explain(difference: VersionDifference, parent: str) -> str:
    if difference.changes:
        return f"a {difference.bump.name} change over {parent}: {_reasons(difference)}"
    if difference.complete:
        return f"the model of {parent} itself, declared alike"
    return f"keeps signature and declarations of {parent}; anything less than MAJOR is allowed"


def _reasons(difference: VersionDifference) -> str:
    reasons = [str(change) for change in difference.reasons]
    more = f" (and {len(reasons) - _NAMED} more)" if len(reasons) > _NAMED else ""
    return "; ".join(reasons[:_NAMED]) + more
