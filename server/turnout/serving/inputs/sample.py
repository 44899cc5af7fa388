"""Finds inputs that a version runs on: of a golden case if there is one, else made up."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from turnout.errors import TurnoutError
from turnout.registry.manifest.signature import Signature
from turnout.serving.inputs.attempts import LeftOut
from turnout.serving.inputs.synthetic import MOST_ELEMENTS, Recipe, made_up
from turnout.serving.sessions.session import Run
from turnout.serving.sessions.tensor import Array

GOLDEN = "a golden case"

Trying = Callable[[str], AbstractContextManager[None]]
"""Is entered around each run, with words for what is run; may raise a TurnoutError to leave it out."""


@dataclass(frozen=True, slots=True)
class SampleInputs:
    """Inputs of one row that a version runs on.

    Attributes:
        inputs: By name; None if none were found.
        recipe: How they were made up; None if they are of a golden case.
        trouble: What the version said to the last that were tried, if none were found.
        deadly: Nothing that was tried could be run to an end.
    """

    inputs: Mapping[str, Array] | None
    recipe: Recipe | None = None
    trouble: str = ""
    deadly: bool = False


def find_sample(
    run: Run,
    signature: Signature,
    axes: Mapping[str, int],
    golden: Mapping[str, Array] | None,
    tried: Sequence[Recipe],
    trying: Trying = lambda _: contextlib.nullcontext(),
    most: int = MOST_ELEMENTS,
) -> SampleInputs:
    """Runs the version until it runs.

    Args:
        run: Runs it.
        signature: Of it.
        axes: The batch axis of each input that has one; a sample has one row.
        golden: Inputs of a golden case, which real models accept where made-up ones may be refused.
        tried: What is made up, in order.
        trying: Around each run.
        most: Elements of what is made up.
    """
    names, trouble = [spec.name for spec in signature.outputs], ""
    tries, left_out = 0, 0
    if golden is not None and (row := one_row(golden, axes)) is not None:
        try:
            with trying(GOLDEN):
                run(row, names)
            return SampleInputs(row)
        except TurnoutError as error:
            trouble = error.message
    for recipe, inputs in made_up(signature, tried, axes, most):
        try:
            with trying(str(recipe)):
                run(inputs, names)
            return SampleInputs(inputs, recipe)
        except TurnoutError as error:
            trouble = error.message
            left_out += isinstance(error, LeftOut)
        tries += 1
    return SampleInputs(None, trouble=trouble, deadly=golden is None and 0 < tries == left_out)


def one_row(golden: Mapping[str, Array], axes: Mapping[str, int]) -> dict[str, Array] | None:
    """Returns the first row of a golden case; None if it has none."""
    rows = {name: a.shape[axes[name]] for name, a in golden.items() if name in axes and a.ndim > axes[name]}
    if not all(count >= 1 for count in rows.values()):
        return None
    return {name: np.take(a, [0], axis=axes[name]) if name in rows else a for name, a in golden.items()}
