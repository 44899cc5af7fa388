"""Triton's classification extension: returns the highest values of an output as strings. Pure.

If a client sets the parameter `classification` of an output to N, it receives the N highest values, highest first, as
BYTES elements of the form `value:index`, or `value:index:label` if the version's manifest contains labels.
"""

import math
from collections.abc import Sequence

import numpy as np

from turnout.errors import InvalidRequest
from turnout.serving.sessions.tensor import Array


def classify(name: str, values: Array, count: int, labels: Sequence[str] = (), *, by_rows: bool) -> Array:
    """Returns the `count` highest of an output's values, a numeric array of any shape, as an object array of `str`.

    With `by_rows`, the first dimension is the batch dimension, and each row is classified separately. The result has
    shape `[k]`, or `[rows, k]` with `by_rows`, where k is the smaller of `count` (1 or more) and the number of values.
    Equal values are ordered by index. Floats are written with six decimals, as by `std::to_string`. `labels` names the
    classes by index; indices beyond the last label have no name.

    Raises:
        InvalidRequest: The values are not numeric.
    """
    if values.dtype == object or values.dtype == np.bool_:
        raise InvalidRequest.at("outputs", f"classification ranks numbers, and output {name[:64]!r} holds none")
    by_rows = by_rows and values.ndim > 0
    table = values.reshape(values.shape[0], math.prod(values.shape[1:])) if by_rows else values.reshape(1, values.size)
    whole = values.dtype.kind in "iu"
    # For signed and unsigned integers, ~x reverses the order and, unlike -x, never overflows.
    order = np.argsort(~table if whole else -table, axis=-1, kind="stable")[:, :count]
    top = np.empty(order.shape, object)
    for row, indices in enumerate(order.tolist()):
        for place, index in enumerate(indices):
            value = table[row, index]
            label = f":{labels[index]}" if index < len(labels) else ""
            top[row, place] = f"{int(value)}:{index}{label}" if whole else f"{float(value):f}:{index}{label}"
    return top if by_rows else top[0]
