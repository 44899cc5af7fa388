"""Which gates run, and in which order: what is cheap and what others rely on comes first."""

from turnout.registry.compatibility.sandbox import Lab
from turnout.registry.gates.budgets import LatencyGate, MemoryGate
from turnout.registry.gates.bump import BumpGate
from turnout.registry.gates.comparison import Comparison
from turnout.registry.gates.gate import Gate
from turnout.registry.gates.golden import GoldenGate
from turnout.registry.gates.integrity import IntegrityGate
from turnout.registry.gates.metadata import MetadataGate
from turnout.registry.gates.plan import GatePlan, OnFailure
from turnout.registry.gates.running import BatchabilityGate, DeterminismGate, LoadGate


def standard_gates(plan: GatePlan, lab: Lab, comparison: Comparison) -> tuple[Gate, ...]:
    """Returns the gates that a publish has to pass, in order; those that the plan turns off are left out.

    Args:
        plan: What is asked of them.
        lab: Runs models.
        comparison: Tells what changed.
    """
    # `turnout.publishing` puts the gate on the publisher's signature behind the first of them.
    planned: tuple[tuple[Gate, OnFailure], ...] = (
        (IntegrityGate(), OnFailure.REFUSE),
        (MetadataGate(plan.metadata), plan.metadata.on_failure),
        (BumpGate(comparison, plan.bump), plan.bump.on_failure),
        (LoadGate(lab, plan.load), plan.load.on_failure),
        (DeterminismGate(lab, plan.determinism), plan.determinism.on_failure),
        (BatchabilityGate(lab, plan.batchability), plan.batchability.on_failure),
        (GoldenGate(lab, plan.golden), plan.golden.on_failure),
        (LatencyGate(lab, plan.latency), plan.latency.on_failure),
        (MemoryGate(lab, plan.memory), plan.memory.on_failure),
    )
    return tuple(gate for gate, on_failure in planned if on_failure is not OnFailure.OFF)
