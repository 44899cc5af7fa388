"""A lab for gates (`turnout.registry.lab`): versions are run in child processes, one for each question.

A model that is about to be published may take its process down, hang, or fill the memory: the child ends, and the gate
says so. Memory is measured there too, where nothing else has been. Arrays come back as `.npz` without pickles, the rest
as JSON.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from turnout.config import ModelSettings
from turnout.errors import ConfigError, MemoryBudgetExceeded, ModelCrashed, ModelFailure, ModelTimedOut, TurnoutError
from turnout.registry.lab import Answer, Examination, Race, Subject
from turnout.registry.manifest import MODEL_FILE
from turnout.registry.weights import Weights, read_weights
from turnout.serving.sandbox.processes import ANSWER_FILE, ANSWERS_FILE, JOB_FILE, Cancellation, Processes
from turnout.serving.tensor import Array

OPTIMISED_LIMIT = 1 << 30
"""Bytes of a version up to which it is optimised for a comparison: that holds it in memory twice, and writes it out."""

RACE_SECONDS = 1.0
"""How long two versions are run in turns."""

_ERRORS: Mapping[str, type[TurnoutError]] = {
    error.__name__: error for error in (ConfigError, MemoryBudgetExceeded, ModelFailure, ModelTimedOut)
}


class TrialLab:
    """Runs versions in child processes, and remembers what it saw of each."""

    def __init__(self, settings: ModelSettings, processes: Processes, cancellation: Cancellation | None = None) -> None:
        """Prepares; nothing runs yet.

        Args:
            settings: Those that the model will be served with: providers, threads, rows in a batch, bounds on trials.
            processes: Starts children.
            cancellation: Ends them.
        """
        self._settings = settings
        self._timeout = settings.trials.timeout_s
        self._processes = processes
        self._cancellation = cancellation or Cancellation()
        self._seen: dict[tuple[Path, tuple[Path, ...]], Examination | TurnoutError] = {}

    def examine(self, subject: Subject, golden: Sequence[Path]) -> Examination:
        """As `Lab.examine`; a version is examined once, whatever came of it."""
        key = (subject.directory, tuple(golden))
        if key not in self._seen:
            try:
                self._seen[key] = self._examine(subject, golden)
            except TurnoutError as error:
                self._seen[key] = error
        seen = self._seen[key]
        if isinstance(seen, TurnoutError):
            raise seen
        return seen

    def race(self, candidate: Subject, parent: Subject, golden: Sequence[Path]) -> Race:
        """As `Lab.race`."""
        with self._asked("race", [candidate, parent], golden, seconds=RACE_SECONDS) as (body, _):
            return Race(int(body["rounds"]), _pair(body["p50"]), _pair(body["p99"]), str(body["example"]))

    def optimised_weights(self, first: Subject, second: Subject) -> tuple[Weights, Weights] | None:
        """As `Lab.optimised_weights`."""
        if max(first.manifest.size, second.manifest.size) > OPTIMISED_LIMIT:
            return None
        with self._asked("optimise", [first, second], ()) as (_, scratch):
            one, other = (read_weights(scratch / side, MODEL_FILE) for side in ("0", "1"))
            return one, other

    def _examine(self, subject: Subject, golden: Sequence[Path]) -> Examination:
        with self._asked("examine", [subject], golden) as (body, scratch):
            answers = tuple(_answers(body["answers"], scratch / ANSWERS_FILE))
            told = {key: value for key, value in body.items() if key != "answers"}
            return Examination(answers=answers, **told)

    @contextlib.contextmanager
    def _asked(
        self, question: str, subjects: Sequence[Subject], golden: Sequence[Path], **more: Any
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
                "max_rows": self._settings.batching.max_rows if self._settings.batching.enabled else 0,
            }
            yield self._child(scratch, job), scratch

    def _child(self, scratch: Path, job: Mapping[str, Any]) -> dict[str, Any]:
        (scratch / JOB_FILE).write_text(json.dumps(job))
        ended = self._processes.run(scratch, self._timeout, self._cancellation)
        if ended.timed_out:
            raise ModelTimedOut(f"its process was ended after {self._timeout:g} s")
        if ended.code:
            raise ModelCrashed(f"its process died{ended.cause}")
        try:
            body: dict[str, Any] = json.loads((scratch / ANSWER_FILE).read_bytes())
        except (OSError, ValueError) as error:
            raise ModelFailure("its process answered with what is no answer") from error
        if "error" in body:
            raise _ERRORS.get(body["error"]["kind"], ModelFailure)(str(body["error"]["message"]))
        return body


def _answers(told: Sequence[Mapping[str, Any]], file: Path) -> Iterator[Answer]:
    with np.load(file, allow_pickle=False) as arrays:
        for index, answer in enumerate(told):
            outputs = {name: _text(arrays[f"{index}/{name}"]) for name in answer["outputs"]}
            yield Answer(answer["example"], answer["golden"], outputs, answer["fault"])


def _text(array: Array) -> Array:
    return array.astype(object) if array.dtype.kind == "U" else array


def _pair(values: Sequence[float]) -> tuple[float, float]:
    first, second = values
    return float(first), float(second)
