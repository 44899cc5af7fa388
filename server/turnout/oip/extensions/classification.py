"""Triton's classification extension: the highest values of an output, as text. Pure.

A client that asks for `classification` of N on an output gets, in place of its values, BYTES of the form `value:index`,
or `value:index:label` if the version's manifest has labels, for the N highest, the highest first.
"""

import math
from collections.abc import Sequence

import numpy as np

from turnout.errors import InvalidRequest
from turnout.serving.sessions.tensor import Array


def classify(name: str, values: Array, count: int, labels: Sequence[str] = (), *, by_rows: bool) -> Array:
    """Returns the `count` highest of `values` as `str` in an object array.

    Args:
        name: Of the output.
        values: Numbers of any shape.
        count: How many to return at most; 1 or more.
        labels: Names of the classes, in order; indices beyond them have none.
        by_rows: The first dimension counts the rows of a batch, each of which is classified by itself.

    Returns:
        Shape `[k]`, or `[rows, k]` by rows; k is `count`, or the number of values if that is less. Equal values
        are ordered by index. Fractions have six digits, as `std::to_string` writes them.

    Raises:
        InvalidRequest: The values are not numbers.
    """
    if values.dtype == object or values.dtype == np.bool_:
        raise InvalidRequest.at("outputs", f"classification ranks numbers, and output {name[:64]!r} holds none")
    by_rows = by_rows and values.ndim > 0
    table = values.reshape(values.shape[0], math.prod(values.shape[1:])) if by_rows else values.reshape(1, values.size)
    whole = values.dtype.kind in "iu"
    # For whole numbers of either sign, x -> ~x turns the order round and, unlike x -> -x, never overflows.
    order = np.argsort(~table if whole else -table, axis=-1, kind="stable")[:, :count]
    top = np.empty(order.shape, object)
    for row, indices in enumerate(order.tolist()):
        for place, index in enumerate(indices):
            value = table[row, index]
            label = f":{labels[index]}" if index < len(labels) else ""
            top[row, place] = f"{int(value)}:{index}{label}" if whole else f"{float(value):f}:{index}{label}"
    return top if by_rows else top[0]
