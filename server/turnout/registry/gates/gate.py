"""What a version must pass before it is committed.

A gate looks at a staged candidate and says pass, fail, warned or skipped, with its evidence in words and in numbers.
Gates are run in order, and the first failure ends the run, since a later gate may rely on what an earlier one has
shown. Who publishes may have a gate skipped, by name and with a reason, which goes on record.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from semver import Version

from turnout.cancellation import checkpoint
from turnout.errors import FieldViolation, InvalidModel, InvalidRequest
from turnout.registry.compatibility.sandbox import SandboxVersion
from turnout.registry.gates.plan import OnFailure
from turnout.registry.manifest.json_form import JsonForm

if TYPE_CHECKING:  # reading a model's graph imports onnx, and telling of reports does not need it
    from turnout.registry.onnx.model import ModelFacts

NEVER_SKIPPED = ("integrity", "signature")
"""Gates without which what is served could be anything."""


class GateOutcome(StrEnum):
    """How a gate ended."""

    PASSED = "passed"
    WARNED = "warned"
    """What it found is reported and refuses nothing."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """It had nothing to look at, was skipped on request, or an earlier gate failed."""


@dataclass(frozen=True, slots=True)
class Parent(SandboxVersion):
    """The published version that a candidate is compared with: the nearest lower one."""

    digest: str


@dataclass(frozen=True, slots=True)
class Candidate(SandboxVersion):
    """A version that is staged and not yet committed.

    Its directory holds all files of the manifest and nothing else; nobody else writes there.

    Attributes:
        digest: `sha256:` of the canonical manifest.
        parent: What it is compared with; None if nothing lower is published.
        taken: Version numbers of its model that were used before, as far as is known.
    """

    digest: str
    facts: "ModelFacts"
    parent: Parent | None = None
    taken: frozenset[Version] = frozenset()


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """What one gate found.

    Attributes:
        evidence: Why, in one sentence without a path.
        numbers: What was measured, by name; units stand in the names.
    """

    outcome: GateOutcome
    evidence: str
    numbers: Mapping[str, float] = field(default_factory=dict)


def failure_verdict(on_failure: OnFailure, evidence: str, numbers: Mapping[str, float] | None = None) -> GateVerdict:
    """Returns the verdict on a failed check: by the plan it refuses, or warns."""
    outcome = GateOutcome.FAILED if on_failure is OnFailure.REFUSE else GateOutcome.WARNED
    return GateVerdict(outcome, evidence, numbers or {})


class Gate(Protocol):
    """A condition on candidates."""

    @property
    def name(self) -> str:
        """A word that names it in reports."""

    def run(self, candidate: Candidate) -> GateVerdict:
        """Looks at `candidate`, and changes nothing."""


@dataclass(frozen=True, slots=True)
class Skip(JsonForm):
    """A gate to skip, and the reason to record."""

    gate: str
    reason: str
    actor: str = ""


@dataclass(frozen=True, slots=True)
class GateResult:
    """A gate's name and what it found."""

    gate: str
    verdict: GateVerdict


@dataclass(frozen=True, slots=True)
class GateReport:
    """What all gates found, in the order they ran in."""

    results: tuple[GateResult, ...] = ()
    skips: tuple[Skip, ...] = ()

    @property
    def failure(self) -> GateResult | None:
        """The gate that failed, or None."""
        return next((r for r in self.results if r.verdict.outcome is GateOutcome.FAILED), None)


class GateRefused(InvalidModel):
    """A gate failed.

    Attributes:
        candidate: What was refused; its directory is gone.
    """

    def __init__(self, candidate: Candidate, report: GateReport) -> None:
        failure = report.failure
        assert failure is not None, "it is raised where a gate failed"
        evidence = failure.verdict.evidence
        super().__init__(f"gate {failure.gate} failed: {evidence}", violations=[FieldViolation(failure.gate, evidence)])
        self.candidate = candidate
        self.report = report


Watch = Callable[[GateResult], None]
"""Told of each gate as it ends."""


def run_gates(
    gates: Sequence[Gate], candidate: Candidate, skips: Sequence[Skip] = (), watch: Watch | None = None
) -> GateReport:
    """Runs `gates` in order until one fails; those after it are reported as skipped.

    `skips` must have passed `check_skips`.
    """
    results: list[GateResult] = []
    failed: str | None = None
    unwanted = {skip.gate: skip for skip in skips}
    for gate in gates:
        checkpoint()
        if failed is not None:
            verdict = GateVerdict(GateOutcome.SKIPPED, f"not run, since {failed} failed")
        elif skip := unwanted.get(gate.name):
            by = f" by {skip.actor}" if skip.actor else ""
            verdict = GateVerdict(GateOutcome.SKIPPED, f"skipped on request{by}: {skip.reason}")
        else:
            verdict = gate.run(candidate)
            failed = gate.name if verdict.outcome is GateOutcome.FAILED else None
        results.append(GateResult(gate.name, verdict))
        if watch is not None:
            watch(results[-1])
    return GateReport(tuple(results), tuple(skips))


def check_skips(skips: Sequence[Skip], gates: Sequence[Gate]) -> None:
    """Checks that gates which are to be skipped may be.

    Raises:
        InvalidRequest: There is no such gate, it is never skipped, or no reason is given.
    """
    known = [gate.name for gate in gates]
    for skip in skips:
        if skip.gate not in known:
            near = get_close_matches(skip.gate, known, n=1, cutoff=0)
            nearest = f"; the nearest is {near[0]}" if near else ""
            raise InvalidRequest.at("skip-gate", f"there is no gate {skip.gate[:64]!r}{nearest}")
        if skip.gate in NEVER_SKIPPED:
            raise InvalidRequest.at("skip-gate", f"the gate {skip.gate} is never skipped")
        if not skip.reason.strip():
            raise InvalidRequest.at("reason", "a gate is skipped with a reason, which goes on record")
