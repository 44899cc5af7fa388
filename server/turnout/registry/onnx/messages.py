"""Helpers for reading ONNX's protobuf messages."""

from collections.abc import Iterable, Iterator

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TensorShapeProto

from turnout.errors import InvalidModel
from turnout.registry.manifest.signature import Dimension
from turnout.registry.onnx.graph import STANDARD_DOMAIN, STANDARD_SYNONYM

NO_MODEL = "the file is not an ONNX model: it does not parse as protobuf"
EMPTY = "the file is empty, not an ONNX model"

_ELEMENTS = {"float": "float32", "double": "float64"}


def inner_graphs(attribute: AttributeProto) -> Iterator[GraphProto]:
    """Yields the graphs in an attribute, such as the bodies of If and Loop."""
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def all_nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Yields nodes, and those of the graphs inside them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in inner_graphs(attribute):
                yield from all_nodes(graph.node)


def model_nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Yields the nodes of a model, those of its functions and of the graphs inside nodes included."""
    yield from all_nodes(model.graph.node)
    for function in model.functions:
        yield from all_nodes(function.node)


def model_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yields the tensors of a model, including those in bodies of If and Loop, attributes and functions."""
    yield from graph_tensors(model.graph)
    for function in model.functions:
        yield from _attribute_tensors(function.attribute_proto)
        for node in function.node:
            yield from _attribute_tensors(node.attribute)


def graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Yields the tensors of a graph and of the graphs inside it."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _attribute_tensors(node.attribute)


def _attribute_tensors(attributes: Iterable[AttributeProto]) -> Iterator[TensorProto]:
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        sparse_tensors = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
        for sparse in [*sparse_tensors, *attribute.sparse_tensors]:
            yield from (sparse.values, sparse.indices)
        for graph in inner_graphs(attribute):
            yield from graph_tensors(graph)


def element_name(number: int) -> str:
    """Returns the name of an element type as in `DataType`, or as in ONNX if it has none there; "" if unknown."""
    if number == TensorProto.UNDEFINED or number not in TensorProto.DataType.values():
        return ""
    name = TensorProto.DataType.Name(number).lower()
    return _ELEMENTS.get(name, name)


def dimension_of(dimension: TensorShapeProto.Dimension) -> Dimension:
    """Returns the size or the name of a dimension; None if it has neither."""
    match dimension.WhichOneof("value"):
        case "dim_value":
            # Some exporters write -1 for an unknown size, and ONNX Runtime accepts it as such.
            return int(dimension.dim_value) if dimension.dim_value >= 0 else None
        case "dim_param":
            return str(dimension.dim_param) or None
        case _:
            return None


def text_of(value: object, what: str) -> str:
    """Returns `value`, a string of a protobuf message.

    Raises:
        InvalidModel: The value is not UTF-8. `what` describes it in the message.
    """
    # Protobuf returns bytes for a proto2 string that is not UTF-8.
    if not isinstance(value, str):
        raise InvalidModel(f"{what} is not UTF-8")
    return value


def domain_of(domain: str) -> str:
    """Returns the domain of an operator or operator set. The standard one has two spellings in files."""
    return STANDARD_DOMAIN if domain == STANDARD_SYNONYM else domain
