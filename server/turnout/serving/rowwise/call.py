"""One node and what is known about its input tensors, as passed to a rule. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from turnout.registry.onnx.graph import Attribute, GraphTensor, Node, TensorType
from turnout.serving.rowwise.sizes import Size, symbol
from turnout.serving.rowwise.states import Element, NotRowWise, Rows, Shared, State, as_size, counts_rows


@dataclass(frozen=True, slots=True)
class NodeCall:
    """A node with the states of its inputs, none of which is `Mixed`.

    Attributes:
        node: The node.
        inputs: States of the inputs in order; None for an omitted optional input.
        opset: Version of the operator set of the node's domain.
        place: Path of the node among nested graphs; part of the names of symbols that it introduces.
        types: Types of the outputs according to shape inference.
    """

    node: Node
    inputs: tuple[Shared | Rows | None, ...]
    opset: int
    place: str = ""
    types: tuple[TensorType, ...] = ()

    def has(self, index: int) -> bool:
        """Returns whether an optional input is given."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def given(self, index: int) -> Shared | Rows:
        """Returns the state of a required input."""
        state = self.inputs[index] if index < len(self.inputs) else None
        if state is None:
            raise NotRowWise(f"input {index} is missing")
        return state

    def operand(self, index: int) -> Shared | Rows:
        """Returns the state of a required input that, if it is not made of rows, must be the same for every row."""
        state = self.given(index)
        if isinstance(state, Shared):
            self.shared(index)
        return state

    def rows(self, index: int) -> Rows:
        """Returns the state of an input that must be made of rows."""
        state = self.given(index)
        if not isinstance(state, Rows):
            raise NotRowWise(f"input {index} does not depend on the rows, and another does")
        return state

    def shared(self, *indices: int) -> None:
        """Checks that the given inputs, unless omitted, are the same for every row."""
        for index in indices:
            state = self.inputs[index] if index < len(self.inputs) else None
            if isinstance(state, Rows):
                raise NotRowWise(f"input {index} depends on the rows")
            if state is not None and state.counts_rows:
                raise NotRowWise(f"input {index} depends on the number of rows")

    def numbers(self, index: int) -> list[Element]:
        """Returns the elements of an input that must be the same for every row; they may depend on the row count."""
        state = self.given(index)
        if isinstance(state, Rows):
            raise NotRowWise(f"input {index} depends on the rows, and decides the shape of an output")
        if state.elements is None:
            raise NotRowWise(f"the number of elements of input {index} is not known before a run")
        return list(state.elements.flat)

    def constants(self, index: int) -> list[int]:
        """Returns the elements of an input that must be known before a run."""
        state = self.given(index)
        found = state.constants() if isinstance(state, Shared) else None
        if found is None:
            raise NotRowWise(f"the value of input {index} is not known before a run")
        return found

    def integer(self, name: str, default: int) -> int:
        """Returns an integer attribute."""
        value = self.node.attributes.get(name, default)
        if not isinstance(value, int):
            raise NotRowWise(f"attribute {name} is not an integer")
        return value

    def integers(self, name: str) -> tuple[int, ...] | None:
        """Returns an attribute that is a list of integers; None if it is omitted."""
        value = self.node.attributes.get(name)
        if value is None:
            return None
        if isinstance(value, tuple) and all(isinstance(v, int) for v in value):
            return tuple(v for v in value if isinstance(v, int))
        raise NotRowWise(f"attribute {name} is not a list of integers")

    def text(self, name: str, default: str) -> str:
        """Returns a text attribute."""
        value = self.node.attributes.get(name, default)
        if not isinstance(value, str):
            raise NotRowWise(f"attribute {name} is not text")
        return value

    def attribute(self, name: str) -> Attribute | None:
        """Returns an attribute of any kind; None if it is omitted."""
        return self.node.attributes.get(name)

    def tensor(self, name: str) -> GraphTensor | None:
        """Returns a tensor attribute; None if it is omitted."""
        value = self.node.attributes.get(name)
        if value is None or isinstance(value, GraphTensor):
            return value
        raise NotRowWise(f"attribute {name} is not a tensor")

    def axis(self, name: str, default: int, rank: int) -> int:
        """Returns an attribute that is an axis of a tensor of rank `rank`, normalized to count from 0."""
        return normal(self.integer(name, default), rank)

    def axes(self, index: int, rank: int) -> tuple[int, ...] | None:
        """Returns the axes given by the attribute `axes` or by input `index`; None if neither is given."""
        named = self.stated_axes(index)
        return None if named is None else tuple(normal(axis, rank) for axis in named)

    def stated_axes(self, index: int) -> Sequence[int] | None:
        """Returns the same axes as they are stated: negative axes count from the end."""
        return self.constants(index) if self.has(index) else self.integers("axes")

    def fresh(self, axis: int, output: int = 0) -> Size:
        """Returns the size of an output along an axis that no rule computes: from shape inference, or a symbol.

        Use it only for sizes that cannot depend on the number of rows.
        """
        shape = self.types[output].shape if output < len(self.types) else None
        found = shape[axis] if shape is not None and axis < len(shape) else None
        if isinstance(found, int):
            return Size(found)
        return symbol(f"{self.place}{self.node.outputs[output]}[{axis}]")

    def dimension(self, element: Element, axis: int) -> Size:
        """Returns the size of an output along an axis, as given by a number.

        Raises:
            NotRowWise: The number depends on the number of rows.
        """
        if counts_rows(element):
            raise NotRowWise("a size depends on the number of rows")
        return as_size(element) or self.fresh(axis)

    def outside(self, rows: Rows, axes: Sequence[int], what: str) -> None:
        """Checks that an operator does not work along the batch axis; `what` describes what it does along `axes`."""
        if rows.axis in axes:
            raise NotRowWise(f"it {what} along the batch axis")


Rule = Callable[[NodeCall], Sequence[State]]
"""Returns the state of each output, given at least one input made of rows. Raises `NotRowWise` if an output is not."""


def normal(axis: int, rank: int) -> int:
    """Returns an axis normalized to count from 0.

    Raises:
        NotRowWise: The axis is out of range.
    """
    if not -rank <= axis < rank:
        raise NotRowWise(f"axis {axis} of a tensor of {rank} dimensions")
    return axis % rank
