"""The sandbox of gates (`turnout.registry.compatibility.sandbox`): it runs versions in child processes, one for each
question.

A model that is about to be published may take its process down, hang, or fill the memory: the child ends, and the gate
says so. Memory is measured there too, if nothing else has been. Arrays come back as `.npz` without pickles, the rest
as JSON.
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
from turnout.registry.manifest.manifest import MODEL_FILE
from turnout.registry.onnx.model import ModelFacts
from turnout.registry.onnx.weights import Weights, read_weights
from turnout.registry.storage.files import read_small
from turnout.serving.inputs.attempts import last_attempt
from turnout.serving.inputs.synthetic import Recipe
from turnout.serving.sandbox.answers import read_answers
from turnout.serving.sandbox.messages import FrameError, read_failure
from turnout.serving.sandbox.processes import ANSWER_FILE, ANSWERS_FILE, DROPPED_FILE, JOB_FILE, Processes
from turnout.serving.tensorrt.fallback import allowance

OPTIMISED_LIMIT = 1 << 30
"""Bytes of a version up to which it is optimised for a comparison: that holds it in memory twice, and writes it out."""

LATENCY_COMPARISON_SECONDS = 1.0
"""How long two versions are run in turns."""

MOST_DEADLY = 16
"""Runs that are left out, one after the other, before a version is what is at fault."""

MOST_LATE = 2
"""Runs of made-up inputs that may take too long: the next would as well."""

_MAX_ANSWER = 64 << 20
_TOLD = (ConfigError, InvalidModel, MemoryBudgetExceeded, ModelFailure)


class ProcessSandbox:
    """Runs versions in child processes, and remembers what it saw of each."""

    def __init__(self, settings: ModelSettings, processes: Processes) -> None:
        """Prepares; nothing runs yet.

        Args:
            settings: Those that the model will be served with: providers, threads, rows in a batch, bounds on trials.
            processes: Starts children.
        """
        self._settings = settings
        runtime = settings.runtime
        engines = allowance(runtime.providers, runtime.tensorrt_build_timeout_s)
        self._timeout = settings.trials.timeout_s + engines
        self._run_seconds = settings.trials.run_timeout_s + engines  # engines of free dimensions are built by a run
        self._processes = processes
        self._seen: dict[tuple[Path, tuple[Path, ...]], SandboxReport | TurnoutError] = {}

    def examine(self, sandbox_version: SandboxVersion, golden: Sequence[Path]) -> SandboxReport:
        """As `Sandbox.examine`; a version is examined once, whatever came of it."""
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
        """As `Sandbox.compare_latency`."""
        with self._asked("compare_latency", [candidate, parent], golden, seconds=LATENCY_COMPARISON_SECONDS) as (
            body,
            _,
        ):
            p50, p99 = _pair(body["p50"]), _pair(body["p99"])
            return LatencyComparison(int(body["rounds"]), p50, p99, str(body["example"]), bool(body["busy"]))

    def optimised_weights(self, first: SandboxVersion, second: SandboxVersion) -> tuple[Weights, Weights] | None:
        """As `Sandbox.optimised_weights`."""
        if max(first.manifest.size, second.manifest.size) > OPTIMISED_LIMIT:
            return None
        with self._asked("optimise", [first, second], ()) as (_, scratch):
            one, other = (read_weights(scratch / side, MODEL_FILE) for side in ("0", "1"))
            return one, other

    def describe(self, model: Path) -> ModelFacts:
        """Reads an ONNX file as `turnout.registry.onnx.model.read_model` does, in bounded memory.

        Raises:
            InvalidModel: As that, or it takes more memory than it may.
            OSError: It cannot be read.
        """
        size = model.stat().st_size
        try:
            with self._asked("describe", [], (), model=str(model.absolute()), size=size) as (body, _):
                return ModelFacts.from_json(body)
        except ModelCrashed as error:
            raise InvalidModel(f"the ONNX file cannot be read: {error.message}") from error

    def drop_zipmap(self, model: Path, target: Path, golden: Sequence[Path]) -> Mapping[str, tuple[str, ...]]:
        """Writes an ONNX file without the ZipMap that makes its outputs maps, once both have answered alike.

        Args:
            model: The ONNX file.
            target: Where to; a path where nothing is yet.
            golden: Golden cases whose inputs both have to answer.

        Returns:
            By output, what the classes along its last axis are called.

        Raises:
            InvalidModel: It has none, or answers otherwise without it, or nothing shows that it does not.
            TurnoutError: It took its process down, or was not done in time.
            OSError: It cannot be read.
        """
        size = model.stat().st_size
        with self._asked("drop zipmap", [], golden, model=str(model.absolute()), size=size) as (body, scratch):
            shutil.copyfile(scratch / DROPPED_FILE, target)
            return {name: tuple(labels) for name, labels in body["labels"].items()}

    def sample(self, sandbox_version: SandboxVersion, golden: Sequence[Path]) -> tuple[Recipe | None, str]:
        """Finds inputs that a version runs on.

        Returns:
            How they are made up, None if they are the first row of the first golden case that fits; and why there
            are none, "" if there are.

        Raises:
            TurnoutError: It cannot be loaded, or took the process down that it ran in.
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
        """Has a child answer a question; yields its answer and the directory with what it wrote."""
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
                "max_rows": self._settings.batching.max_rows if self._settings.batching.enabled else 0,
            }
            yield self._child(scratch, job), scratch

    def _child(self, scratch: Path, job: Mapping[str, Any]) -> dict[str, Any]:
        """Has children answer: what one did not survive, and nobody asked for, the next one leaves out."""
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
            deadly[what] = late if ended.code == -signal.SIGALRM else f"a run took its process down{ended.cause}"
            if list(deadly.values()).count(late) == MOST_LATE:
                raise ModelTimedOut(f"{late}, on two made-up inputs; a golden case would show what it runs on")
        return _read(scratch)


def _read(scratch: Path) -> dict[str, Any]:
    try:
        body: dict[str, Any] = json.loads(read_small(scratch / ANSWER_FILE, _MAX_ANSWER)[:_MAX_ANSWER])
        failure = read_failure(body["error"]) if "error" in body else None
    except (OSError, ValueError, FrameError) as error:
        raise ModelFailure("its process answered with what is not an answer") from error
    if failure is not None:
        # The child ran a model, and may say anything: other errors are not for it to raise.
        raise failure if isinstance(failure, _TOLD) else ModelFailure(failure.message)
    return body


def _pair(values: Sequence[float]) -> tuple[float, float]:
    first, second = values
    return float(first), float(second)


def memory_limit(wanted: int) -> int:
    """Returns the most that a trial run may take beside the model: what is wanted, at most half of what there is."""
    half = memory.memory_limit() // 2
    return min(wanted or half, half)
