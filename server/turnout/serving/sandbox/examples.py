"""Examples that versions are tried on: golden cases that fit the signature. See `synthetic` for synthetic inputs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from turnout.errors import InvalidModel
from turnout.registry.manifest.signature import Signature
from turnout.registry.storage.golden import GOLDEN_DIRECTORY, read_case
from turnout.serving.sessions.tensor import NUMPY_DTYPES, Array


@dataclass(frozen=True, slots=True)
class Example:
    """One input to run a version on. Its name is the same for every version that gets it.

    `fault` says why the version cannot run it; "" if it can.
    """

    name: str
    golden: bool
    inputs: Mapping[str, Array]
    fault: str = ""


def golden_examples(paths: Sequence[Path], signature: Signature) -> Iterator[Example]:
    """Yields golden cases one by one. A case whose name is taken, by a case of another version, gets a number."""
    names: set[str] = set()
    for path in paths:
        name, number = f"{GOLDEN_DIRECTORY}/{path.name}", 2
        while name in names:
            name, number = f"{GOLDEN_DIRECTORY}/{path.name} ({number})", number + 1
        names.add(name)
        try:
            inputs = check_fit(read_case(path, sides=("inputs",)).inputs, signature)
        except InvalidModel as error:
            yield Example(name, True, {}, error.message)
        else:
            yield Example(name, True, inputs)


def check_fit(inputs: Mapping[str, Array], signature: Signature) -> Mapping[str, Array]:
    """Returns a case's inputs after checking that they fit the signature. Raises InvalidModel if they do not fit."""
    for spec in signature.inputs:
        array = inputs.get(spec.name)
        if array is None:
            if not spec.has_default:
                raise InvalidModel(f"it lacks the input {spec.name}")
        elif array.dtype != NUMPY_DTYPES[spec.dtype]:
            raise InvalidModel(f"its input {spec.name} is {array.dtype}, the model takes {spec.dtype}")
        elif not spec.admits(array.shape):
            raise InvalidModel(f"its input {spec.name} has shape {list(array.shape)}, the model takes {spec}")
    if unknown := sorted(inputs.keys() - {spec.name for spec in signature.inputs}):
        raise InvalidModel(f"it has an input {unknown[0]} that the model does not have")
    return inputs


def first_row(case: Example, signature: Signature) -> Example:
    """Returns the first row of a case, since latency is measured for single requests."""
    free = {spec.name for spec in signature.inputs if spec.shape and not isinstance(spec.shape[0], int)}
    inputs = {name: array[:1] if name in free else array for name, array in case.inputs.items()}
    return Example(f"the first row of {case.name}", True, inputs)
