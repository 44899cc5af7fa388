"""Rows of requests: joined to a batch, and taken from one. Pure."""

from collections.abc import Mapping, Sequence

import numpy as np

from turnout.serving.sessions.tensor import Array


def join(axes: Mapping[str, int], requests: Sequence[Mapping[str, Array]]) -> Mapping[str, Array]:
    """Returns the inputs of one run for several requests. Inputs without rows are those of the first request."""
    first = requests[0]
    if len(requests) == 1:
        return first
    return {
        name: np.concatenate([request[name] for request in requests], axis=axes[name]) if name in axes else array
        for name, array in first.items()
    }


def part(array: Array, axis: int | None, start: int, stop: int) -> Array:
    """Returns a view of some rows of a tensor; the whole tensor if it has no batch axis."""
    return array if axis is None else array[(*(slice(None),) * axis, slice(start, stop))]


def copied_row(axes: Mapping[str, int], inputs: Mapping[str, Array], index: int) -> dict[str, Array]:
    """Returns a copy of one row, with the inputs that have no rows."""
    return {name: np.take(a, [index], axis=axes[name]) if name in axes else a for name, a in inputs.items()}


def doubled_up_to(most: int) -> list[int]:
    """Returns 1, 2, 4, ... and `most`: the numbers that are tried where trying all would take too long."""
    numbers = [1]
    while numbers[-1] < most:
        numbers.append(min(numbers[-1] * 2, most))
    return numbers
