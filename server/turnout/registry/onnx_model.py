"""An ONNX file read as a description: its signature, the operator sets it needs, the files its weights lie in.

Weights kept outside the file are neither read nor looked for.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from turnout.errors import InvalidModel
from turnout.registry.golden import GOLDEN_DIRECTORY
from turnout.registry.manifest import MANIFEST_FILE, MODEL_FILE, FileEntry
from turnout.registry.signature import DataType, Dimension, Signature, TensorSpec

MAX_PROTOBUF = (1 << 31) - 1
"""Bytes that a protobuf message, and so an ONNX file without its external data, may have."""
MAX_EXTERNAL_FILES = 4096

_DTYPES = {
    TensorProto.BOOL: DataType.BOOL,
    TensorProto.UINT8: DataType.UINT8,
    TensorProto.UINT16: DataType.UINT16,
    TensorProto.UINT32: DataType.UINT32,
    TensorProto.UINT64: DataType.UINT64,
    TensorProto.INT8: DataType.INT8,
    TensorProto.INT16: DataType.INT16,
    TensorProto.INT32: DataType.INT32,
    TensorProto.INT64: DataType.INT64,
    TensorProto.FLOAT16: DataType.FLOAT16,
    TensorProto.BFLOAT16: DataType.BFLOAT16,
    TensorProto.FLOAT: DataType.FLOAT32,
    TensorProto.DOUBLE: DataType.FLOAT64,
    TensorProto.STRING: DataType.STRING,
}
# Manifests are JSON, whose integers are exact up to here.
_MAX_DIMENSION = 2**53 - 1
_FIRST_IR_WITH_DEFAULTS = 4


@dataclass(frozen=True, slots=True)
class ExternalFile:
    """A file beside the ONNX file that holds weights.

    Attributes:
        path: Relative to the ONNX file's directory, in its plain form; never leaves it.
        min_size: Bytes the file must have at least for every tensor to lie within it.
    """

    path: str
    min_size: int


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What an ONNX file says of itself.

    Attributes:
        signature: Inputs and outputs of the graph. Inputs that are initialisers have defaults; before IR version 4 such
            inputs cannot be set by a caller, and are left out.
        opset: Operator set version by domain; the default domain is "".
        ir_version: Version of the ONNX format.
        external: Files that hold weights, by path.
    """

    signature: Signature
    opset: Mapping[str, int]
    ir_version: int
    external: tuple[ExternalFile, ...] = ()


def read_model(path: Path) -> ModelFacts:
    """Reads the ONNX file at `path`.

    Raises:
        InvalidModel: It is none, takes or gives what Turnout cannot carry, or refers to files outside its directory.
        OSError: It cannot be read.
    """
    if path.stat().st_size > MAX_PROTOBUF:
        raise InvalidModel("the ONNX file is larger than 2 GiB, which protobuf cannot hold; save it with external data")
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except DecodeError as error:
        raise InvalidModel("the file is no ONNX model: it does not parse as protobuf") from error
    return _facts(model)


def _facts(model: ModelProto) -> ModelFacts:
    graph = model.graph
    initialised = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    overridable = model.ir_version >= _FIRST_IR_WITH_DEFAULTS
    inputs = [
        _tensor_spec("input", value, has_default=value.name in initialised)
        for value in graph.input
        if overridable or value.name not in initialised
    ]
    outputs = [_tensor_spec("output", value, has_default=False) for value in graph.output]
    if not outputs:
        raise InvalidModel("the graph has no outputs")
    try:
        signature = Signature(tuple(inputs), tuple(outputs))
    except ValueError as error:
        raise InvalidModel(str(error)) from error
    return ModelFacts(signature, _opset(model), model.ir_version, _external_files(model))


def _opset(model: ModelProto) -> dict[str, int]:
    opset: dict[str, int] = {}
    for entry in model.opset_import:
        # Both spellings mean the default domain.
        domain = "" if entry.domain == "ai.onnx" else _text(entry.domain, "the domain of an operator set")
        if opset.setdefault(domain, entry.version) != entry.version:
            raise InvalidModel(f"the model imports operator set {domain or 'ai.onnx'} in two versions")
        if not 0 < entry.version < 1 << 31:
            raise InvalidModel(f"the model imports operator set {domain or 'ai.onnx'} in version {entry.version}")
    if not opset:
        raise InvalidModel("the model imports no operator set")
    return dict(sorted(opset.items()))


def _tensor_spec(side: str, value: ValueInfoProto, *, has_default: bool) -> TensorSpec:
    name = _text(value.name, f"the name of an {side}")
    if not name:
        raise InvalidModel(f"an {side} has no name")
    what = f"{side} {name!r}"
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        said = "no type" if kind is None else f"type {kind.removesuffix('_type').replace('_', ' ')}"
        raise InvalidModel(f"{what} has {said}; Turnout carries dense tensors only")
    tensor = value.type.tensor_type
    dtype = _DTYPES.get(tensor.elem_type)
    if dtype is None:
        raise InvalidModel(
            f"{what} has element type {_onnx_type(tensor.elem_type)}, expected one of {_names(DataType)}"
        )
    if not tensor.HasField("shape"):
        raise InvalidModel(
            f"{what} has no shape; give it one in the ONNX file, of symbolic dimensions where the sizes are not known"
        )
    return TensorSpec(name, dtype, tuple(_dimension(d, what) for d in tensor.shape.dim), has_default)


