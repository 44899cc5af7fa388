"""States: what is known about a tensor of a graph, for any number of rows of the batched inputs. Pure.

Consider two kinds of run: each request alone, and several requests whose rows are concatenated. A state describes how
the tensor of the second run follows from those of the first.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turnout.serving.rowwise.sizes import ONE, ONE_ROW, Size, product

_FOLLOWED = frozenset({"bool", "int32", "int64", "float32", "float64"})
"""NumPy's names of the element types whose values are followed, which include those of sizes and scales."""


class RowCount:
    """A number that depends on the number of rows in a way that is not followed."""


ROW_COUNT = RowCount()

Element = Size | float | RowCount | None
"""One element of a tensor: an integer as an expression (booleans are 0 and 1), or a floating-point constant.

None if it is not known before a run; it is then the same for a row and for a batch."""

Elements = NDArray[Any]
"""An object array of `Element`."""

MOST_ELEMENTS = 64
"""Maximum number of elements that are followed one by one; shapes, axes and pads have fewer."""


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """A tensor that is the same in both runs. `counts_rows` tells whether it depends on the number of rows.

    Attributes:
        shape: Dimensions; None if not even the rank is known.
        elements: Elements; None if they are not followed.
    """

    shape: tuple[Size, ...] | None = None
    elements: Elements | None = None

    @property
    def counts_rows(self) -> bool:
        """Whether an element depends on the number of rows."""
        return self.elements is not None and any(map(counts_rows, self.elements.flat))

    def constants(self) -> list[int] | None:
        """Returns the elements as a flat list of integers; None if one is not known before a run."""
        return None if self.elements is None else integers(self.elements.flat)


@dataclass(frozen=True, slots=True)
class Rows:
    """A tensor made of rows: in the joined run, the concatenation along one axis of those of the single runs.

    That axis may be folded with others: it then consists of `before` blocks, each block of all rows, and each row of
    `after` slices. Each slice depends on its row only.

    Attributes:
        shape: Dimensions. That of `axis` is before * rows * after; no other depends on the number of rows.
        axis: The batch axis.
        before: Number of blocks along the batch axis, each of which contains all rows.
        after: Number of slices per row in each block.
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
        """Number of dimensions."""
        return len(self.shape)

    @property
    def layout(self) -> tuple[Size, Size]:
        """Layout of the rows along the batch axis. Slices of tensors with equal layouts match row by row."""
        return self.before, self.after

    @property
    def plain(self) -> bool:
        """Whether the batch axis has one slice per row and is not folded."""
        return self.before == ONE == self.after

    def with_shape(self, shape: tuple[Size, ...], axis: int) -> "Rows":
        """Returns rows with the same layout along `axis` of another shape; the size of `axis` is set accordingly."""
        return Rows((*shape[:axis], self.shape[self.axis], *shape[axis + 1 :]), axis, self.before, self.after)

    def with_dimension(self, axis: int, size: Size) -> "Rows":
        """Returns rows with another size along `axis`, which must not be the batch axis."""
        assert axis != self.axis
        return Rows((*self.shape[:axis], size, *self.shape[axis + 1 :]), self.axis, self.before, self.after)


@dataclass(frozen=True, slots=True)
class Mixed:
    """A tensor about which nothing is known: its rows may depend on other rows.

    Attributes:
        reason: Cause, naming the node.
        fails: Whether no run ever computes this tensor.
    """

    reason: str
    fails: bool = False


State = Shared | Rows | Mixed


class NotRowWise(Exception):
    """Raised when an operator, given its inputs, does not compute its outputs row by row."""


class RunFails(NotRowWise):
    """Raised when every run of the operator on such inputs fails, alone or batched, so that no answer can be wrong."""


def counts_rows(element: Element) -> bool:
    """Returns whether a number depends on the number of rows."""
    return element is ROW_COUNT or (isinstance(element, Size) and bool(element.rows))


def integers(elements: Iterable[Element]) -> list[int] | None:
    """Returns the values of integers; None if one is not known before a run, or is not an integer."""
    found = []
    for element in elements:
        if not isinstance(element, Size) or element.constant is None:
            return None
        found.append(element.constant)
    return found


def as_size(element: Element) -> Size | None:
    """Returns a number that can be the size of a dimension; None if it may be negative or is not known."""
    return element if isinstance(element, Size) and element.is_size else None


def constant(values: NDArray[Any]) -> Shared:
    """Describes a tensor whose value is known."""
    return Shared(tuple(map(Size, values.shape)), _elements(values))


def unknown(shape: tuple[Size, ...] | None) -> Shared:
    """Describes a tensor of which only the shape is known."""
    known = None if shape is None else integers(shape)
    if known is None or math.prod(known) > MOST_ELEMENTS:
        return Shared(shape)
    return Shared(shape, np.full(known, None, dtype=object))


def vector(sizes: tuple[Size, ...]) -> Shared:
    """Describes a vector of sizes."""
    elements = np.empty(len(sizes), dtype=object)
    elements[:] = sizes
    return Shared((Size(len(sizes)),), elements)


def of_elements(elements: Elements) -> Shared:
    """Describes a tensor by its elements."""
    return Shared(tuple(map(Size, elements.shape)), elements)


def regrouped(rows: Rows, shape: tuple[Size, ...]) -> Rows:
    """Returns `rows` with the same elements in the same order, reshaped.

    Exactly one size may depend on the number of rows.

    Raises:
        NotRowWise: A row would not consist of whole slices of one dimension.
    """
    growing = [i for i, size in enumerate(shape) if size.rows]
    if len(growing) != 1 or shape[growing[0]].rows != 1:
        raise NotRowWise("no single dimension of the new shape grows with the rows")
    axis = growing[0]
    blocks = product(rows.shape[: rows.axis]) * rows.before  # number of blocks, each of which contains all rows
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
