"""Finds inputs that a version runs on: from a golden case if possible, otherwise synthetic."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from turnout.errors import TurnoutError
from turnout.registry.manifest.signature import Signature
from turnout.serving.inputs.attempts import LeftOut
from turnout.serving.inputs.rows import copied_row
from turnout.serving.inputs.synthetic import MOST_ELEMENTS, Recipe, synthetic_by_recipe
from turnout.serving.sessions.session import Run
from turnout.serving.sessions.tensor import Array

GOLDEN = "a golden case"

Trying = Callable[[str], AbstractContextManager[None]]
"""Makes a context for each run from a description of it; may raise a TurnoutError to skip the run."""


@dataclass(frozen=True, slots=True)
class SampleInputs:
    """One-row inputs that a version runs on.

    Attributes:
        inputs: Inputs by name; None if none were found.
        recipe: Recipe of synthetic inputs; None if the inputs are from a golden case.
        trouble: Error message for the last inputs tried, if none were found.
        deadly: Whether every run that was tried had to be skipped because a process did not survive it.
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
    """Tries inputs until the version runs on some.

    `golden` are the inputs of a golden case, which models accept where they may refuse synthetic inputs; None for none.
    The recipes `tried` follow in order, with at most `most` elements in a set of synthetic inputs. `axes` is the batch
    axis of each input that has one; a sample has one row. `trying` makes the context of each run.
    """
    names, trouble = signature.output_names, f"all would have more than {most:,} elements"
    tries, left_out = 0, 0
    if golden is not None and (row := one_row(golden, axes)) is not None:
        try:
            with trying(GOLDEN):
                run(row, names)
            return SampleInputs(row)
        except TurnoutError as error:
            trouble = error.message
    for recipe, inputs in synthetic_by_recipe(signature, tried, axes, most):
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
    """Returns the first row of a golden case; None if it has no rows."""
    rows = {name: a.shape[axes[name]] for name, a in golden.items() if name in axes and a.ndim > axes[name]}
    if not all(count >= 1 for count in rows.values()):
        return None
    return copied_row({name: axes[name] for name in rows}, golden, 0)
