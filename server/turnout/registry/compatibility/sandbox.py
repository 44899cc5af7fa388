"""What runs models for gates, away from this process, and says what it saw.

The registry runs nothing itself. Who puts a publish together (the command line, a server) hands in a sandbox, such as
`turnout.serving.sandbox.sandbox.ProcessSandbox`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from turnout.registry.manifest.manifest import Manifest

if TYPE_CHECKING:  # importing onnx takes long, and whoever only tells of gates needs none of it
    from turnout.registry.onnx.weights import Weights


@dataclass(frozen=True, slots=True)
class SandboxVersion:
    """A version that can be run, published or staged."""

    directory: Path
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class ExampleResult:
    """What a version answered to one example.

    Attributes:
        example: The golden case's file, such as `golden/one.npz`, or the number of the synthetic input.
        outputs: By name; bfloat16 as float32, which holds all its values. Empty if it could not answer.
        fault: Why it could not; "" if it could.
    """

    example: str
    golden: bool
    outputs: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    fault: str = ""


@dataclass(frozen=True, slots=True)
class SandboxReport:
    """What running a version by itself showed, in a process of its own.

    Attributes:
        provider: Execution provider that it ran on, by ONNX Runtime's name.
        load_seconds: What reading and optimising it took.
        run_seconds: Its quickest run of one row; 0.0 if no input was found that it runs on.
        peak_bytes: Most memory the process held, less what it held before loading. Weights that are only mapped count
            if they were touched.
        warning: Why it could not be warmed; "" if it could.
        batched: Requests can be put together, as its batches showed.
        mixes: A batch of two ran, and its rows were answered otherwise than alone.
        batching: How requests are put together, and why, in words.
        repeatable: It answered one input twice the same, bit by bit; None if nothing ran.
        wander: The largest difference between the two answers, 0.0 if they are of no numbers.
        strays: The two answers differed by more than the tolerance.
        answers: To golden cases, then to synthetic inputs.
    """

    provider: str
    load_seconds: float
    run_seconds: float
    peak_bytes: int
    warning: str
    batched: bool
    mixes: bool
    batching: str
    repeatable: bool | None
    wander: float
    strays: bool
    answers: tuple[ExampleResult, ...]


@dataclass(frozen=True, slots=True)
class LatencyComparison:
    """Two versions run in turns, in one process, on the same input.

    Attributes:
        rounds: Runs of each.
        p50: Medians in seconds, the candidate's and the parent's.
        p99: The same of the 99th percentile.
        example: What they ran on, in words.
        busy: Other work took the cores for so long that the times are CPU time, not elapsed time.
    """

    rounds: int
    p50: tuple[float, float]
    p99: tuple[float, float]
    example: str
    busy: bool = False

    @property
    def caveat(self) -> str:
        """Returns a clause for messages; "" for elapsed time."""
        return " of CPU, because the machine was busy" if self.busy else ""


class Sandbox(Protocol):
    """Runs versions. Blocks; whatever goes wrong in a model stays in the process it ran in."""

    def examine(self, sandbox_version: SandboxVersion, golden: Sequence[Path]) -> SandboxReport:
        """Loads and warms a version, and runs it on synthetic inputs and golden cases.

        A golden case that does not fit the version's signature is reported as a fault.

        Raises:
            TurnoutError: It cannot be loaded, or took the process down that it ran in.
        """

    def compare_latency(
        self, candidate: SandboxVersion, parent: SandboxVersion, golden: Sequence[Path]
    ) -> LatencyComparison:
        """Runs two versions in turns, on the first golden case that both take, else on a synthetic input.

        Raises:
            TurnoutError: One cannot be loaded, or nothing was found that both take.
        """

    def optimised_weights(self, first: SandboxVersion, second: SandboxVersion) -> "tuple[Weights, Weights] | None":
        """Returns the weights of two versions after ONNX Runtime optimised both in the same way, None if it cannot
        be had for their size.

        Raises:
            TurnoutError: ONNX Runtime cannot optimise one.
        """
