"""Creates the sessions of a version at the precision that a trial finds exact enough."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np

from turnout.errors import InvalidModel, TurnoutError
from turnout.registry.compatibility.sandbox import ExampleResult
from turnout.registry.manifest.manifest import Manifest
from turnout.registry.manifest.signature import DataType
from turnout.registry.storage.files import read_small
from turnout.registry.storage.golden import GOLDEN_DIRECTORY, read_case
from turnout.serving.sandbox.examples import check_fit
from turnout.serving.sessions.tensor import NUMPY_DTYPES, Array
from turnout.serving.tensorrt.precision import Compared, Precision, decide, full

CASE_BYTES = 64 << 20
"""Maximum size in bytes of the arrays of a golden case that is run during a load; a larger case rules out FP16."""

_BFLOAT16 = NUMPY_DTYPES[DataType.BFLOAT16]


_RECORD_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class PrecisionRecord:
    """A file with the result of a precision trial, beside the engines that it was made with.

    Like the engines, it is valid for one version, kind of GPU and set of libraries, and also for the settings that it
    names. If it cannot be read, it counts as missing; if it cannot be written, the next load repeats the trial.

    Attributes:
        settings: Settings that affect what an engine computes, by name.
    """

    path: Path
    settings: Mapping[str, str]

    def read(self) -> Precision | None:
        """Returns the result; None if there is none, it is for other settings, or the file is damaged."""
        try:
            data = read_small(self.path, _RECORD_BYTES)
            body = json.loads(data) if len(data) <= _RECORD_BYTES else None
        except (OSError, ValueError, RecursionError):
            return None
        match body:
            case {"fp16": bool(fp16), "reason": str(reason), "settings": dict(settings)} if settings == self.settings:
                return Precision(fp16, reason)
        return None

    def write(self, found: Precision) -> None:
        """Writes a result if possible."""
        body = {"fp16": found.fp16, "reason": found.reason, "settings": dict(self.settings)}
        scratch = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            scratch.write_text(json.dumps(body) + "\n")
            scratch.replace(self.path)


class EngineSession(Protocol):
    """A session on TensorRT, in this process or in a child process."""

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str], /) -> list[Array]:
        """Runs the model once. Raises TurnoutError."""

    def close(self) -> None:
        """Frees the memory."""


SessionT = TypeVar("SessionT", bound=EngineSession)


@dataclass(frozen=True, slots=True)
class PrecisionTrial(Generic[SessionT]):
    """A version whose precision is to be determined.

    Attributes:
        make: Creates a session for each device, in FP16 if the argument is True; raises TurnoutError.
        records: Records of earlier trials, one for each device.
    """

    manifest: Manifest
    directory: Path
    make: Callable[[bool], Sequence[SessionT]]
    records: Sequence[PrecisionRecord] = ()

    def sessions(self) -> tuple[Sequence[SessionT], Precision]:
        """Creates the sessions to serve with, and returns them with their precision.

        Raises:
            ModelFailure, MemoryBudgetExceeded: They cannot be created at full precision.
        """
        known = self._known()
        if known is not None and known.fp16:
            try:
                return self.make(True), known
            except TurnoutError as error:
                return self.make(False), full(f"no session in FP16: {error.message}")
        exact = self.make(False)
        if known is not None:
            return exact, known
        try:
            reduced = self.make(True)
        except TurnoutError as error:  # the cause may be lack of memory, so the next load tries again
            return exact, full(f"no session in FP16: {error.message}")
        found = self._compared(exact, reduced)
        for record in self.records:
            record.write(found)
        used, other = (reduced, exact) if found.fp16 else (exact, reduced)
        for session in other:
            session.close()
        return used, found

    def _known(self) -> Precision | None:
        found = {record.read() for record in self.records}
        return found.pop() if len(found) == 1 else None

    def _compared(self, exact: Sequence[SessionT], reduced: Sequence[SessionT]) -> Precision:
        found = full("there is no device")
        for one, other in zip(exact, reduced, strict=True):
            try:
                found = decide(self.manifest, self._answered(one, other))
            except InvalidModel as error:
                found = full(f"{error.message}, and so not all golden cases can be compared")
            if not found.fp16:
                break
        return found

    def _answered(self, exact: SessionT, reduced: SessionT) -> Iterator[Compared]:
        """Runs the golden cases one by one. Raises InvalidModel if a case cannot be read or is too large."""
        for entry in self.manifest.files:
            if not entry.path.startswith(f"{GOLDEN_DIRECTORY}/"):
                continue
            case = read_case(self.directory / entry.path, max_bytes=CASE_BYTES)
            inputs = check_fit(case.inputs, self.manifest.signature)
            yield Compared(case, self._answer(exact, case.name, inputs), self._answer(reduced, case.name, inputs))

    def _answer(self, session: SessionT, name: str, inputs: Mapping[str, Array]) -> ExampleResult:
        names = self.manifest.signature.output_names
        try:
            values = session.run(inputs, names)
        except TurnoutError as error:
            return ExampleResult(name, True, {}, error.message)
        plain = [v.astype(np.float32) if v.dtype == _BFLOAT16 else v for v in values]  # as in golden cases
        return ExampleResult(name, True, dict(zip(names, plain, strict=True)))
