"""Element types of the Open Inference Protocol, with their names and the fields that contain their typed contents."""

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
    """An element type.

    Attributes:
        name: Name in the protocol, for example `FP32`.
        dtype: Dtype of arrays with such elements; `object` for BYTES, whose elements are `str`.
        size: Size of an element on the wire in bytes; 0 for BYTES, whose elements vary in size.
        contents: Field of InferTensorContents that contains such elements; "" if they are only sent raw.
        contents_dtype: Dtype of the elements in that field, which may be wider; `dtype` if there is no such field.
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

# Plain dictionaries: the type of every tensor is looked up in one of them, and MappingProxyType takes twice as long.
BY_NAME = {kind.name: kind for kind in ELEMENT_TYPES.values()}
"""Element types by their name in the protocol."""

NUMERIC_NAMES = {kind.dtype: kind.name for kind in ELEMENT_TYPES.values() if kind.size}
"""Names in the protocol of the numeric types, whose array bytes are sent unchanged, by dtype."""
