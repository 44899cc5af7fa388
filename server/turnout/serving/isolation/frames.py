"""Messages between a server and the child process of a version.

    server   request: what to run, on which tensors ---------------->  child
             <------------ answer: the outputs' tensors, or the error

A frame (`turnout.serving.sandbox.messages`) contains names, dtypes and shapes. The elements of the tensors are in an
`Arena`, each tensor at the next multiple of 64 bytes. Strings are stored as their lengths (uint32), then their UTF-8.
Nothing that is read is executed, and every number is checked, since the other side may be broken.
"""

import json
import math
import mmap
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from turnout.errors import MemoryBudgetExceeded, ModelCrashed, ModelTimedOut, TurnoutError
from turnout.registry.manifest.signature import DataType
from turnout.serving.isolation.arena import Arena, ArenaBroken, ArenaFull
from turnout.serving.sandbox.messages import FrameError, failure_body, read_failure
from turnout.serving.sessions.tensor import NUMPY_DTYPES, Array

MAX_ARENA = 1 << 31
"""Maximum size in bytes of the tensors of one request or answer: the most that protobuf can carry to a client."""

_HEADER = struct.Struct("<BHH")
_TENSOR = struct.Struct("<BBHQ")
_NAME = struct.Struct("<H")
_LOADED, _RUN, _DONE, _FAILED = range(4)

_ALIGNMENT = 64
"""Alignment in bytes that suits vectorized kernels."""

_MAX_RANK = 64  # NumPy's limit

_CODES: Mapping[Any, int] = {dtype: code for code, dtype in enumerate(NUMPY_DTYPES.values())}
_DTYPES: Sequence[np.dtype[Any]] = tuple(NUMPY_DTYPES.values())
_STRING = list(NUMPY_DTYPES).index(DataType.STRING)


def pack_request(arena: Arena, inputs: Mapping[str, Array], outputs: Sequence[str]) -> bytes:
    """Writes a request's tensors to the arena and returns its frame.

    Raises:
        MemoryBudgetExceeded: The inputs do not fit into the arena.
    """
    return (
        _HEADER.pack(_RUN, len(inputs), len(outputs))
        + _pack_tensors(arena, inputs.items())
        + b"".join(_NAME.pack(len(name)) + name for name in (output.encode() for output in outputs))
    )


def unpack_request(arena: Arena, frame: bytes) -> tuple[dict[str, Array], list[str]]:
    """Returns the inputs by name, as read-only views of the arena, and the names of the requested outputs.

    Raises:
        FrameError: The frame is not a valid request.
    """
    reader = _Reader(frame)
    kind, count, wanted = reader.take(_HEADER)
    if kind != _RUN:
        raise FrameError("expected a request")
    inputs = dict(_unpack_tensors(arena, reader, count, copy=False))
    return inputs, [reader.text(reader.take(_NAME)[0]) for _ in range(wanted)]


def pack_answer(arena: Arena, outputs: Iterable[tuple[str, Array]]) -> bytes:
    """Writes the tensors of `outputs` to the arena and returns the frame of the answer.

    Raises:
        MemoryBudgetExceeded: The outputs do not fit into the arena.
    """
    named = list(outputs)
    return _HEADER.pack(_DONE, len(named), 0) + _pack_tensors(arena, named)


def pack_failure(error: TurnoutError) -> bytes:
    """Returns the frame that reports an error."""
    return _HEADER.pack(_FAILED, 0, 0) + json.dumps(failure_body(error)).encode()


def pack_loaded(providers: Sequence[str], device: str) -> bytes:
    """Returns the frame that reports a loaded session, with its execution providers and device."""
    return _HEADER.pack(_LOADED, 0, 0) + json.dumps([*providers, device]).encode()


def unpack_loaded(frame: bytes) -> tuple[tuple[str, ...], str]:
    """Returns the execution providers and the device of a loaded session.

    Raises:
        TurnoutError: Loading failed with this error.
        FrameError: The frame is not valid.
    """
    what = "what the session runs on"
    reader, _ = _opened(frame, _LOADED, what)
    try:
        *providers, device = map(str, json.loads(reader.rest()))
    except (ValueError, TypeError) as error:
        raise FrameError(f"expected {what}") from error
    return tuple(providers), device


def unpack_answer(arena: Arena, frame: bytes) -> list[Array]:
    """Returns copies of the outputs, in the order requested.

    Raises:
        TurnoutError: The run failed with this error.
        FrameError: The frame is not a valid answer.
    """
    reader, count = _opened(frame, _DONE, "an answer")
    return [array for _, array in _unpack_tensors(arena, reader, count, copy=True)]


