"""The question that a sandbox's child process answers, as its parent process wrote it."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnx import ModelProto

from turnout.config import Runtime
from turnout.errors import MemoryBudgetExceeded, TurnoutError
from turnout.registry.manifest.manifest import MODEL_FILE, Manifest
from turnout.registry.onnx.graph import ModelGraph
from turnout.registry.onnx.graph_reader import describe_prepared, prepare, read_structure
from turnout.serving.inputs.attempts import LeftOut, RunAttempts
from turnout.serving.inputs.sample import GOLDEN

AT_LIMIT = "a memory limit was reached"


@dataclass(frozen=True, slots=True)
class SandboxRequest:
    """A question and the bounds for answering it.

    Attributes:
        model, size: ONNX file to describe or change, and its size in bytes.
        versions: Directory and manifest of each version concerned.
        memory_limit: Bytes that may be used in addition to the models.
        seconds: Duration of a latency comparison in seconds.
        run_seconds: Time limit in seconds for a run on synthetic inputs.
        attempts: Guards runs that the process may not survive.
        graphs: Graphs of the versions that have been read, by index.
    """

    question: str
    model: Path
    size: int
    versions: Sequence[tuple[Path, Manifest]]
    golden: Sequence[Path]
    runtime: Runtime
    max_rows: int
    memory_limit: int
    seconds: float
    run_seconds: float
    scratch: Path
    attempts: RunAttempts
    graphs: dict[int, ModelGraph] = field(default_factory=dict)

    @classmethod
    def of(cls, job: Mapping[str, Any], scratch: Path) -> "SandboxRequest":
        """Reads the request that the parent process wrote."""
        return cls(
            question=job["question"],
            model=Path(job.get("model", "")),
            size=job.get("size", 0),
            versions=[(Path(one["directory"]), Manifest.from_json(one["manifest"])) for one in job["subjects"]],
            golden=[Path(path) for path in job["golden"]],
            runtime=Runtime(**job["runtime"]),
            max_rows=job["max_rows"],
            memory_limit=job["memory_limit"],
            seconds=job.get("seconds", 0.0),
            run_seconds=job["run_seconds"],
            scratch=scratch,
            attempts=RunAttempts(scratch, job["deadly"]),
        )

    def client_message(self, error: TurnoutError) -> str:
        """Returns an error's message, with the value of the memory limit if that was met."""
        limit = f"a memory limit of {self.memory_limit >> 20:,} MiB was reached"
        return error.message.replace(AT_LIMIT, limit) if isinstance(error, MemoryBudgetExceeded) else error.message

    def trying(self, what: str) -> AbstractContextManager[None]:
        """Guards a run for a sample. Runs of golden cases are not guarded, since their failures are findings."""
        if what == GOLDEN:
            return nullcontext()
        return self.attempts.attempt(f"synthetic inputs ({what})", self.run_seconds)

    def graph(self, index: int = 0) -> ModelGraph:
        """Returns the graph of a version by its index. Each is read once."""
        if index not in self.graphs:
            self.graphs[index] = describe_prepared(self.prepared(index))
        return self.graphs[index]

    def prepared(self, index: int = 0) -> ModelProto:
        """Returns the structure of a version's model, prepared to be described; without types if ONNX's own code does
        not survive the model, or takes too long.
        """
        file = self.versions[index][0] / MODEL_FILE
        try:
            with self.attempts.attempt(f"shape inference of version {index}", self.run_seconds):
                return prepare(read_structure(file))
        except LeftOut:
            return prepare(read_structure(file), by_onnx=False)
