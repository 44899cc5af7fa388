"""What is known about one tensor of a graph, for any number of rows of the batched inputs. Pure.

Think of two runs: of one request alone, and of several whose rows were put together. A state says how the tensor of the
second follows from those of the first.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turnout.serving.rowwise.sizes import ONE, ONE_ROW, Size, product

_FOLLOWED = frozenset({"bool", "int32", "int64", "float32", "float64"})
"""NumPy's names of the element types whose numbers are followed: sizes and scales are of these."""


class RowCount:
    """A number that depends on the number of rows in a way that is not followed."""


ROW_COUNT = RowCount()

Element = Size | float | RowCount | None
"""One number of a tensor: a whole one as an expression (booleans are 0 and 1), or a constant with a fraction.

None if it is not known before a run; then it is the same for a row and for a batch."""

Elements = NDArray[Any]
"""An object array of `Element`."""

MOST_ELEMENTS = 64
"""Tensors with more elements than this are not followed element by element: shapes, axes and pads have fewer."""


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """The same in both runs: it depends on no row. If it depends on how many there are, `counts_rows` says so.

    Attributes:
        shape: Its dimensions; None if not even the rank is known.
        elements: What it holds; None if that is not followed.
    """

    shape: tuple[Size, ...] | None = None
    elements: Elements | None = None

    @property
    def counts_rows(self) -> bool:
        """It holds a number that depends on the number of rows."""
        return self.elements is not None and any(map(counts_rows, self.elements.flat))

    def constants(self) -> list[int] | None:
        """Returns the elements as whole numbers, flat; None if one is not known before a run."""
        if self.elements is None:
            return None
        found = [_whole(element) for element in self.elements.flat]
        return None if None in found else [number for number in found if number is not None]


@dataclass(frozen=True, slots=True)
class Rows:
    """Made of the rows: the tensor of the joined run is those of the single runs, one after another along one axis.

    That axis may have been folded with others: its index counts `before` blocks, in each the rows, for each row `after`
    slices. Each slice depends on its row alone.

    Attributes:
        shape: Its dimensions; that of `axis` is before * rows * after, and no other depends on the number of rows.
        axis: The batch axis.
        before: Blocks of the batch axis that each hold all rows.
        after: Slices of the batch axis that each row has in a block.
    """

    shape: tuple[Size, ...]
    axis: int
    before: Size = ONE
    after: Size = ONE

    def __post_init__(self) -> None:
        assert self.shape[self.axis] == self.before * ONE_ROW * self.after, self
        assert not any(size.rows for i, size in enumerate(self.shape) if i != self.axis), self

    @property
    def rank(self) -> int:
        """How many dimensions it has."""
        return len(self.shape)

    @property
    def layout(self) -> tuple[Size, Size]:
        """How the rows lie along the batch axis. Where two tensors agree in it, their slices meet row by row."""
        return self.before, self.after

    @property
    def plain(self) -> bool:
        """Its batch axis counts rows and nothing else."""
        return self.before == ONE == self.after

    def with_shape(self, shape: tuple[Size, ...], axis: int) -> "Rows":
        """Returns rows that lie in the same way along `axis` of another shape; its size there is set."""
        return Rows((*shape[:axis], self.shape[self.axis], *shape[axis + 1 :]), axis, self.before, self.after)

    def with_dimension(self, axis: int, size: Size) -> "Rows":
        """Returns rows of another size along `axis`, which is not the batch axis."""
        assert axis != self.axis
        return Rows((*self.shape[:axis], size, *self.shape[axis + 1 :]), self.axis, self.before, self.after)


@dataclass(frozen=True, slots=True)
class Mixed:
    """Nothing is known: a row of it may depend on other rows.

    Attributes:
        reason: What makes it so, naming the node.
        fails: No run ever gets as far as this tensor.
    """

    reason: str
    fails: bool = False


State = Shared | Rows | Mixed


class NotRowWise(Exception):
    """An operator is given its inputs in a way in which its outputs are not made row by row."""


class RunFails(NotRowWise):
    """Every run of the operator on such inputs fails, alone or not: there is no answer that could be wrong."""


def counts_rows(element: Element) -> bool:
    """Tells whether a number depends on the number of rows."""
    return element is ROW_COUNT or (isinstance(element, Size) and bool(element.rows))


def constant(values: NDArray[Any]) -> Shared:
    """Describes a tensor whose value is known."""
    return Shared(tuple(map(Size, values.shape)), _elements(values))


def unknown(shape: tuple[Size, ...] | None) -> Shared:
    """Describes a tensor of which no more than the shape is known."""
    sizes = [size.constant for size in shape] if shape is not None else [None]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes) or math.prod(known) > MOST_ELEMENTS:
        return Shared(shape)
    return Shared(shape, np.full(known, None, dtype=object))


def vector(sizes: tuple[Size, ...]) -> Shared:
    """Describes a vector of sizes."""
    elements = np.empty(len(sizes), dtype=object)
    elements[:] = sizes
    return Shared((Size(len(sizes)),), elements)


def of_elements(elements: Elements) -> Shared:
    """Describes a tensor by what it holds."""
    return Shared(tuple(map(Size, elements.shape)), elements)


def regrouped(rows: Rows, shape: tuple[Size, ...]) -> Rows:
    """Returns `rows` with the same elements in the same order, in dimensions of other sizes.

    Args:
        rows: Before.
        shape: The sizes after; exactly one depends on the number of rows.

    Raises:
        NotRowWise: A row would not lie in whole slices of one dimension.
    """
    growing = [i for i, size in enumerate(shape) if size.rows]
    if len(growing) != 1 or shape[growing[0]].rows != 1:
        raise NotRowWise("no single dimension of the new shape grows with the rows")
    axis = growing[0]
    blocks = product(rows.shape[: rows.axis]) * rows.before  # of elements, that each hold all rows
    before = blocks / product(shape[:axis])
    factor = shape[axis] / ONE_ROW
    after = None if before is None or factor is None else factor / before
    if before is None or after is None:
        raise NotRowWise("rows would not lie in whole slices of one dimension of the new shape")
    return Rows(shape, axis, before, after)


def _elements(values: NDArray[Any]) -> Elements | None:
    if values.size > MOST_ELEMENTS or values.dtype.name not in _FOLLOWED:
        return None
    convert = float if values.dtype.kind == "f" else lambda value: Size(int(value))
    elements = np.empty(values.shape, dtype=object)
    for index, value in np.ndenumerate(values):
        elements[index] = convert(value)
    return elements


def _whole(element: Element) -> int | None:
    if isinstance(element, Size):
        return element.constant
    return int(element) if isinstance(element, float) and element.is_integer() else None
