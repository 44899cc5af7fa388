"""Golden cases: inputs, and where given what is expected of them, kept with a version as `golden/<case>.npz`.

An array of a case is named `inputs/<name>`, `outputs/<name>` (the values expected), or `labels/<output>` (the class of
each row: a number, or one of the labels that the metadata declares of that output).
"""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turnout.errors import InvalidModel

GOLDEN_DIRECTORY = "golden"


@dataclass(frozen=True, slots=True)
class GoldenCase:
    """One example of how a version should answer.

    Attributes:
        name: The file's name without its suffix.
        inputs: By input name. Strings are object arrays of `str`.
        outputs: What is expected, by output name; may be empty.
        labels: The right class of each row, by output name: integers, or strings as object arrays; may be empty.
    """

    name: str
    inputs: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, NDArray[Any]]
    labels: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def read_case(path: Path) -> GoldenCase:
    """Reads one case. Nothing in the file is executed: pickled arrays are refused.

    Raises:
        InvalidModel: The file is no such case.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: _as_text(archive[name]) for name in archive.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise InvalidModel(f"golden case {path.name} cannot be read: {type(error).__name__}") from error
    sides: dict[str, dict[str, NDArray[Any]]] = {"inputs": {}, "outputs": {}, "labels": {}}
    for name, array in arrays.items():
        side, slash, tensor = name.partition("/")
        if side not in sides or not slash or not tensor:
            raise InvalidModel(
                f"golden case {path.name} holds {name!r}; expected names of the form inputs/NAME and outputs/NAME, or"
                " labels/NAME"
            )
        sides[side][tensor] = array
    if not sides["inputs"]:
        raise InvalidModel(f"golden case {path.name} holds no inputs/NAME")
    return GoldenCase(path.stem, sides["inputs"], sides["outputs"], sides["labels"])


def read_cases(directory: Path) -> list[GoldenCase]:
    """Reads the golden cases of the version in `directory`, by name; there may be none."""
    return [read_case(path) for path in sorted((directory / GOLDEN_DIRECTORY).glob("*.npz"))]


def class_numbers(labels: NDArray[Any], names: Sequence[str] | None) -> NDArray[np.int64]:
    """Returns the classes that `labels` of a golden case name, as numbers, shape (rows,).

    Args:
        labels: Of one output.
        names: What the classes are called, where that is declared.

    Raises:
        ValueError: They are neither integers nor names of classes; the message is half a sentence.
    """
    if labels.ndim != 1:
        raise ValueError(f"have {labels.ndim} dimensions, expected one label a row")
    if labels.dtype.kind in "iu":
        return labels.astype(np.int64)
    if labels.dtype != object:
        raise ValueError(f"are {labels.dtype}, expected integers or text")
    if names is None:
        raise ValueError("are text, and the metadata declares no labels of that output")
    numbers = {name: number for number, name in enumerate(names)}
    if unknown := sorted(set(labels.tolist()) - numbers.keys()):
        raise ValueError(f"hold {unknown[0]!r}, which the metadata does not declare")
    return np.array([numbers[label] for label in labels], np.int64)


def _as_text(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(object) if array.dtype.kind == "U" else array
