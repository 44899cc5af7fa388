"""What reading ONNX's protobuf messages takes, whatever is looked for in them."""

from collections.abc import Iterable, Iterator

from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

from turnout.errors import InvalidModel

_ELEMENTS = {"float": "float32", "double": "float64"}


def inner_graphs(attribute: AttributeProto) -> Iterator[GraphProto]:
    """Yields the graphs that an attribute holds: bodies of If and Loop."""
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def all_nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Goes through nodes, and through those of the graphs inside them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in inner_graphs(attribute):
                yield from all_nodes(graph.node)


def element_name(number: int) -> str:
    """Returns an element type as `DataType` spells it, or as ONNX does if that has none; "" if it is not known."""
    if number == TensorProto.UNDEFINED or number not in TensorProto.DataType.values():
        return ""
    name = TensorProto.DataType.Name(number).lower()
    return _ELEMENTS.get(name, name)


def text_of(value: object, what: str) -> str:
    """Returns `value`, a string of a protobuf message.

    Raises:
        InvalidModel: It is not UTF-8; `what` says which string it is.
    """
    # Protobuf hands out bytes for a proto2 string that is not UTF-8.
    if not isinstance(value, str):
        raise InvalidModel(f"{what} is not UTF-8")
    return value
