"""The gate `bump`: checks that a version number is high enough for its difference from the nearest lower version."""

from dataclasses import dataclass

from turnout.registry.compatibility.compat import VersionBump
from turnout.registry.compatibility.numbering import bump_between, next_version
from turnout.registry.compatibility.sandbox import SandboxVersion
from turnout.registry.gates.comparison import ParentComparison, VersionDifference
from turnout.registry.gates.gate import Candidate, GateOutcome, GateVerdict, failure_verdict
from turnout.registry.gates.plan import BumpOptions

_NAMED = 4


@dataclass(frozen=True, slots=True)
class BumpFinding:
    """The bump that a version requires over a lower one, and the bump that its number provides.

    Attributes:
        parent: Number of the lower version.
        difference: What changed for clients of the lower version.
        allowed: Largest kind of change that the number allows.
    """

    parent: str
    difference: VersionDifference
    allowed: VersionBump

    @property
    def sufficient(self) -> bool:
        """Whether the number is high enough."""
        return self.difference.bump <= self.allowed

    @property
    def summary(self) -> str:
        """What changed, and why it requires its bump."""
        if self.difference.changes:
            return f"a {self.difference.bump.name} change over {self.parent}: {_reasons(self.difference)}"
        if self.difference.complete:
            return f"the same model as {self.parent}, with the same declarations"
        return f"keeps the signature and declarations of {self.parent}; anything less than MAJOR is allowed"


def bump_finding(new: SandboxVersion, old: SandboxVersion, comparison: ParentComparison) -> BumpFinding:
    """Returns the result of comparing a version with a lower one. Raises OSError if a file cannot be read."""
    allowed = bump_between(old.manifest.version, new.manifest.version)
    return BumpFinding(str(old.manifest.version), comparison.difference(new, old, allowed), allowed)


class BumpGate:
    """Passes a candidate whose number is high enough."""

    name = "bump"

    def __init__(self, comparison: ParentComparison | None = None, plan: BumpOptions | None = None) -> None:
        """Creates the gate. By default, it compares only files, and refuses a number that is too low."""
        self._comparison = comparison or ParentComparison()
        self._plan = plan or BumpOptions()

    def run(self, candidate: Candidate) -> GateVerdict:
        """Compares what changed with what the version number allows."""
        if candidate.parent is None:
            return GateVerdict(GateOutcome.SKIPPED, "no lower version is published")
        manifest, parent = candidate.manifest, candidate.parent.manifest
        finding = bump_finding(candidate, candidate.parent, self._comparison)
        required = finding.difference.bump
        numbers = {"required": float(required), "allowed": float(finding.allowed)}
        if finding.sufficient:
            return GateVerdict(GateOutcome.PASSED, finding.summary, numbers)
        right = next_version(parent.version, required, candidate.taken)
        return failure_verdict(
            self._plan.on_failure,
            f"{manifest.version} over {parent.version} has to be a {required.name} version, {right}: "
            f"{_reasons(finding.difference)}",
            numbers,
        )


def _reasons(difference: VersionDifference) -> str:
    reasons = [str(change) for change in difference.reasons]
    more = f" (and {len(reasons) - _NAMED} more)" if len(reasons) > _NAMED else ""
    return "; ".join(reasons[:_NAMED]) + more
