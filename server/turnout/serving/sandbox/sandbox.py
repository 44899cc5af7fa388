"""The sandbox for gates (`turnout.registry.compatibility.sandbox`): runs versions in child processes, one for each
question.

A model that is about to be published may crash its process, hang, or exhaust memory: the child ends and the gate
reports it. Memory is also measured there, where nothing else has run. Arrays are returned as `.npz` without pickles,
everything else as JSON.
"""

import contextlib
import json
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from turnout.cancellation import current
from turnout.config import ModelSettings
from turnout.errors import (
    ConfigError,
    InvalidModel,
    MemoryBudgetExceeded,
    ModelCrashed,
    ModelFailure,
    ModelTimedOut,
    TurnoutError,
)
from turnout.host import memory
from turnout.registry.compatibility.sandbox import LatencyComparison, SandboxReport, SandboxVersion
from turnout.registry.onnx.checker import ModelCheck
from turnout.registry.onnx.graph import ModelGraph
from turnout.registry.onnx.graph_reader import describe_prepared, parse_model
from turnout.registry.onnx.model import ModelFacts
from turnout.registry.onnx.weights import Weights
from turnout.registry.storage.files import read_small
from turnout.serving.inputs.attempts import last_attempt
from turnout.serving.inputs.synthetic import Recipe
from turnout.serving.sandbox.answers import read_answers
from turnout.serving.sandbox.messages import FrameError, read_failure
from turnout.serving.sandbox.processes import (
    ANSWER_FILE,
    ANSWERS_FILE,
    DROPPED_FILE,
    GRAPH_FILE,
    JOB_FILE,
    Processes,
)
from turnout.serving.tensorrt.fallback import allowance

OPTIMISED_LIMIT = 1 << 30
"""Maximum size in bytes of a version that is optimised for a comparison, which holds it in memory twice and writes it
out."""

LATENCY_COMPARISON_SECONDS = 1.0
"""Duration in seconds of the comparison of two versions."""

MOST_DEADLY = 16
"""Maximum number of runs that are skipped, one after another, before the version is blamed."""

MOST_LATE = 2
"""Number of runs on synthetic inputs that may time out, since further runs probably would too."""

_MAX_ANSWER = 64 << 20
_NO_LIMIT = 1 << 48
"""More bytes than any machine has, since Linux refuses a limit that does not fit into 64 bits."""
_TOLD = (ConfigError, InvalidModel, MemoryBudgetExceeded, ModelFailure)


