"""Defines which gates run, and in which order: cheap gates, and those that others rely on, come first."""

from turnout.registry.compatibility.sandbox import Sandbox
from turnout.registry.gates.budgets import LatencyGate, MemoryGate
from turnout.registry.gates.bump import BumpGate
from turnout.registry.gates.comparison import ParentComparison
from turnout.registry.gates.gate import Gate
from turnout.registry.gates.golden import GoldenGate
from turnout.registry.gates.integrity import IntegrityGate
from turnout.registry.gates.metadata import MetadataGate
from turnout.registry.gates.plan import GatePlan, OnFailure
from turnout.registry.gates.running import BatchabilityGate, DeterminismGate, LoadGate


def standard_gates(plan: GatePlan, sandbox: Sandbox, comparison: ParentComparison) -> tuple[Gate, ...]:
    """Returns the gates that a publish must pass, in order, without those that the plan turns off."""
    # `turnout.publishing` puts the gate on the publisher's signature behind the first of them.
    planned: tuple[tuple[Gate, OnFailure], ...] = (
        (IntegrityGate(sandbox), OnFailure.REFUSE),
        (MetadataGate(plan.metadata), plan.metadata.on_failure),
        (BumpGate(comparison, plan.bump), plan.bump.on_failure),
        (LoadGate(sandbox, plan.load), plan.load.on_failure),
        (DeterminismGate(sandbox, plan.determinism), plan.determinism.on_failure),
        (BatchabilityGate(sandbox, plan.batchability), plan.batchability.on_failure),
        (GoldenGate(sandbox, plan.golden), plan.golden.on_failure),
        (LatencyGate(sandbox, plan.latency), plan.latency.on_failure),
        (MemoryGate(sandbox, plan.memory), plan.memory.on_failure),
    )
    return tuple(gate for gate, on_failure in planned if on_failure is not OnFailure.OFF)
