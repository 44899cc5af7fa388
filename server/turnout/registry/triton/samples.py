"""Converts the warm-up requests of a Triton model (`model_warmup`) to golden cases."""

import math
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turnout.errors import InvalidModel
from turnout.registry.manifest.manifest import is_plain_path
from turnout.registry.storage.files import explain, open_inside
from turnout.registry.triton.mapping import FieldOutcome, MappedField
from turnout.registry.triton.tree import WARM_UP_DIRECTORY, TritonModel
from turnout_proto.triton import model_config_pb2 as pb

MAX_SAMPLE_BYTES = 64 << 20
"""Maximum memory for the inputs of one sample, in bytes."""
MAX_SAMPLES = 16

_MAX_NAME = 1024
"""Maximum length of an input's name in characters. An archive's names have at most 65,535 bytes."""

_TYPES: Mapping[int, Any] = {
    pb.TYPE_BOOL: np.bool_,
    pb.TYPE_UINT8: np.uint8,
    pb.TYPE_UINT16: np.uint16,
    pb.TYPE_UINT32: np.uint32,
    pb.TYPE_UINT64: np.uint64,
    pb.TYPE_INT8: np.int8,
    pb.TYPE_INT16: np.int16,
    pb.TYPE_INT32: np.int32,
    pb.TYPE_INT64: np.int64,
    pb.TYPE_FP16: np.float16,
    pb.TYPE_FP32: np.float32,
    pb.TYPE_FP64: np.float64,
}


def write_samples(model: TritonModel, directory: Path) -> tuple[tuple[Path, ...], Sequence[MappedField]]:
    """Writes a golden case without expected outputs for each sample of `model_warmup`.

    Returns:
        The files, and the result for each sample. Samples that cannot be read are left out, with the reason.
    """
    files: list[Path] = []
    rows: list[MappedField] = []
    for number, sample in enumerate(model.warm_up):
        path = f"model_warmup.{sample.name or number}"
        if number >= MAX_SAMPLES:
            rows.append(MappedField(path, FieldOutcome.LEFT_OUT, f"at most {MAX_SAMPLES} samples are taken"))
            break
        file = directory / f"warmup-{number}.npz"
        try:
            arrays = dict(_inputs(model, sample))
        except InvalidModel as error:
            rows.append(MappedField(path, FieldOutcome.LEFT_OUT, error.message))
            continue
        named: dict[str, Any] = {f"inputs/{name}": array for name, array in arrays.items()}
        np.savez(file, **named)
        files.append(file)
        rows.append(
            MappedField(path, FieldOutcome.TAKEN, f"golden case {file.name}, which versions are warmed up with")
        )
    return tuple(files), rows


def _inputs(model: TritonModel, sample: pb.ModelWarmup) -> Iterator[tuple[str, NDArray[Any]]]:
    left = MAX_SAMPLE_BYTES
    if not sample.inputs:
        raise InvalidModel("has no inputs")
    for name in sorted(sample.inputs):
        if len(name) > _MAX_NAME:
            raise InvalidModel(f"an input has a name of {len(name)} characters")
        spec = sample.inputs[name]
        lead = (max(sample.batch_size, 1),) if model.rows_per_request > 0 else ()
        shape = (*lead, *spec.dims)
        if any(size < 0 for size in shape):
            raise InvalidModel(f"{name} has a dimension of {min(shape)}")
        text = spec.data_type == pb.TYPE_STRING
        if not text and spec.data_type not in _TYPES:
            raise InvalidModel(f"{name} has no data_type, or one that a golden case cannot contain")
        count = math.prod(shape)
        left -= count * (8 if text else np.dtype(_TYPES[spec.data_type]).itemsize)
        if left < 0 or len(shape) > 32:
            raise InvalidModel(f"it takes more than {MAX_SAMPLE_BYTES} bytes")
        try:
            yield name, _array(model, name, spec, count).reshape(shape)
        except ValueError as error:  # with a dimension of 0, the others may be larger than NumPy supports
            raise InvalidModel(f"{name} has a shape that no array has") from error


def _array(model: TritonModel, name: str, spec: pb.ModelWarmup.Input, count: int) -> NDArray[Any]:
    kind = spec.WhichOneof("input_data_type")
    text = spec.data_type == pb.TYPE_STRING
    if kind == "input_data_file":
        data = _read(model, spec.input_data_file)
        if text:
            return _texts(name, data, count)
        dtype = np.dtype(_TYPES[spec.data_type])
        if len(data) != count * dtype.itemsize:
            raise InvalidModel(f"the file of {name} has {len(data)} bytes, expected {count * dtype.itemsize}")
        return np.frombuffer(data, dtype)
    if text:
        return np.full(count, "", dtype="U1")
    dtype = np.dtype(_TYPES[spec.data_type])
    if kind == "random_data" and dtype.kind == "f":
        # The same values each time, so that a repeated import results in the same version.
        return np.random.default_rng(zlib.crc32(name.encode())).random(count, np.float32).astype(dtype)
    return np.zeros(count, dtype)


def _read(model: TritonModel, file: str) -> bytes:
    if not is_plain_path(file):
        raise InvalidModel(f"input_data_file {file[:64]!r} is not a plain relative path")
    try:
        with open_inside(model.directory / WARM_UP_DIRECTORY, file) as opened:
            return opened.read(MAX_SAMPLE_BYTES + 1)
    except OSError as error:
        raise InvalidModel(f"{WARM_UP_DIRECTORY}/{file} {explain(error)}") from error


def _texts(name: str, data: bytes, count: int) -> NDArray[Any]:
    """Parses elements in Triton's format: the length in 4 bytes, little-endian, then the bytes."""
    texts: list[str] = []
    at = 0
    try:
        while at < len(data) and len(texts) <= count:
            (length,) = struct.unpack_from("<I", data, at)
            at += 4
            texts.append(data[at : at + length].decode())
            at += length
    except (struct.error, UnicodeDecodeError):
        at = -1
    if at != len(data) or len(texts) != count:
        raise InvalidModel(f"the file of {name} does not hold {count} elements of UTF-8, each after its length")
    # NumPy gives each element the room of the longest.
    if count * 4 * max(map(len, texts), default=0) > MAX_SAMPLE_BYTES:
        raise InvalidModel(f"the elements of {name} take more than {MAX_SAMPLE_BYTES} bytes")
    return np.array(texts, dtype=np.str_)
