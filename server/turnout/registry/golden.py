"""Golden cases: inputs, and where given the outputs expected of them, kept with a version as `golden/<case>.npz`.

An array of a case is named `inputs/<name>` or `outputs/<name>`.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
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
    """

    name: str
    inputs: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, NDArray[Any]]


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
    sides: dict[str, dict[str, NDArray[Any]]] = {"inputs": {}, "outputs": {}}
    for name, array in arrays.items():
        side, slash, tensor = name.partition("/")
        if side not in sides or not slash or not tensor:
            raise InvalidModel(
                f"golden case {path.name} holds {name!r}; expected names of the form inputs/NAME and outputs/NAME"
            )
        sides[side][tensor] = array
    if not sides["inputs"]:
        raise InvalidModel(f"golden case {path.name} holds no inputs/NAME")
    return GoldenCase(path.stem, sides["inputs"], sides["outputs"])


def read_cases(directory: Path) -> list[GoldenCase]:
    """Reads the golden cases of the version in `directory`, by name; there may be none."""
    return [read_case(path) for path in sorted((directory / GOLDEN_DIRECTORY).glob("*.npz"))]


def _as_text(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(object) if array.dtype.kind == "U" else array
