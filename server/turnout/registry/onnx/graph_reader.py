"""Reads the graph of an ONNX file. The contents of large weights are skipped, so that a model of any size takes little
time and memory: the file is mapped, and only the pages with the graph's structure are accessed.

ONNX's own code inlines functions and infers types, and some graphs crash it or keep it busy for ever, with Python's
lock held: an `EyeLike` of a tensor whose type it does not know is one. Processes that serve have that done in another
(`turnout.serving.sandbox.sandbox.ProcessSandbox.graph`), and read the result.
"""

import contextlib
import math
import mmap
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    TypeProto,
    ValueInfoProto,
    numpy_helper,
    shape_inference,
)

from turnout.errors import InvalidModel
from turnout.registry.onnx.functions import MOST_NODES, inlined, without_functions
from turnout.registry.onnx.graph import (
    FIRST_IR_WITH_DEFAULTS,
    Attribute,
    Graph,
    GraphTensor,
    ModelGraph,
    Node,
    TensorType,
    UnreadAttribute,
)
from turnout.registry.onnx.messages import (
    EMPTY,
    NO_MODEL,
    all_nodes,
    dimension_of,
    domain_of,
    element_name,
    inner_graphs,
)
from turnout.registry.onnx.structure import without_weights

KEPT_ELEMENTS = 1024
"""Maximum number of elements of a tensor whose values are kept: shapes, axes, pads, scales, small tables."""

LONGEST_VECTOR = 1 << 16
"""Maximum length of a vector whose values are propagated through a graph. This serves shapes, which are short."""


def read_graph(path: Path) -> ModelGraph:
    """Reads the graph of the ONNX file at `path`.

    Raises:
        InvalidModel: The file is not an ONNX model.
        OSError: The file cannot be read.
    """
    return describe(read_structure(path))


def read_structure(path: Path) -> ModelProto:
    """Reads the ONNX file at `path` without the contents of large weights.

    Raises:
        InvalidModel: The file is not an ONNX model.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        if not file.seek(0, 2):
            raise InvalidModel(EMPTY)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            structure = without_weights(data)
    return parse_model(structure)


def parse_model(data: bytes) -> ModelProto:
    """Parses an ONNX model.

    Raises:
        InvalidModel: The bytes are not an ONNX model.
    """
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise InvalidModel(NO_MODEL) from error
    return model


def describe(model: ModelProto) -> ModelGraph:
    """Returns a description of the graph of `model`, which is not modified."""
    copy = ModelProto()
    copy.CopyFrom(model)
    return describe_prepared(prepare(copy))


def describe_prepared(model: ModelProto) -> ModelGraph:
    """Returns a description of the graph of a model that `prepare` returned."""
    opset = {domain_of(entry.domain): entry.version for entry in model.opset_import}
    return ModelGraph(_graph(model.graph), opset, model.ir_version)


def prepare(model: ModelProto, *, by_onnx: bool = True) -> ModelProto:
    """Returns `model`, which may be modified, with its functions inlined and its types inferred instead of claimed.

    Without `by_onnx`, none of ONNX's own code is run: functions remain calls, and no types are known.
    """
    model = inlined(model) if by_onnx else without_functions(model)  # first: functions make claims too
    _forget_claims(model.graph)
    _sort_nodes(model.graph)
    _name_dimensions(model.graph)
    return _inferred(model) if by_onnx else model


def _forget_claims(graph: GraphProto) -> None:
    """Removes the file's statements about computed tensors: if they are wrong, ONNX Runtime only warns."""
    del graph.value_info[:]
    for value in graph.output:
        _forget_sizes(value.type)
    for node in graph.node:
        for attribute in node.attribute:
            for inner in inner_graphs(attribute):
                for value in inner.input:
                    _forget_sizes(value.type)
                _forget_claims(inner)


def _forget_sizes(kind: TypeProto) -> None:
    match kind.WhichOneof("value"):
        case "tensor_type" | "sparse_tensor_type" as tensor:
            getattr(kind, tensor).ClearField("shape")
        case "sequence_type" | "optional_type" as container:
            _forget_sizes(getattr(kind, container).elem_type)
        case "map_type":
            _forget_sizes(kind.map_type.value_type)


def _sort_nodes(graph: GraphProto) -> None:
    """Moves each node after those whose outputs it uses. Files must be in such an order, but ONNX Runtime runs others
    too.
    """
    makers: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in filter(None, node.output):
            makers.setdefault(name, index)
    before: dict[int, set[int]] = {}
    for index, node in enumerate(graph.node):
        for attribute in node.attribute:
            for inner in inner_graphs(attribute):
                _sort_nodes(inner)
        before[index] = {makers[name] for name in _names_read(node) if name in makers}
    if all(index > max(needed, default=-1) for index, needed in before.items()):
        return
    with contextlib.suppress(CycleError):  # no run is possible
        nodes = [graph.node[index] for index in TopologicalSorter(before).static_order()]
        del graph.node[:]
        graph.node.extend(nodes)


def _names_read(node: NodeProto) -> set[str]:
    """Returns the names that a node and the graphs inside it use, without those that these graphs define."""
    names = set(node.input)
    for attribute in node.attribute:
        for inner in inner_graphs(attribute):
            used = set[str]().union(*map(_names_read, inner.node), (value.name for value in inner.output))
            made = {name for one in inner.node for name in one.output}
            names |= used - made - {v.name for v in inner.input} - {v.name for v in inner.initializer}
    return names


