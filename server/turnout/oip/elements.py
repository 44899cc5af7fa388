"""Element types of the Open Inference Protocol: their names, and the fields that hold their typed contents."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from turnout.registry.manifest.signature import DataType
from turnout.serving.sessions.tensor import NUMPY_DTYPES
from turnout_proto.oip import model_config_pb2


@dataclass(frozen=True, slots=True)
class ElementType:
    """One element type.

    Attributes:
        name: In the protocol, for example `FP32`.
        dtype: Of the arrays that hold such elements; `object` for BYTES, whose elements are `str`.
        size: Bytes of an element on the wire; 0 for BYTES, whose elements have sizes of their own.
        contents: The field of InferTensorContents that holds such elements; "" if they are only sent raw.
        contents_dtype: Of the elements of that field, which may be wider; `dtype` if there is no such field.
        config: The type's number in a ModelConfig.
    """

    name: str
    dtype: np.dtype[Any]
    size: int
    contents: str
    contents_dtype: np.dtype[Any]
    config: model_config_pb2.DataType


_WIRE = {
    DataType.BOOL: ("BOOL", "bool_contents", np.bool_, model_config_pb2.DATA_TYPE_BOOL),
    DataType.UINT8: ("UINT8", "uint_contents", np.uint32, model_config_pb2.DATA_TYPE_UINT8),
    DataType.UINT16: ("UINT16", "uint_contents", np.uint32, model_config_pb2.DATA_TYPE_UINT16),
    DataType.UINT32: ("UINT32", "uint_contents", np.uint32, model_config_pb2.DATA_TYPE_UINT32),
    DataType.UINT64: ("UINT64", "uint64_contents", np.uint64, model_config_pb2.DATA_TYPE_UINT64),
    DataType.INT8: ("INT8", "int_contents", np.int32, model_config_pb2.DATA_TYPE_INT8),
    DataType.INT16: ("INT16", "int_contents", np.int32, model_config_pb2.DATA_TYPE_INT16),
    DataType.INT32: ("INT32", "int_contents", np.int32, model_config_pb2.DATA_TYPE_INT32),
    DataType.INT64: ("INT64", "int64_contents", np.int64, model_config_pb2.DATA_TYPE_INT64),
    DataType.FLOAT16: ("FP16", "", None, model_config_pb2.DATA_TYPE_FP16),
    DataType.BFLOAT16: ("BF16", "", None, model_config_pb2.DATA_TYPE_BF16),
    DataType.FLOAT32: ("FP32", "fp32_contents", np.float32, model_config_pb2.DATA_TYPE_FP32),
    DataType.FLOAT64: ("FP64", "fp64_contents", np.float64, model_config_pb2.DATA_TYPE_FP64),
    DataType.STRING: ("BYTES", "bytes_contents", np.object_, model_config_pb2.DATA_TYPE_STRING),
}


def _element_type(kind: DataType) -> ElementType:
    name, contents, contents_dtype, config = _WIRE[kind]
    dtype = NUMPY_DTYPES[kind]
    size = 0 if dtype.hasobject else dtype.itemsize
    return ElementType(name, dtype, size, contents, np.dtype(contents_dtype) if contents else dtype, config)


ELEMENT_TYPES: Mapping[DataType, ElementType] = MappingProxyType({kind: _element_type(kind) for kind in DataType})

# Plain dictionaries, since every tensor is looked up in one of them: a MappingProxyType would double that.
BY_NAME = {kind.name: kind for kind in ELEMENT_TYPES.values()}
"""By the protocol's name."""

NUMERIC_NAMES = {kind.dtype: kind.name for kind in ELEMENT_TYPES.values() if kind.size}
"""The protocol's names of the types whose arrays are sent as they are, by dtype."""
