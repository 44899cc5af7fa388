"""The gates `latency` and `memory`: compare a version's costs with its parent's, measured on the same machine."""

from turnout.errors import TurnoutError
from turnout.registry.compatibility.sandbox import SandboxReport
from turnout.registry.gates.comparison import golden_files
from turnout.registry.gates.gate import Candidate, GateOutcome, GateVerdict
from turnout.registry.gates.plan import LatencyOptions, MemoryOptions
from turnout.registry.gates.running import SandboxGate
from turnout.text.quantities import seconds_text

_MIB = 1 << 20


class LatencyGate(SandboxGate[LatencyOptions]):
    """Passes a candidate that is about as fast as its parent."""

    name = "latency"

    def judge(self, candidate: Candidate, seen: SandboxReport) -> GateVerdict:
        """Runs both versions alternately, so that other work on the machine slows both."""
        plan, parent = self.plan, candidate.parent
        alone = seen.run_seconds * 1e3
        if plan.p50_ms_max and alone > plan.p50_ms_max:
            took = seconds_text(seen.run_seconds)
            return self.failed(f"a run takes {took}, the plan allows {plan.p50_ms_max:g} ms", {"run_ms": alone})
        if parent is None:
            return GateVerdict(GateOutcome.SKIPPED, "no lower version is published to measure it against")
        try:
            comparison = self.sandbox.compare_latency(candidate, parent, golden_files(candidate, parent))
        except TurnoutError as error:
            version = parent.manifest.version
            return GateVerdict(GateOutcome.SKIPPED, f"cannot be measured beside {version}: {error.message}")
        (p50, parent_p50), (p99, parent_p99) = comparison.p50, comparison.p99
        ratios = p50 / max(parent_p50, 1e-9), p99 / max(parent_p99, 1e-9)
        numbers = {
            "p50_ms": p50 * 1e3,
            "parent_p50_ms": parent_p50 * 1e3,
            "p50_ratio": ratios[0],
            "p99_ms": p99 * 1e3,
            "parent_p99_ms": parent_p99 * 1e3,
            "p99_ratio": ratios[1],
            "rounds": float(comparison.rounds),
        }
        caveat = " of CPU, because the machine was busy" if comparison.busy else ""
        message = (
            f"p50 {seconds_text(p50)} beside {seconds_text(parent_p50)} of {parent.manifest.version}"
            f" ({ratios[0]:.2f} x), p99 {seconds_text(p99)} beside {seconds_text(parent_p99)} ({ratios[1]:.2f} x)"
            f"{caveat}, in {comparison.rounds} rounds on {comparison.example}"
        )
        for name, ratio, bound in (("p50", ratios[0], plan.p50_ratio_max), ("p99", ratios[1], plan.p99_ratio_max)):
            if ratio > bound:
                return self.failed(f"{message}; the plan allows {bound:g} x at {name}", numbers)
        return GateVerdict(GateOutcome.PASSED, message, numbers)


class MemoryGate(SandboxGate[MemoryOptions]):
    """Passes a candidate that uses about as much memory as its parent."""

    name = "memory"

    def judge(self, candidate: Candidate, seen: SandboxReport) -> GateVerdict:
        """Compares the peak memory of both versions, each in a separate process."""
        plan, parent = self.plan, candidate.parent
        own = seen.peak_bytes / _MIB
        numbers = {"peak_mib": own}
        message = f"{own:.1f} MiB at its peak"
        if plan.mib_max and own > plan.mib_max:
            return self.failed(f"{message}, the plan allows {plan.mib_max:g} MiB", numbers)
        if parent is None:
            return GateVerdict(GateOutcome.PASSED, f"{message}; no lower version to compare it with", numbers)
        try:
            theirs = self.sandbox.examine(parent, golden_files(candidate, parent)).peak_bytes / _MIB
        except TurnoutError as error:
            message += f"; {parent.manifest.version} cannot be loaded beside it: {error.message}"
            return GateVerdict(GateOutcome.PASSED, message, numbers)
        ratio = own / max(theirs, 1e-9)
        numbers |= {"parent_peak_mib": theirs, "ratio": ratio}
        message += f", {theirs:.1f} MiB of {parent.manifest.version} ({ratio:.2f} x)"
        if ratio > plan.ratio_max and own - theirs > plan.slack_mib:
            return self.failed(f"{message}; the plan allows {plan.ratio_max:g} x", numbers)
        return GateVerdict(GateOutcome.PASSED, message, numbers)