class ProcessSandbox:
    """Runs versions in child processes, with the settings with which they will be served, and caches the reports."""

    def __init__(self, settings: ModelSettings, processes: Processes) -> None:
        self._settings = settings
        runtime = settings.runtime
        engines = allowance(runtime.providers, runtime.tensorrt_build_timeout_s)
        self._timeout = settings.trials.timeout_s + engines
        self._run_seconds = settings.trials.run_timeout_s
        self._processes = processes
        self._seen: dict[tuple[Path, tuple[Path, ...]], SandboxReport | TurnoutError] = {}

    def examine(self, sandbox_version: SandboxVersion, golden: Sequence[Path]) -> SandboxReport:
        """Does the same as `Sandbox.examine`; caches the report or the error."""
        key = (sandbox_version.directory, tuple(golden))
        if key not in self._seen:
            try:
                self._seen[key] = self._examine(sandbox_version, golden)
            except TurnoutError as error:
                self._seen[key] = error
        seen = self._seen[key]
        if isinstance(seen, TurnoutError):
            raise seen
        return seen

    def compare_latency(
        self, candidate: SandboxVersion, parent: SandboxVersion, golden: Sequence[Path]
    ) -> LatencyComparison:
        """Does the same as `Sandbox.compare_latency`."""
        with self._asked("compare_latency", [candidate, parent], golden, seconds=LATENCY_COMPARISON_SECONDS) as (
            body,
            _,
        ):
            p50, p99 = ((float(first), float(second)) for first, second in (body["p50"], body["p99"]))
            return LatencyComparison(int(body["rounds"]), p50, p99, str(body["example"]), bool(body["busy"]))

    def optimised_weights(self, first: SandboxVersion, second: SandboxVersion) -> tuple[Weights, Weights] | None:
        """Does the same as `Sandbox.optimised_weights`."""
        if max(first.manifest.size, second.manifest.size) > OPTIMISED_LIMIT:
            return None
        with self._asked("optimise", [first, second], ()) as (body, _):
            one, other = map(Weights.from_json, body["weights"])
            return one, other

    def check(self, sandbox_version: SandboxVersion) -> ModelCheck:
        """Does the same as `Sandbox.check`."""
        with self._asked("check", [sandbox_version], ()) as (body, _):
            return ModelCheck.from_json(body)

    def weights(self, sandbox_version: SandboxVersion) -> Weights:
        """Does the same as `Sandbox.weights`."""
        with self._asked("weights", [sandbox_version], ()) as (body, _):
            return Weights.from_json(body)

    def describe(self, model: Path) -> ModelFacts:
        """Reads an ONNX file like `turnout.registry.onnx.model.read_model`, but in bounded memory.

        Raises:
            InvalidModel: As `read_model`, or reading takes too much memory.
            OSError: The file cannot be read.
        """
        size = model.stat().st_size
        try:
            with self._asked("describe", [], (), model=str(model.absolute()), size=size) as (body, _):
                return ModelFacts.from_json(body)
        except ModelCrashed as error:
            raise InvalidModel(f"the ONNX file cannot be read: {error.message}") from error

    def drop_zipmap(self, model: Path, target: Path, golden: Sequence[Path]) -> Mapping[str, tuple[str, ...]]:
        """Writes an ONNX file without the ZipMap that turns its outputs into maps, after verifying equal answers.

        `target` must not exist yet. Both models have to answer the inputs of the golden cases. Returns the names of the
        classes along the last axis, by output.

        Raises:
            InvalidModel: The model has no ZipMap, answers differently without it, or could not be compared.
            TurnoutError: The process crashed or timed out.
            OSError: The file cannot be read.
        """
        size = model.stat().st_size
        with self._asked("drop zipmap", [], golden, model=str(model.absolute()), size=size) as (body, scratch):
            shutil.copyfile(scratch / DROPPED_FILE, target)
            return {name: tuple(labels) for name, labels in body["labels"].items()}

    def graph(self, sandbox_version: SandboxVersion) -> ModelGraph:
        """Reads the graph of a version; without types if ONNX's shape inference does not survive it.

        Raises:
            TurnoutError: It cannot be read.
        """
        with self._asked("graph", [sandbox_version], ()) as (_, scratch):
            most = _MAX_ANSWER + sandbox_version.manifest.size
            return describe_prepared(parse_model(read_small(scratch / GRAPH_FILE, most)))

    def load(self, sandbox_version: SandboxVersion) -> None:
        """Loads a version, for processes that must not crash if ONNX Runtime does while it optimises the graph.

        Raises:
            TurnoutError: The version cannot be loaded, or it crashed its process.
        """
        with self._asked("load", [sandbox_version], ()):
            pass

    def sample(self, sandbox_version: SandboxVersion, golden: Sequence[Path]) -> tuple[Recipe | None, str]:
        """Finds inputs that a version runs on.

        Returns their recipe, or None for the first row of the first golden case that fits; and why no inputs were
        found, "" if some were.

        Raises:
            TurnoutError: The version cannot be loaded, or it crashed its process.
        """
        with self._asked("sample", [sandbox_version], golden) as (body, _):
            if not body["found"]:
                return None, str(body["trouble"]) or "it was refused"
            return None if body["recipe"] is None else Recipe(*body["recipe"]), ""

    def _examine(self, sandbox_version: SandboxVersion, golden: Sequence[Path]) -> SandboxReport:
        with self._asked("examine", [sandbox_version], golden) as (body, scratch):
            answers = tuple(read_answers(body["answers"], scratch / ANSWERS_FILE))
            report = {key: value for key, value in body.items() if key != "answers"}
            return SandboxReport(answers=answers, **report)

    @contextlib.contextmanager
    def _asked(
        self, question: str, subjects: Sequence[SandboxVersion], golden: Sequence[Path], **more: Any
    ) -> Iterator[tuple[dict[str, Any], Path]]:
        """Has a child answer a question; yields the answer and the directory with the files that it wrote."""
        with tempfile.TemporaryDirectory(prefix="turnout-trial-") as directory:
            scratch = Path(directory)
            job = more | {
                "question": question,
                "subjects": [
                    {"directory": str(s.directory.absolute()), "manifest": s.manifest.to_json()} for s in subjects
                ],
                "golden": [str(path.absolute()) for path in golden],
                "runtime": self._settings.runtime.model_dump(mode="json"),
                "run_seconds": self._run_seconds,
                "memory_limit": memory_limit(int(self._settings.trials.memory_limit_bytes)),
                "max_rows": self._settings.batching.most_rows,
            }
            yield self._child(scratch, job), scratch

    def _child(self, scratch: Path, job: Mapping[str, Any]) -> dict[str, Any]:
        """Starts children until one answers. Each skips the synthetic runs that earlier ones did not survive."""
        until = time.monotonic() + self._timeout
        deadly: dict[str, str] = {}
        while True:
            (scratch / JOB_FILE).write_text(json.dumps({**job, "deadly": deadly}))
            ended = self._processes.run(scratch, max(until - time.monotonic(), 0.0), current())
            if ended.timed_out:
                raise ModelTimedOut(f"its process was ended after {self._timeout:g} s")
            if not ended.code:
                break
            what = last_attempt(scratch)
            if not what or what in deadly or len(deadly) == MOST_DEADLY:
                raise ModelCrashed(f"its process died{ended.cause}")
            late = f"a run took longer than {self._run_seconds:g} s"
            deadly[what] = late if ended.code == -signal.SIGALRM else f"its process died{ended.cause} during a run"
            if list(deadly.values()).count(late) == MOST_LATE:
                raise ModelTimedOut(f"{late}, for two synthetic inputs; a golden case would show what it runs on")
        return _read(scratch)


def _read(scratch: Path) -> dict[str, Any]:
    try:
        body: dict[str, Any] = json.loads(read_small(scratch / ANSWER_FILE, _MAX_ANSWER)[:_MAX_ANSWER])
        failure = read_failure(body["error"]) if "error" in body else None
    except (OSError, ValueError, FrameError) as error:
        raise ModelFailure("its process sent an invalid answer") from error
    if failure is not None:
        # The child ran an untrusted model and may report anything, so other errors are not passed on.
        raise failure if isinstance(failure, _TOLD) else ModelFailure(failure.message)
    return body


def memory_limit(wanted: int) -> int:
    """Returns the memory limit of a trial run beside the model: `wanted`, but at most half of the machine's memory, if
    that is known.
    """
    half = memory.memory_limit() // 2 or _NO_LIMIT
    return min(wanted or half, half)
