"""What a failed check becomes, by the plan. Pure."""

from collections.abc import Mapping

from turnout.registry.gates.gate import GateOutcome, GateVerdict
from turnout.registry.gates.plan import OnFailure


def failure_verdict(on_failure: OnFailure, evidence: str, numbers: Mapping[str, float] | None = None) -> GateVerdict:
    """Returns the verdict on a failed check: it refuses, or warns."""
    outcome = GateOutcome.FAILED if on_failure is OnFailure.REFUSE else GateOutcome.WARNED
    return GateVerdict(outcome, evidence, numbers or {})
