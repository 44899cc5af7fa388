"""What a version must pass before it is committed, one gate a file.

`gate` says what a gate is, `plan` what `gates.toml` may ask of them, `standard` which run and in which order.
"""

from turnout.registry.gates.gate import (
    NEVER_SKIPPED,
    Candidate,
    Gate,
    GateOutcome,
    GateRefused,
    GateReport,
    GateResult,
    GateVerdict,
    Parent,
    Skip,
    Watch,
    check_skips,
    run_gates,
)

__all__ = [
    "NEVER_SKIPPED",
    "Candidate",
    "Gate",
    "GateOutcome",
    "GateRefused",
    "GateReport",
    "GateResult",
    "GateVerdict",
    "Parent",
    "Skip",
    "Watch",
    "check_skips",
    "run_gates",
]
