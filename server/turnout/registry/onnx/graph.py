"""The graph of an ONNX model as a frozen value: nodes, tensors, subgraphs. Pure.

It is what questions about a model's operators are asked of; `turnout.registry.onnx.graph_reader` reads it from a file.
Weights are described, not held: only tensors of a few elements keep their values, since those decide shapes and axes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from turnout.registry.manifest.signature import Dimension

STANDARD_DOMAIN = ""
"""The domain of ONNX's own operators; a file may also write it `ai.onnx`."""


@dataclass(frozen=True, slots=True)
class TensorType:
    """What is known about a tensor before a run.

    Attributes:
        element: Element type as `turnout.registry.manifest.signature.DataType` spells it, or as ONNX does
            (`float8e4m3fn`) if that has no name for it; "" if it is not known.
        shape: Its dimensions; None if not even the rank is known.
    """

    element: str = ""
    shape: tuple[Dimension, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class GraphTensor:
    """A tensor that the file holds: an initialiser, or an attribute of a node.

    Attributes:
        element: Element type, as in `TensorType`.
        values: Its elements; None if there are more than `turnout.registry.onnx.graph_reader.KEPT_ELEMENTS` of them,
            where they lie in another file, and where NumPy has no such type.
    """

    element: str
    shape: tuple[int, ...]
    values: NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class UnreadAttribute:
    """The value of an attribute of a kind that no standard operator decides a shape by: a sparse tensor, a type."""

    kind: str


Attribute = int | float | str | GraphTensor | tuple[int, ...] | tuple[float, ...] | tuple[str, ...] | UnreadAttribute
"""The value of an attribute that is no graph."""


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operator of a graph.

    Attributes:
        op_type: The operator's name, `MatMul`.
        domain: Its domain; `STANDARD_DOMAIN` for ONNX's own.
        name: What the file calls the node; often "".
        inputs: Names of the tensors it takes; "" if an optional one is left out.
        outputs: Names of those it makes; "" if an optional one is left out.
        attributes: By name, as the file states them: defaults of the operator are not filled in.
        subgraphs: Graphs among its attributes, by the attribute's name; they may use tensors of the graphs around them.
    """

    op_type: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    subgraphs: Mapping[str, tuple["Graph", ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        operator = f"{self.domain}.{self.op_type}" if self.domain else self.op_type
        label = self.name or next((f"-> {name}" for name in self.outputs if name), "")
        return f"{operator} ({label})" if label else operator


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Nodes in an order in which they can run, and what they begin with.

    Attributes:
        nodes: Each after those whose outputs it takes.
        inputs: By name, in order; those that are initialisers too can be set by a caller from IR version 4 on.
        outputs: Names, in order.
        types: Of the tensors that the nodes make, as far as ONNX's shape inference finds them out. What the file itself
            claims about them is left out: nothing checks it.
    """

    nodes: tuple[Node, ...]
    inputs: Mapping[str, TensorType]
    outputs: tuple[str, ...]
    initializers: Mapping[str, GraphTensor]
    types: Mapping[str, TensorType] = field(default_factory=dict)

    def all_nodes(self) -> Iterator[Node]:
        """Goes through the nodes of this graph and of those inside it, a node before those of its subgraphs."""
        for node in self.nodes:
            yield node
            for graphs in node.subgraphs.values():
                for graph in graphs:
                    yield from graph.all_nodes()


@dataclass(frozen=True, slots=True, eq=False)
class ModelGraph:
    """The graph of a model and what its operators mean.

    Attributes:
        graph: With the model's local functions put in place of the nodes that call them; one that cannot be (it calls
            itself, or is written for another operator set) stays a node of the function's domain.
        opset: Operator set version by domain; `STANDARD_DOMAIN` for ONNX's own.
        ir_version: Version of the ONNX format.
    """

    graph: Graph
    opset: Mapping[str, int]
    ir_version: int
