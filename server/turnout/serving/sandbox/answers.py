"""The archive of answers that a sandbox's child writes and its parent reads: bounded `.npz` without pickles."""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from turnout.errors import ModelFailure
from turnout.registry.compatibility.sandbox import ExampleResult
from turnout.registry.manifest.signature import DataType
from turnout.registry.storage.npz import NpzError, read_npz
from turnout.serving.sandbox.examples import Example
from turnout.serving.sessions.tensor import NUMPY_DTYPES, Array

MAX_ANSWERS_BYTES = 512 << 20
"""Maximum size in bytes of all answers together that are kept for comparison."""

MAX_ANSWER_ARRAYS = 60_000
"""Maximum number of outputs of all answers together: an archive of more than 65,535 arrays has another format."""

_MAX_READ = 2 << 30
"""Maximum memory for reading answers: text takes more memory than space in the archive."""


class AnswerArchiveWriter:
    """Writes answers to an archive one by one, so that they are not all in memory at once."""

    def __init__(self, file: Path) -> None:
        self._archive = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
        self._left, self._arrays_left = MAX_ANSWERS_BYTES, MAX_ANSWER_ARRAYS
        self.records: list[dict[str, Any]] = []

    def __enter__(self) -> "AnswerArchiveWriter":
        """Returns the writer itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the archive."""
        self._archive.close()

    def add(self, example: Example, outputs: Mapping[str, Array], fault: str) -> None:
        """Adds an answer, or a note that it is too large to be compared."""
        plain = {name: _plain(array) for name, array in outputs.items()}
        size = sum(array.nbytes for array in plain.values())
        if size > self._left:
            plain, fault = {}, f"its outputs and the earlier ones together exceed {MAX_ANSWERS_BYTES >> 20} MiB"
        elif len(plain) > self._arrays_left:
            plain, fault = {}, f"its outputs and the earlier ones together are more than {MAX_ANSWER_ARRAYS:,} arrays"
        self._left -= size if plain else 0
        self._arrays_left -= len(plain)
        for index, array in enumerate(plain.values()):  # names of outputs may be too long for an archive
            with self._archive.open(f"{len(self.records)}/{index}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
        self.records.append({"example": example.name, "golden": example.golden, "outputs": list(plain), "fault": fault})


def read_answers(records: Sequence[Mapping[str, Any]], file: Path) -> Iterator[ExampleResult]:
    """Reads an archive with the help of its `AnswerArchiveWriter.records`.

    Raises:
        ModelFailure: The archive cannot be read, or takes too much memory.
    """
    try:
        _, arrays = read_npz(file, _MAX_READ, max_arrays=MAX_ANSWER_ARRAYS)
    except NpzError as error:
        raise ModelFailure(f"its answers cannot be read: the archive {error}") from error
    for index, answer in enumerate(records):
        outputs = {name: arrays[f"{index}/{output}"] for output, name in enumerate(answer["outputs"])}
        yield ExampleResult(answer["example"], answer["golden"], outputs, answer["fault"])


def _plain(array: Array) -> Array:
    """Returns `array` in a dtype that NumPy writes without pickling."""
    if array.dtype == object:
        return array.astype(np.str_)
    return array.astype(np.float32) if array.dtype == NUMPY_DTYPES[DataType.BFLOAT16] else array
