"""What a version must pass before it is committed.

A gate looks at a staged candidate and says pass, fail or skipped, with its evidence in words. Gates are run in order,
and the first failure ends the run, since a later gate may rely on what an earlier one has shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from turnout.registry.manifest import Manifest
from turnout.registry.onnx_model import ModelFacts


class Outcome(StrEnum):
    """How a gate ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """It had nothing to look at, or an earlier gate failed."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that is staged and not yet committed.

    Attributes:
        directory: Holds all files of the manifest and nothing else; nobody else writes there.
        manifest: What the publisher states.
        digest: `sha256:` of the canonical manifest.
        facts: What the ONNX file says of itself.
    """

    directory: Path
    manifest: Manifest
    digest: str
    facts: ModelFacts


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """What one gate found.

    Attributes:
        outcome: Whether the candidate may pass.
        evidence: Why, in one sentence without a path.
    """

    outcome: Outcome
    evidence: str


class Gate(Protocol):
    """A condition on candidates."""

    @property
    def name(self) -> str:
        """A word that names it in reports."""

    def run(self, candidate: Candidate) -> GateVerdict:
        """Looks at `candidate`, and changes nothing."""


@dataclass(frozen=True, slots=True)
class GateResult:
    """A gate's name and what it found."""

    gate: str
    verdict: GateVerdict


@dataclass(frozen=True, slots=True)
class GateReport:
    """What all gates found, in the order they ran in."""

    results: tuple[GateResult, ...] = ()

    @property
    def failure(self) -> GateResult | None:
        """The gate that failed, or None."""
        return next((r for r in self.results if r.verdict.outcome is Outcome.FAILED), None)


def run_gates(gates: Sequence[Gate], candidate: Candidate) -> GateReport:
    """Runs `gates` in order until one fails; those after it are reported as skipped."""
    results: list[GateResult] = []
    failed: str | None = None
    for gate in gates:
        if failed is None:
            verdict = gate.run(candidate)
            failed = gate.name if verdict.outcome is Outcome.FAILED else None
        else:
            verdict = GateVerdict(Outcome.SKIPPED, f"not run, since {failed} failed")
        results.append(GateResult(gate.name, verdict))
    return GateReport(tuple(results))
