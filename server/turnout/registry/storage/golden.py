"""Golden cases: example inputs, optionally with expected answers, stored with a version as `golden/<case>.npz`.

The arrays of a case are named `inputs/<name>`, `outputs/<name>` (expected values), or `labels/<output>` (the class of
each row: a number, or one of the labels that the metadata declares for this output).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turnout.errors import InvalidModel
from turnout.registry.storage.npz import NpzError, read_npz

GOLDEN_DIRECTORY = "golden"
GOLDEN_FILE = re.compile(rf"{GOLDEN_DIRECTORY}/[A-Za-z0-9][A-Za-z0-9._-]{{0,100}}\.npz")
"""Path of a golden case in a version's directory, as it may be published."""

SIDES = ("inputs", "outputs", "labels")

MAX_CASE_BYTES = 256 << 20
"""Maximum memory for the arrays of one case, in bytes: enough for a batch of 400 photographs of 224 by 224 pixels."""


@dataclass(frozen=True, slots=True)
class GoldenCase:
    """One example of how a version should answer.

    Attributes:
        name: Name of the file without its suffix.
        inputs: Inputs by name. Strings are object arrays of `str`.
        outputs: Expected outputs by name; may be empty.
        labels: The right class of each row, by output name: integers, or strings as object arrays; may be empty.
    """

    name: str
    inputs: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, NDArray[Any]]
    labels: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def read_case(path: Path, *, max_bytes: int = MAX_CASE_BYTES, sides: Sequence[str] = SIDES) -> GoldenCase:
    """Reads a case. Nothing in the file is executed, and memory stays within the bound.

    Only `sides` are read; the others are left empty.

    Raises:
        InvalidModel: The file is not a golden case, or exceeds the bound.
    """
    arrays: dict[str, dict[str, NDArray[Any]]] = {side: {} for side in SIDES}
    for (side, tensor), array in _read(path, max_bytes, sides).items():
        if array is not None:
            arrays[side][tensor] = array
    return GoldenCase(path.stem, arrays["inputs"], arrays["outputs"], arrays["labels"])


def case_names(path: Path) -> Mapping[str, frozenset[str]]:
    """Returns the names of a case's tensors by side, without reading arrays.

    Raises:
        InvalidModel: The file is not a golden case.
    """
    found = _read(path, 0, ())
    return {side: frozenset(tensor for where, tensor in found if where == side) for side in SIDES}


def first_case(directory: Path, max_bytes: int) -> GoldenCase | None:
    """Reads the inputs of the first golden case of the version in `directory`. Returns None if there is none, or it
    cannot be read within the bound, since serving does not depend on it.
    """
    path = min((directory / GOLDEN_DIRECTORY).glob("*.npz"), default=None)
    if path is None:
        return None
    try:
        return read_case(path, max_bytes=max_bytes, sides=("inputs",))
    except InvalidModel:
        return None


def is_golden(path: str) -> bool:
    """Returns whether a path in a version's directory is in the place of golden cases."""
    return path.startswith(f"{GOLDEN_DIRECTORY}/")


def class_numbers(labels: NDArray[Any], names: Sequence[str] | None) -> NDArray[np.int64]:
    """Converts the `labels` of one output in a golden case to class numbers, shape (rows,).

    Raises:
        ValueError: They are neither integers nor names of classes. The message is a phrase.
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


def _read(path: Path, max_bytes: int, sides: Sequence[str]) -> Mapping[tuple[str, str], NDArray[Any] | None]:
    """Returns the arrays of a case by side and name; None for those that are not on one of `sides`."""
    try:
        headers, arrays = read_npz(path, max_bytes, lambda name: name.partition("/")[0] in sides)
    except NpzError as error:
        raise InvalidModel(f"golden case {path.name} {error}") from error
    found: dict[tuple[str, str], NDArray[Any] | None] = {}
    for name in headers:
        side, _, tensor = name.partition("/")
        if side not in SIDES or not tensor:
            raise InvalidModel(
                f"golden case {path.name} holds {name[:128]!r}; expected names of the form inputs/NAME and"
                " outputs/NAME, or labels/NAME"
            )
        found[side, tensor] = arrays.get(name)
    if not any(side == "inputs" for side, _ in found):
        raise InvalidModel(f"golden case {path.name} contains no inputs/NAME")
    return found
