"""The gate `golden`: checks a version's answers to its golden cases, and compares its accuracy with its parent's."""

from dataclasses import replace

from turnout.errors import TurnoutError
from turnout.registry.compatibility.golden_answers import Accuracy, accuracy_of, answer_faults
from turnout.registry.compatibility.sandbox import SandboxReport
from turnout.registry.gates.comparison import golden_files, golden_paths
from turnout.registry.gates.gate import Candidate, GateOutcome, GateVerdict
from turnout.registry.gates.plan import GoldenOptions
from turnout.registry.gates.running import SandboxGate
from turnout.registry.storage.golden import GoldenCase, case_names, read_case


class GoldenGate(SandboxGate[GoldenOptions]):
    """Passes a candidate whose answers to its golden cases are within tolerance of the expected ones, and whose
    accuracy on labelled rows is as high as the plan requires.
    """

    name = "golden"

    def run(self, candidate: Candidate) -> GateVerdict:
        """Runs the candidate if it has cases to be compared."""
        cases, plan = len(golden_paths(candidate.manifest)), self.plan
        if cases < plan.cases_min:
            return self.failed(f"it has {cases} golden cases, the plan wants {plan.cases_min}")
        if not _expecting(candidate):
            return GateVerdict(GateOutcome.SKIPPED, "no golden case has expected answers")
        return super().run(candidate)

    def judge(self, candidate: Candidate, seen: SandboxReport) -> GateVerdict:
        """Compares the answers with those that the cases expect."""
        expecting = _expecting(candidate)
        answers = {answer.example: answer for answer in seen.answers}
        faults: list[str] = []
        labelled: dict[str, GoldenCase] = {}
        for path in expecting:  # one at a time; only labels are kept, which are small
            case = read_case(candidate.directory / path, sides=("outputs", "labels"))
            faults += answer_faults(candidate.manifest, case, answers[path])
            labelled[path] = replace(case, outputs={})
        numbers = {"cases": float(len(expecting)), "outside_tolerance": float(len(faults))}
        if faults:
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            return self.failed(f"{faults[0]}{more}", numbers)
        accuracy = accuracy_of(candidate.manifest, labelled, answers)
        if accuracy is None or not accuracy.rows:
            return GateVerdict(GateOutcome.PASSED, f"{len(expecting)} cases answered as expected", numbers)
        return self._judged(candidate, labelled, accuracy, numbers)

    def _judged(
        self, candidate: Candidate, cases: dict[str, GoldenCase], accuracy: Accuracy, numbers: dict[str, float]
    ) -> GateVerdict:
        plan = self.plan
        numbers |= {"rows": float(accuracy.rows), "top1": accuracy.ratio}
        message = f"{accuracy.right} of {accuracy.rows} labelled rows are right ({accuracy.ratio:.1%})"
        if accuracy.ratio < plan.top1_min:
            return self.failed(f"{message}, the plan wants {plan.top1_min:.1%}", numbers)
        theirs = self._parent_accuracy(candidate, cases)
        if theirs is None:
            return GateVerdict(GateOutcome.PASSED, message, numbers)
        numbers["parent_top1"] = theirs.ratio
        message += f"; its parent gets {theirs.ratio:.1%} right"
        # Tolerates rounding errors.
        if theirs.ratio - accuracy.ratio > plan.top1_worse_by_max + 1e-9:
            return self.failed(f"{message}: worse by more than {plan.top1_worse_by_max:.1%}", numbers)
        return GateVerdict(GateOutcome.PASSED, message, numbers)

    def _parent_accuracy(self, candidate: Candidate, cases: dict[str, GoldenCase]) -> Accuracy | None:
        """Returns the parent's accuracy on the candidate's cases; None if the parent cannot be run, or its outputs have
        other classes.
        """
        parent = candidate.parent
        if parent is None:
            return None
        labelled = {name for case in cases.values() for name in case.labels}
        for name in labelled:
            one, other = candidate.manifest.signature.output(name), parent.manifest.signature.output(name)
            if one is None or other is None or one.shape[1:] != other.shape[1:]:
                return None
            labels = candidate.manifest.labels.get(name)
            if parent.manifest.labels.get(name, labels) != labels:
                return None
        try:
            report = self.sandbox.examine(parent, golden_files(candidate, parent))
        except TurnoutError:
            return None
        answers = {answer.example: answer for answer in report.answers}
        if any(answers[path].fault for path in cases):
            return None
        return accuracy_of(candidate.manifest, cases, answers)


def _expecting(candidate: Candidate) -> list[str]:
    """Returns the paths of the golden cases that have expected answers."""
    named = {path: case_names(candidate.directory / path) for path in golden_paths(candidate.manifest)}
    return [path for path, names in named.items() if names["outputs"] or names["labels"]]