def _dimension(dimension: onnx.TensorShapeProto.Dimension, what: str) -> Dimension:
    match dimension.WhichOneof("value"):
        case "dim_value" if dimension.dim_value > _MAX_DIMENSION:
            raise InvalidModel(f"{what} has a dimension of {dimension.dim_value}")
        case "dim_value":
            # Some exporters write -1 for a size they do not know, and ONNX Runtime takes it so.
            return dimension.dim_value if dimension.dim_value >= 0 else None
        case "dim_param":
            return _text(dimension.dim_param, f"a dimension of {what}") or None
        case _:
            return None


def _external_files(model: ModelProto) -> tuple[ExternalFile, ...]:
    sizes: dict[str, int] = {}
    for tensor in _tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            file = _external_file(tensor)
            sizes[file.path] = max(file.min_size, sizes.get(file.path, 0))
    if len(sizes) > MAX_EXTERNAL_FILES:
        raise InvalidModel(f"the weights lie in {len(sizes)} files, at most {MAX_EXTERNAL_FILES} are taken")
    return tuple(ExternalFile(path, size) for path, size in sorted(sizes.items()))


def _external_file(tensor: TensorProto) -> ExternalFile:
    what = f"tensor {_text(tensor.name, 'the name of a tensor')!r}"
    said: dict[str, str] = {}
    for entry in tensor.external_data:
        key = _text(entry.key, f"a key of the external data of {what}")
        if key in said:
            # Which of the two counts depends on who reads it, so a check could pass on one and a load use the other.
            raise InvalidModel(f"{what} states the {key} of its external data twice")
        said[key] = _text(entry.value, f"the {key} of the external data of {what}")
    if not said.get("location"):
        raise InvalidModel(f"{what} does not say where its external data lies")
    offset, length = (_size(said.get(key, "0"), key, what) for key in ("offset", "length"))
    return ExternalFile(_inside(said["location"], what), offset + length)


def _inside(location: str, what: str) -> str:
    path = PurePosixPath(location)
    plain = str(path)
    if path.is_absolute() or ".." in path.parts or location.endswith("/"):
        raise InvalidModel(
            f"{what} keeps its data in {location[:256]!r}, expected a relative path that does not leave the model's"
            " directory"
        )
    try:
        FileEntry(plain, 0, f"sha256:{'0' * 64}")
    except ValueError as error:
        raise InvalidModel(f"{what} keeps its data in {location[:256]!r}, which is no plain relative path") from error
    if path.parts[0] in (MODEL_FILE, MANIFEST_FILE, GOLDEN_DIRECTORY):
        raise InvalidModel(f"{what} keeps its data in {location[:256]!r}, a name that the registry needs for itself")
    return plain


def _size(text: str, key: str, what: str) -> int:
    # int() alone would take "-1", " 7" and "1_000", which other readers of the file do not.
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise InvalidModel(f"{what} has {text[:32]!r} for the {key} of its external data, expected a number of bytes")
    return int(text)


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Goes through every tensor of a model, wherever it hides: bodies of If and Loop, attributes, functions."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _function_tensors(function)
    for training in model.training_info:
        yield from _graph_tensors(training.initialization)
        yield from _graph_tensors(training.algorithm)


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _function_tensors(function: FunctionProto) -> Iterator[TensorProto]:
    yield from _attribute_tensors(function.attribute_proto)
    yield from _node_tensors(function.node)


def _node_tensors(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        if node.op_type == "EPContext" and not any(a.name == "embed_mode" and a.i == 1 for a in node.attribute):
            raise InvalidModel(
                "an EPContext node keeps its compiled graph in a file of its own; embed it (embed_mode=1)"
            )
        yield from _attribute_tensors(node.attribute)


def _attribute_tensors(attributes: Iterable[AttributeProto]) -> Iterator[TensorProto]:
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        sparse_tensors = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
        for sparse in [*sparse_tensors, *attribute.sparse_tensors]:
            yield from (sparse.values, sparse.indices)
        if attribute.HasField("g"):
            yield from _graph_tensors(attribute.g)
        for graph in attribute.graphs:
            yield from _graph_tensors(graph)


def _text(value: object, what: str) -> str:
    # Protobuf hands out bytes for a proto2 string that is no UTF-8.
    if not isinstance(value, str):
        raise InvalidModel(f"{what} is not UTF-8")
    return value


def _onnx_type(number: int) -> str:
    return TensorProto.DataType.Name(number) if number in TensorProto.DataType.values() else str(number)


def _names(types: Iterable[DataType]) -> str:
    return ", ".join(sorted(types))
