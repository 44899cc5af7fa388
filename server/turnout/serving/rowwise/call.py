"""One node and what is known about the tensors it takes: what a rule is asked about. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from turnout.registry.onnx.graph import Attribute, GraphTensor, Node, TensorType
from turnout.serving.rowwise.sizes import Size, symbol
from turnout.serving.rowwise.states import Element, NotRowWise, Rows, Shared, State, counts_rows


@dataclass(frozen=True, slots=True)
class NodeCall:
    """A node with the states of its inputs, none of which is `Mixed`.

    Attributes:
        node: The operator.
        inputs: In order; None if an optional one is left out.
        opset: Version of the operator set of the node's domain.
        place: Names the node's place among nested graphs; part of the names of symbols that it brings forth.
        types: What shape inference found about each output.
    """

    node: Node
    inputs: tuple[Shared | Rows | None, ...]
    opset: int
    place: str = ""
    types: tuple[TensorType, ...] = ()

    def has(self, index: int) -> bool:
        """Tells whether an optional input is given."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def given(self, index: int) -> Shared | Rows:
        """Returns the state of an input that has to be there."""
        state = self.inputs[index] if index < len(self.inputs) else None
        if state is None:
            raise NotRowWise(f"input {index} is left out")
        return state

    def rows(self, index: int) -> Rows:
        """Returns the state of an input that has to be made of rows."""
        state = self.given(index)
        if not isinstance(state, Rows):
            raise NotRowWise(f"input {index} does not depend on the rows, and another does")
        return state

    def shared(self, *indices: int) -> None:
        """Checks inputs that have to be the same for every row, if they are there at all."""
        for index in indices:
            state = self.inputs[index] if index < len(self.inputs) else None
            if isinstance(state, Rows):
                raise NotRowWise(f"input {index} depends on the rows")
            if state is not None and state.counts_rows:
                raise NotRowWise(f"input {index} depends on how many rows there are")

    def numbers(self, index: int) -> list[Element]:
        """Returns the elements of an input that has to be the same for every row; each may count the rows."""
        state = self.given(index)
        if isinstance(state, Rows):
            raise NotRowWise(f"input {index} depends on the rows, and decides the shape of an output")
        if state.elements is None:
            raise NotRowWise(f"how many elements input {index} has is not known before a run")
        return list(state.elements.flat)

    def constants(self, index: int) -> list[int]:
        """Returns the elements of an input that has to be known before a run."""
        state = self.given(index)
        found = state.constants() if isinstance(state, Shared) else None
        if found is None:
            raise NotRowWise(f"what input {index} holds is not known before a run")
        return found

    def integer(self, name: str, default: int) -> int:
        """Returns an attribute."""
        value = self.node.attributes.get(name, default)
        if not isinstance(value, int):
            raise NotRowWise(f"attribute {name} is not a whole number")
        return value

    def integers(self, name: str) -> tuple[int, ...] | None:
        """Returns an attribute; None if it is left out."""
        value = self.node.attributes.get(name)
        if value is None:
            return None
        if isinstance(value, tuple) and all(isinstance(v, int) for v in value):
            return tuple(v for v in value if isinstance(v, int))
        raise NotRowWise(f"attribute {name} is not a list of whole numbers")

    def text(self, name: str, default: str) -> str:
        """Returns an attribute."""
        value = self.node.attributes.get(name, default)
        if not isinstance(value, str):
            raise NotRowWise(f"attribute {name} is not text")
        return value

    def attribute(self, name: str) -> Attribute | None:
        """Returns an attribute of any kind; None if it is left out."""
        return self.node.attributes.get(name)

    def tensor(self, name: str) -> GraphTensor | None:
        """Returns an attribute that is a tensor; None if it is left out."""
        value = self.node.attributes.get(name)
        if value is None or isinstance(value, GraphTensor):
            return value
        raise NotRowWise(f"attribute {name} is not a tensor")

    def axis(self, name: str, default: int, rank: int) -> int:
        """Returns an attribute that is an axis of a tensor of `rank`, counted from 0."""
        return normal(self.integer(name, default), rank)

    def axes(self, index: int, rank: int) -> tuple[int, ...] | None:
        """Returns the axes that the attribute `axes` or the input of that index names; None if neither is there."""
        found: Sequence[int] | None = self.integers("axes")
        if self.has(index):
            found = self.constants(index)
        return None if found is None else tuple(normal(axis, rank) for axis in found)

    def fresh(self, axis: int, output: int = 0) -> Size:
        """Returns the size of an output along an axis that no rule computes: what shape inference found, or a symbol.

        Only for sizes that cannot depend on the number of rows.
        """
        shape = self.types[output].shape if output < len(self.types) else None
        found = shape[axis] if shape is not None and axis < len(shape) else None
        if isinstance(found, int):
            return Size(found)
        return symbol(f"{self.place}{self.node.outputs[output]}[{axis}]")

    def dimension(self, element: Element, axis: int) -> Size:
        """Returns the size of an output along an axis that a number decides.

        Raises:
            NotRowWise: It counts the rows.
        """
        if counts_rows(element):
            raise NotRowWise("a size depends on how many rows there are")
        return element if isinstance(element, Size) and element.is_size else self.fresh(axis)

    def outside(self, rows: Rows, axes: Sequence[int], what: str) -> None:
        """Checks that the batch axis is not among axes that the operator goes along."""
        if rows.axis in axes:
            raise NotRowWise(f"it {what} along the batch axis")


Rule = Callable[[NodeCall], Sequence[State]]
"""Returns the state of each output. At least one input is made of rows. Raises `NotRowWise` where an output is not."""


def normal(axis: int, rank: int) -> int:
    """Returns an axis counted from 0.

    Raises:
        NotRowWise: There is no axis of that number.
    """
    if not -rank <= axis < rank:
        raise NotRowWise(f"axis {axis} of a tensor of {rank} dimensions")
    return axis % rank