def _opened(frame: bytes, expected: int, what: str) -> tuple["_Reader", int]:
    """Returns what follows a child's header, and the number of tensors. Raises the error that the frame reports."""
    reader = _Reader(frame)
    kind, count, _ = reader.take(_HEADER)
    if kind == _FAILED:
        try:
            body = json.loads(reader.rest())
        except ValueError as broken:
            raise FrameError("expected an error") from broken
        raise read_failure(body, refused=(ModelCrashed, ModelTimedOut))  # of which only this side decides
    if kind != expected:
        raise FrameError(f"expected {what}")
    return reader, count


def _pack_tensors(arena: Arena, tensors: Iterable[tuple[str, Array]]) -> bytes:
    parts: list[bytes] = []
    placed: list[tuple[int, Array]] = []
    end = 0
    for name, array in tensors:
        code = _CODES[array.dtype]
        elements = _packed_strings(array) if code == _STRING else array
        encoded, shape = name.encode(), array.shape
        parts.append(_TENSOR.pack(code, len(shape), len(encoded), elements.nbytes))
        parts.append(struct.pack(f"<{len(shape)}q", *shape))
        parts.append(encoded)
        start = -(-end // _ALIGNMENT) * _ALIGNMENT
        end = start + elements.nbytes
        placed.append((start, elements))
    if end:
        try:
            memory = arena.room(end)
        except ArenaFull as error:
            raise MemoryBudgetExceeded(f"its tensors do not fit the memory that it may share: {error}") from None
        for start, elements in placed:
            np.copyto(np.ndarray(elements.shape, elements.dtype, memory, start), elements)
    return b"".join(parts)


def _packed_strings(array: Array) -> Array:
    texts = [text.encode() for text in array.ravel().tolist()]
    lengths = np.fromiter(map(len, texts), np.uint32, len(texts))
    return np.frombuffer(lengths.tobytes() + b"".join(texts), np.uint8)


def _unpack_tensors(arena: Arena, reader: "_Reader", count: int, *, copy: bool) -> Iterable[tuple[str, Array]]:
    end = 0
    for _ in range(count):
        code, rank, name_bytes, nbytes = reader.take(_TENSOR)
        if code >= len(_DTYPES) or rank > _MAX_RANK:
            raise FrameError("expected a tensor")
        shape: tuple[int, ...] = reader.take(struct.Struct(f"<{rank}q"))
        name = reader.text(name_bytes)
        elements = math.prod(shape)
        if any(size < 0 for size in shape) or (code != _STRING and nbytes != elements * _DTYPES[code].itemsize):
            raise FrameError("expected a tensor whose size is that of its shape")
        start = -(-end // _ALIGNMENT) * _ALIGNMENT
        end = start + nbytes
        if nbytes == 0:
            yield name, _empty(shape, _DTYPES[code])
            continue
        try:
            memory = arena.written(end)
        except ArenaBroken as error:
            raise FrameError(f"expected a tensor's elements: {error}") from error
        if code == _STRING:
            yield name, _unpacked_strings(memory, start, nbytes, shape, elements)
        else:
            view: Array = np.ndarray(shape, _DTYPES[code], memory, start)
            yield name, view.copy() if copy else view


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    if math.prod(shape):
        raise FrameError("expected a tensor's elements")
    try:
        return np.empty(shape, dtype)
    except ValueError as error:  # one dimension is 0, and the product of the others overflows
        raise FrameError("expected a shape that memory can hold") from error


def _unpacked_strings(memory: mmap.mmap, start: int, nbytes: int, shape: tuple[int, ...], count: int) -> Array:
    data = memory[start : start + nbytes]
    if nbytes < 4 * count:
        raise FrameError("expected the lengths of strings")
    ends = np.cumsum(np.frombuffer(data, np.uint32, count), dtype=np.int64) + 4 * count
    if count and ends[-1] != nbytes:
        raise FrameError("expected strings of these lengths")
    array: Array = np.empty(count, object)
    begin = 4 * count
    try:
        for index, end in enumerate(ends.tolist()):
            array[index] = data[begin:end].decode()
            begin = end
    except UnicodeDecodeError as error:
        raise FrameError("expected strings of UTF-8") from error
    return array.reshape(shape)


class _Reader:
    """Reads a frame from its beginning."""

    def __init__(self, frame: bytes) -> None:
        self._frame = frame
        self._at = 0

    def take(self, form: struct.Struct) -> tuple[Any, ...]:
        try:
            values = form.unpack_from(self._frame, self._at)
        except struct.error as error:
            raise FrameError("the frame ends too soon") from error
        self._at += form.size
        return values

    def text(self, size: int) -> str:
        part = self._frame[self._at : self._at + size]
        if len(part) < size:
            raise FrameError("the frame ends too soon")
        self._at += size
        try:
            return part.decode()
        except UnicodeDecodeError as error:
            raise FrameError("expected a name of UTF-8") from error

    def rest(self) -> bytes:
        return self._frame[self._at :]
