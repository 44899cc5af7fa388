"""Interface for running models for gates, outside this process.

The registry does not run models itself. The code that sets up a publish (the command line or a server) passes in a
sandbox, such as `turnout.serving.sandbox.sandbox.ProcessSandbox`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from turnout.registry.manifest.manifest import Manifest

if TYPE_CHECKING:  # importing onnx takes long, and reporting the results of gates does not need it
    from turnout.registry.onnx.checker import ModelCheck
    from turnout.registry.onnx.weights import Weights


@dataclass(frozen=True, slots=True)
class SandboxVersion:
    """A version that can be run, either published or staged."""

    directory: Path
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class ExampleResult:
    """A version's answer to one example.

    Attributes:
        example: File of the golden case, such as `golden/one.npz`, or the number of the synthetic input.
        outputs: Outputs by name; bfloat16 as float32, which represents all its values. Empty if there is no answer.
        fault: Why the version could not answer; "" if it did.
    """

    example: str
    golden: bool
    outputs: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    fault: str = ""


@dataclass(frozen=True, slots=True)
class SandboxReport:
    """Results of running a version alone in a separate process.

    Attributes:
        provider: Execution provider that it ran on, by ONNX Runtime's name.
        load_seconds: Time to read and optimise the model, in seconds.
        run_seconds: Time of the fastest run of one row, in seconds; 0.0 if no input was found on which it runs.
        peak_bytes: Peak memory of the process in bytes, minus its memory before loading. Mapped weights count only if
            they were accessed.
        warning: Why it could not be warmed up; "" if it could.
        batched: Whether requests can be batched, as its test batches showed.
        mixes: Whether a batch of two ran and its rows were answered differently than alone.
        batching: Description of how requests are batched, and why.
        repeatable: Whether it answered one input twice with the same bits; None if nothing ran.
        wander: Largest difference between these two answers; 0.0 if they contain no numbers.
        strays: Whether these two answers differed by more than the tolerance.
        answers: Answers to golden cases, then to synthetic inputs.
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
    """Latencies of two versions that ran alternately in one process, on the same input.

    Attributes:
        rounds: Number of runs of each version.
        p50: Medians in seconds: the candidate's and the parent's.
        p99: 99th percentiles in seconds: the candidate's and the parent's.
        example: Description of the input.
        busy: Whether the times are CPU time instead of elapsed time, because other work kept the cores busy for too
            long.
    """

    rounds: int
    p50: tuple[float, float]
    p99: tuple[float, float]
    example: str
    busy: bool = False


class Sandbox(Protocol):
    """Runs versions. Methods block. A failure of a model affects only the process that it runs in: they raise
    TurnoutError if a version cannot be loaded or read, crashes its process, or reaches a limit.
    """

    def examine(self, sandbox_version: SandboxVersion, golden: Sequence[Path]) -> SandboxReport:
        """Loads a version, warms it up, and runs it on synthetic inputs and golden cases.

        A golden case that does not fit the version's signature gets a fault.
        """

    def compare_latency(
        self, candidate: SandboxVersion, parent: SandboxVersion, golden: Sequence[Path]
    ) -> LatencyComparison:
        """Runs two versions alternately, on the first golden case that both accept, else on a synthetic input. It is an
        error if neither accepts any.
        """

    def check(self, sandbox_version: SandboxVersion) -> "ModelCheck":
        """Checks the ONNX file of a version, as `turnout.registry.onnx.checker.check_file` does."""

    def weights(self, sandbox_version: SandboxVersion) -> "Weights":
        """Reads the weights of a version, as `turnout.registry.onnx.weights.read_weights` does."""

    def optimised_weights(self, first: SandboxVersion, second: SandboxVersion) -> "tuple[Weights, Weights] | None":
        """Returns the weights of two versions after ONNX Runtime optimised both in the same way; None if they are too
        large for that.
        """
