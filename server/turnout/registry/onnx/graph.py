"""The graph of an ONNX model as a frozen value: nodes, tensors, subgraphs. Without side effects.

It is the basis of all analyses of a model's operators. `turnout.registry.onnx.graph_reader` reads it from a file.
Weights are described without their values: only tensors of few elements keep them, since those determine shapes and
axes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from numpy.typing import NDArray

from turnout.registry.manifest.signature import Dimension

STANDARD_DOMAIN = ""
"""Domain of ONNX's standard operators."""

STANDARD_SYNONYM = "ai.onnx"
"""The same domain, as a file may also write it. It is never the domain of a `Node`."""

MICROSOFT_DOMAIN = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""

CLASSICAL_DOMAIN = "ai.onnx.ml"
"""Domain of classical machine learning."""

CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})
"""Standard operators with a graph that runs as often as values determine."""

OTHER_VERSION = " of operator set "
"""Part of the domain of operators in functions that were written for another version of an operator set than the model,
and that the model's version defines differently. The number of that version follows it."""

FIRST_IR_WITH_DEFAULTS = 4
"""Version of the ONNX format from which on an initialiser with the name of an input is only its default."""


@dataclass(frozen=True, slots=True)
class TensorType:
    """Static type of a tensor.

    Attributes:
        element: Element type, spelled as in `turnout.registry.manifest.signature.DataType`, or as in ONNX
            (`float8e4m3fn`) if it is not in there; "" if unknown.
        shape: Dimensions; None if not even the rank is known.
    """

    element: str = ""
    shape: tuple[Dimension, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class GraphTensor:
    """A tensor in the file: an initialiser, or an attribute of a node.

    Attributes:
        element: Element type, as in `TensorType`.
        values: Elements; None if there are more than `turnout.registry.onnx.graph_reader.KEPT_ELEMENTS`, if they are in
            another file, or if NumPy does not support their type.
    """

    element: str
    shape: tuple[int, ...]
    values: NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class UnreadAttribute:
    """An attribute of a kind that does not determine a shape in any standard operator: a sparse tensor or a type."""

    kind: str


Attribute = int | float | str | GraphTensor | tuple[int, ...] | tuple[float, ...] | tuple[str, ...] | UnreadAttribute
"""Value of an attribute that is not a graph."""


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operator of a graph.

    Attributes:
        op_type: Name of the operator, such as `MatMul`.
        domain: Domain of the operator; `STANDARD_DOMAIN` for ONNX's standard operators.
        name: Name of the node in the file; often "".
        inputs: Names of the input tensors; "" for an omitted optional one.
        outputs: Names of the output tensors; "" for an omitted optional one.
        attributes: Attributes by name, as stated in the file, without the operator's defaults.
        subgraphs: Graphs among the attributes, by attribute name. They may use tensors of the enclosing graphs.
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

    @property
    def operator(self) -> tuple[str, str]:
        """Domain and name of the operator, whichever version of the operator set it is from."""
        domain = self.domain.partition(OTHER_VERSION)[0]
        return STANDARD_DOMAIN if domain == STANDARD_SYNONYM else domain, self.op_type

    def inner_graphs(self) -> Iterator["Graph"]:
        """Returns the graphs among the attributes, without those inside them."""
        return chain.from_iterable(self.subgraphs.values())

    def names_read(self) -> Iterator[str]:
        """Yields the names of the tensors that the node and its subgraphs use, some of which they compute themselves.

        Tensors of enclosing graphs that subgraphs use are not among a node's inputs.
        """
        yield from self.inputs
        for graph in self.inner_graphs():
            yield from graph.names_read()


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Nodes in an order in which they can run, and their initial tensors.

    Attributes:
        nodes: Nodes, each after those whose outputs it uses.
        inputs: Types of the inputs by name, in order. From IR version 4 on, callers can also set those that are
            initialisers.
        outputs: Names of the outputs, in order.
        initializers: Initialisers by name.
        types: Types of the nodes' outputs, as far as ONNX's shape inference finds them. The file's own statements about
            them are ignored, because nothing verifies them.
    """

    nodes: tuple[Node, ...]
    inputs: Mapping[str, TensorType]
    outputs: tuple[str, ...]
    initializers: Mapping[str, GraphTensor]
    types: Mapping[str, TensorType] = field(default_factory=dict)

    def names_read(self) -> Iterator[str]:
        """Yields the names of the tensors that the nodes and the outputs of this graph and its subgraphs use."""
        yield from self.outputs
        for node in self.nodes:
            yield from node.names_read()

    def all_nodes(self) -> Iterator[Node]:
        """Yields the nodes of this graph and of its subgraphs, each node before those of its subgraphs."""
        for node in self.nodes:
            yield node
            for graph in node.inner_graphs():
                yield from graph.all_nodes()


@dataclass(frozen=True, slots=True, eq=False)
class ModelGraph:
    """The graph of a model and the versions of its operators.

    Attributes:
        graph: Graph with the model's local functions inlined (`turnout.registry.onnx.functions`). Calls of functions
            that cannot be inlined remain nodes, of a domain of their own.
        opset: Operator set version by domain; `STANDARD_DOMAIN` for ONNX's standard operators.
    """

    graph: Graph
    opset: Mapping[str, int]
    ir_version: int

    @property
    def has_defaults(self) -> bool:
        """Whether an initialiser with the name of an input is a default, which callers may override."""
        return self.ir_version >= FIRST_IR_WITH_DEFAULTS
