"""Defines gates: the checks that a version must pass before it is committed.

A gate examines a staged candidate and returns passed, failed, warned or skipped, with evidence as text and as numbers.
Gates run in order, and the first failure ends the run, since later gates may rely on what earlier ones have checked. A
publisher may skip a gate by name, with a reason, which is recorded.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, Self

from semver import Version

from turnout.cancellation import checkpoint
from turnout.errors import FieldViolation, InvalidModel, InvalidRequest
from turnout.registry.compatibility.sandbox import SandboxVersion
from turnout.registry.gates.plan import OnFailure
from turnout.registry.manifest.json_form import JsonForm

if TYPE_CHECKING:  # reading a model's graph imports onnx, which is not needed to report results
    from turnout.registry.onnx.model import ModelFacts

NEVER_SKIPPED = ("integrity", "signature")
"""Gates that cannot be skipped: without them, a version could contain anything."""


class GateOutcome(StrEnum):
    """Outcome of a gate."""

    PASSED = "passed"
    WARNED = "warned"
    """The finding is reported, but does not refuse the version."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """The gate had nothing to check, was skipped on request, or an earlier gate failed."""


@dataclass(frozen=True, slots=True)
class Parent(SandboxVersion):
    """The published version with which a candidate is compared: the nearest lower one."""

    digest: str


@dataclass(frozen=True, slots=True)
class Candidate(SandboxVersion):
    """A version that is staged but not committed yet.

    Its directory contains the files of the manifest and nothing else, and nothing else writes to it.

    Attributes:
        facts: Facts read from the model's graph.
        parent: Version with which it is compared; None if no lower version is published.
        taken: Known version numbers of the model that were used before.
    """

    digest: str
    facts: "ModelFacts"
    parent: Parent | None = None
    taken: frozenset[Version] = frozenset()


@dataclass(frozen=True, slots=True)
class GateVerdict(JsonForm):
    """The result of one gate.

    Attributes:
        evidence: The reason, in one sentence that contains no path.
        numbers: Measured values by name. The names include the units.
    """

    outcome: GateOutcome
    evidence: str
    numbers: Mapping[str, float] = field(default_factory=dict)


def failure_verdict(on_failure: OnFailure, evidence: str, numbers: Mapping[str, float] | None = None) -> GateVerdict:
    """Returns the verdict on a failed check. It refuses or warns, as the plan says."""
    outcome = GateOutcome.FAILED if on_failure is OnFailure.REFUSE else GateOutcome.WARNED
    return GateVerdict(outcome, evidence, numbers or {})


class Gate(Protocol):
    """A check of candidates."""

    @property
    def name(self) -> str:
        """Name of the gate in reports."""

    def run(self, candidate: Candidate) -> GateVerdict:
        """Checks `candidate` without changing anything."""


@dataclass(frozen=True, slots=True)
class Skip(JsonForm):
    """A request to skip a gate, with its reason, as it is recorded."""

    gate: str
    reason: str
    actor: str = ""


@dataclass(frozen=True, slots=True)
class GateResult(JsonForm):
    """A gate's name and its verdict."""

    gate: str
    verdict: GateVerdict

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON form: that of the verdict, and the gate."""
        return {"gate": self.gate, **self.verdict.to_json()}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """Reads the JSON form. Raises KeyError, TypeError or ValueError if it is not one."""
        return cls(str(body["gate"]), GateVerdict.from_json(body))


@dataclass(frozen=True, slots=True)
class GateReport:
    """The results of all gates, in the order in which they ran."""

    results: tuple[GateResult, ...] = ()
    skips: tuple[Skip, ...] = ()

    @property
    def failure(self) -> GateResult | None:
        """Result of the gate that failed; None if none failed."""
        return next((r for r in self.results if r.verdict.outcome is GateOutcome.FAILED), None)

    def to_json(self) -> dict[str, Any]:
        """Returns the results, and which gates were skipped, as JSON values."""
        return {"gates": [one.to_json() for one in self.results], "skips": [skip.to_json() for skip in self.skips]}


class GateRefused(InvalidModel):
    """Raised when a gate fails.

    Attributes:
        candidate: The refused version. Its directory no longer exists.
    """

    def __init__(self, candidate: Candidate, report: GateReport) -> None:
        failure = report.failure
        assert failure is not None, "raised only if a gate failed"
        evidence = failure.verdict.evidence
        super().__init__(f"gate {failure.gate} failed: {evidence}", violations=[FieldViolation(failure.gate, evidence)])
        self.candidate = candidate
        self.report = report


Watch = Callable[[str], None]
"""Called with the name of each gate before it runs."""


def run_gates(
    gates: Sequence[Gate], candidate: Candidate, skips: Sequence[Skip] = (), watch: Watch | None = None
) -> GateReport:
    """Runs `gates` in order until one fails. The remaining ones are reported as skipped.

    The caller must have checked `skips` with `check_skips`.
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
            if watch is not None:
                watch(gate.name)
            verdict = gate.run(candidate)
            failed = gate.name if verdict.outcome is GateOutcome.FAILED else None
        results.append(GateResult(gate.name, verdict))
    return GateReport(tuple(results), tuple(skips))


def check_skips(skips: Sequence[Skip], gates: Sequence[Gate]) -> None:
    """Checks that the gates may be skipped.

    Raises:
        InvalidRequest: There is no such gate, it cannot be skipped, or no reason is given.
    """
    known = [gate.name for gate in gates]
    for skip in skips:
        if skip.gate not in known:
            near = get_close_matches(skip.gate, known, n=1, cutoff=0)
            nearest = f"; the nearest is {near[0]}" if near else ""
            raise InvalidRequest.at("skip-gate", f"there is no gate {skip.gate[:64]!r}{nearest}")
        if skip.gate in NEVER_SKIPPED:
            raise InvalidRequest.at("skip-gate", f"the gate {skip.gate} cannot be skipped")
        if not skip.reason.strip():
            raise InvalidRequest.at("reason", "skipping a gate requires a reason, which is recorded")