def _name_dimensions(graph: GraphProto) -> None:
    """Gives each free dimension of an input that has no name one of its own, so that it is found again further on."""
    for value in graph.input:
        for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
            if not (dimension.HasField("dim_value") or dimension.dim_param):
                dimension.dim_param = f"dimension {axis} of {value.name!r}"


def _inferred(model: ModelProto) -> ModelProto:
    # Values that a caller may set are unknown, even if they have defaults.
    settable = {value.name for value in model.graph.input} if model.ir_version >= FIRST_IR_WITH_DEFAULTS else set()
    defaults = [tensor for tensor in model.graph.initializer if tensor.name in settable]
    fixed = [tensor for tensor in model.graph.initializer if tensor.name not in settable]
    del model.graph.initializer[:]
    model.graph.initializer.extend(fixed)
    inferred = _with_types(model)
    inferred.graph.initializer.extend(defaults)
    return inferred


def _with_types(model: ModelProto) -> ModelProto:
    del model.functions[:]  # those that could not be inlined: inference would follow each call without end
    if any(True for _ in islice(all_nodes(model.graph.node), MOST_NODES, None)):
        return model
    try:
        plain = shape_inference.infer_shapes(model)
        # ONNX propagates the values of every vector, whose length can be stated in a few bytes: an `Add` to 2**24
        # elements of `ConstantOfShape` took 14 s and 2.4 GB.
        return plain if _has_long_vector(plain.graph) else shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # noqa: BLE001 - it raises its own errors, ValueError and RuntimeError; types are optional
        return model


def _has_long_vector(graph: GraphProto) -> bool:
    shapes = [
        [size.dim_value for size in value.type.tensor_type.shape.dim] for value in [*graph.value_info, *graph.input]
    ]
    shapes += [list(tensor.dims) for tensor in graph.initializer]
    inner = (one for node in graph.node for attribute in node.attribute for one in inner_graphs(attribute))
    return any(len(s) == 1 and s[0] > LONGEST_VECTOR for s in shapes) or any(map(_has_long_vector, inner))


def _graph(graph: GraphProto) -> Graph:
    types = {value.name: _type(value) for value in [*graph.value_info, *graph.output]}
    return Graph(
        tuple(map(_node, graph.node)),
        {value.name: _type(value) for value in graph.input},
        tuple(value.name for value in graph.output),
        {tensor.name: _tensor(tensor) for tensor in graph.initializer}
        | {
            sparse.values.name: GraphTensor(element_name(sparse.values.data_type), tuple(sparse.dims))
            for sparse in graph.sparse_initializer
        },
        {name: found for name, found in types.items() if found != TensorType()},
    )


def _node(node: NodeProto) -> Node:
    attributes: dict[str, Attribute] = {}
    subgraphs: dict[str, tuple[Graph, ...]] = {}
    counts = Counter(attribute.name for attribute in node.attribute)
    for attribute in node.attribute:
        if counts[attribute.name] > 1:
            attributes[attribute.name] = UnreadAttribute("stated twice")
        elif attribute.type == AttributeProto.GRAPH:
            subgraphs[attribute.name] = (_graph(attribute.g),)
        elif attribute.type == AttributeProto.GRAPHS:
            subgraphs[attribute.name] = tuple(map(_graph, attribute.graphs))
        else:
            attributes[attribute.name] = _attribute(attribute)
    return Node(
        node.op_type, domain_of(node.domain), node.name, tuple(node.input), tuple(node.output), attributes, subgraphs
    )


def _attribute(attribute: AttributeProto) -> Attribute:
    if attribute.ref_attr_name:
        return UnreadAttribute("reference")
    match attribute.type:
        case AttributeProto.INT:
            return int(attribute.i)
        case AttributeProto.FLOAT:
            return float(attribute.f)
        case AttributeProto.STRING:
            return _text(attribute.s)
        case AttributeProto.INTS:
            return tuple(attribute.ints)
        case AttributeProto.FLOATS:
            return tuple(attribute.floats)
        case AttributeProto.STRINGS:
            return tuple(map(_text, attribute.strings))
        case AttributeProto.TENSOR:
            return _tensor(attribute.t)
        case kind:
            known = kind in AttributeProto.AttributeType.values()
            return UnreadAttribute(AttributeProto.AttributeType.Name(kind).lower() if known else str(kind))


def _tensor(tensor: TensorProto) -> GraphTensor:
    shape = tuple(tensor.dims)
    return GraphTensor(element_name(tensor.data_type), shape, _values(tensor, shape))


def _values(tensor: TensorProto, shape: tuple[int, ...]) -> NDArray[Any] | None:
    if tensor.data_location == TensorProto.EXTERNAL or any(size < 0 for size in shape):
        return None
    if math.prod(shape) > KEPT_ELEMENTS:
        return None
    try:
        values: NDArray[Any] = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, NotImplementedError):
        return None  # NumPy has no such type, or there are fewer bytes than the shape needs
    values = values if values.flags.owndata else values.copy()
    values.flags.writeable = False
    return values


def _type(value: ValueInfoProto) -> TensorType:
    if not value.type.HasField("tensor_type"):
        return TensorType()
    tensor = value.type.tensor_type
    shape = tuple(map(dimension_of, tensor.shape.dim)) if tensor.HasField("shape") else None
    return TensorType(element_name(tensor.elem_type), shape)


def _text(value: bytes) -> str:
    return value.decode("utf-8", errors="replace")
