"""Reads the description of an ONNX file: its signature, its operator sets, and the files with its weights.

Weights outside the file are neither read nor checked to exist.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, ValueInfoProto

from turnout.errors import InvalidModel
from turnout.registry.manifest.json_form import JsonForm
from turnout.registry.manifest.signature import DataType, Dimension, Signature, TensorSpec
from turnout.registry.onnx.external_data import ExternalFile, external_files
from turnout.registry.onnx.graph import FIRST_IR_WITH_DEFAULTS
from turnout.registry.onnx.messages import EMPTY, NO_MODEL, dimension_of, domain_of, element_name, text_of
from turnout.registry.onnx.zipmap import WITHOUT, map_outputs

MAX_PROTOBUF = (1 << 31) - 1
"""Maximum size in bytes of a protobuf message, and so of an ONNX file without its external data."""

# Manifests are JSON, whose integers are exact up to this value.
_MAX_DIMENSION = 2**53 - 1

_MAX_RANK = 64
"""Maximum number of dimensions of an array in NumPy 2."""


@dataclass(frozen=True, slots=True)
class ModelFacts(JsonForm):
    """The description of an ONNX file.

    Attributes:
        signature: Inputs and outputs of the graph. Inputs that are initialisers have defaults. Before IR version 4,
            callers cannot set such inputs, and they are left out.
        opset: Operator set version by domain; the default domain is "".
        external: Files with weights, sorted by path.
    """

    signature: Signature
    opset: Mapping[str, int]
    ir_version: int
    external: tuple[ExternalFile, ...] = ()


ReadModel = Callable[[Path], ModelFacts]
"""Reads an ONNX file like `read_model`, perhaps in another process: reading a malicious file may take a hundred times
its size in memory."""


def read_model(path: Path) -> ModelFacts:
    """Reads the ONNX file at `path`.

    Raises:
        InvalidModel: The file is not an ONNX model, has inputs or outputs that Turnout does not support, or refers to
            files outside its directory.
        OSError: The file cannot be read.
    """
    check_size(path.stat().st_size)
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except DecodeError as error:
        raise InvalidModel(NO_MODEL) from error
    return _facts(model)


def check_size(size: int) -> None:
    """Raises InvalidModel if an ONNX file is empty, or larger than a protobuf message may be."""
    if not size:
        raise InvalidModel(EMPTY)
    if size > MAX_PROTOBUF:
        raise InvalidModel("the ONNX file is larger than 2 GiB, the limit of protobuf; save it with external data")


def _facts(model: ModelProto) -> ModelFacts:
    graph = model.graph
    initialised = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    overridable = model.ir_version >= FIRST_IR_WITH_DEFAULTS
    inputs = [
        _tensor_spec("input", value, has_default=value.name in initialised)
        for value in graph.input
        if overridable or value.name not in initialised
    ]
    if maps := map_outputs(model):
        name = min(maps)
        raise InvalidModel(
            f"output {name!r} is a map for each row, made by ZipMap, and Turnout carries dense tensors only: publish it"
            f" with --drop-zipmap, or export it with {WITHOUT}"
        )
    outputs = [_tensor_spec("output", value, has_default=False) for value in graph.output]
    if not outputs:
        raise InvalidModel("the graph has no outputs")
    try:
        signature = Signature(tuple(inputs), tuple(outputs))
    except ValueError as error:
        raise InvalidModel(str(error)) from error
    return ModelFacts(signature, _opset(model), model.ir_version, external_files(model))


def _opset(model: ModelProto) -> dict[str, int]:
    opset: dict[str, int] = {}
    for entry in model.opset_import:
        domain = domain_of(text_of(entry.domain, "the domain of an operator set"))
        if opset.setdefault(domain, entry.version) != entry.version:
            raise InvalidModel(f"the model imports operator set {domain or 'ai.onnx'} in two versions")
        if not 0 < entry.version < 1 << 31:
            raise InvalidModel(f"the model imports operator set {domain or 'ai.onnx'} in version {entry.version}")
    if not opset:
        raise InvalidModel("the model imports no operator set")
    return dict(sorted(opset.items()))


def _tensor_spec(side: str, value: ValueInfoProto, *, has_default: bool) -> TensorSpec:
    name = text_of(value.name, f"the name of an {side}")
    if not name:
        raise InvalidModel(f"an {side} has no name")
    what = f"{side} {name!r}"
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        message = "no type" if kind is None else f"type {kind.removesuffix('_type').replace('_', ' ')}"
        raise InvalidModel(f"{what} has {message}; Turnout carries dense tensors only")
    tensor = value.type.tensor_type
    dtype = next((one for one in DataType if one == element_name(tensor.elem_type)), None)
    if dtype is None:
        raise InvalidModel(
            f"{what} has element type {_onnx_type(tensor.elem_type)}, expected one of {', '.join(sorted(DataType))}"
        )
    if not tensor.HasField("shape"):
        raise InvalidModel(
            f"{what} has no shape; give it one in the ONNX file, with symbolic dimensions if the sizes are not known"
        )
    if len(tensor.shape.dim) > _MAX_RANK:
        raise InvalidModel(f"{what} has {len(tensor.shape.dim)} dimensions, at most {_MAX_RANK} are supported")
    return TensorSpec(name, dtype, tuple(_dimension(d, what) for d in tensor.shape.dim), has_default)


def _dimension(dimension: onnx.TensorShapeProto.Dimension, what: str) -> Dimension:
    if dimension.dim_value > _MAX_DIMENSION:
        raise InvalidModel(f"{what} has a dimension of {dimension.dim_value}")
    text_of(dimension.dim_param, f"a dimension of {what}")
    return dimension_of(dimension)


def _onnx_type(number: int) -> str:
    return TensorProto.DataType.Name(number) if number in TensorProto.DataType.values() else str(number)
