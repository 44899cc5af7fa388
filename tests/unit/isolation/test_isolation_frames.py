"""Tensors in shared memory, and the frames that tell of them."""

import os
import struct
from collections.abc import Iterator

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.errors import FieldViolation, InvalidTensor, MemoryBudgetExceeded, ModelCrashed, ModelFailure, TurnoutError
from turnout.serving.isolation.arena import Arena, ArenaBroken, ArenaFull
from turnout.serving.isolation.frames import (
    pack_answer,
    pack_failure,
    pack_request,
    unpack_answer,
    unpack_loaded,
    unpack_request,
)
from turnout.serving.sandbox.messages import FrameError

LIMIT = 64 << 20


@pytest.fixture
def pair() -> Iterator[tuple[Arena, Arena]]:
    """Both sides of an arena: who writes, and who reads."""
    writer = Arena.create(LIMIT, writable=True)
    reader = Arena(writer.read_only(), LIMIT, writable=False)
    yield writer, reader
    writer.close()
    reader.close()


ARRAYS = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "turned": np.arange(6, dtype=np.float64).reshape(2, 3).T,
    "bfloat16": np.array([[1.5, -2.0]], ml_dtypes.bfloat16),
    "float16": np.array([1, 2], np.float16),
    "bool": np.array([True, False]),
    "int8": np.array([-128, 127], np.int8),
    "uint64": np.array([2**64 - 1], np.uint64),
    "scalar": np.array(2.5, np.float32),
    "empty": np.empty((0, 3), np.float32),
    "strings": np.array([["a", ""], ["é中", "\x00"]], object),
    "no strings": np.empty((0, 2), object),
    "string": np.array("alone", object),
    "many dimensions": np.zeros((1,) * 9, np.int16),
}


def test_every_tensor_comes_as_it_went(pair) -> None:
    writer, reader = pair
    inputs, names = unpack_request(reader, pack_request(writer, ARRAYS, ["y", "é"]))
    assert names == ["y", "é"]
    assert list(inputs) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert inputs[name].dtype == array.dtype, name
        assert inputs[name].shape == array.shape, name
        np.testing.assert_array_equal(inputs[name], array)


def test_the_reader_can_write_neither_the_views_nor_the_memory(pair) -> None:
    writer, reader = pair
    inputs, _ = unpack_request(reader, pack_request(writer, {"x": ARRAYS["float32"]}, []))
    assert not inputs["x"].flags.writeable
    with pytest.raises(OSError):
        os.write(reader.fd, b"x")


def test_an_answer_is_a_copy_that_outlives_the_next(pair) -> None:
    writer, reader = pair
    (first,) = unpack_answer(reader, pack_answer(writer, [("y", np.ones(4))]))
    (second,) = unpack_answer(reader, pack_answer(writer, [("y", np.zeros(4))]))
    assert first.tolist() == [1] * 4
    assert second.tolist() == [0] * 4
    assert first.flags.writeable


def test_the_memory_grows_and_the_reader_follows(pair) -> None:
    writer, reader = pair
    for size in (10, 3_000_000, 20):
        (got,) = unpack_answer(reader, pack_answer(writer, [("y", np.full(size, 7, np.int32))]))
        assert got.shape == (size,)
        assert (got == 7).all()


def test_more_than_may_be_shared_is_refused(pair) -> None:
    writer, _ = pair
    with pytest.raises(MemoryBudgetExceeded):
        pack_answer(writer, [("y", np.zeros(LIMIT + 1, np.uint8))])
    with pytest.raises(ArenaFull):
        writer.room(LIMIT + 1)


def test_memory_that_is_not_needed_any_more_is_given_back() -> None:
    writer = Arena.create(LIMIT, writable=True)
    memory = writer.room(48 << 20)
    memory[:] = b"x" * len(memory)
    held = os.fstat(writer.fd).st_blocks * 512
    for _ in range(300):
        writer.room(1000)
    assert os.fstat(writer.fd).st_blocks * 512 < held / 2
    writer.close()


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only a memfd can be sealed")
def test_the_other_side_cannot_cut_the_memory_short(pair) -> None:
    writer, _ = pair
    writer.room(100)
    with pytest.raises(PermissionError):
        os.ftruncate(writer.fd, 0)


def test_where_there_is_no_memfd_a_file_without_a_name_does(monkeypatch, tmp_path) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    writer = Arena.create(LIMIT, writable=True)
    reader = Arena(writer.read_only(), LIMIT, writable=False)
    assert not list(tmp_path.iterdir())
    (got,) = unpack_answer(reader, pack_answer(writer, [("y", np.arange(5))]))
    assert got.tolist() == [0, 1, 2, 3, 4]
    writer.close()
    reader.close()


@pytest.mark.parametrize(
    "error",
    [
        InvalidTensor("x: expected 3", violations=[FieldViolation("inputs.x", "expected 3")]),
        MemoryBudgetExceeded("a memory limit was reached", retry_after=1.0),
        ModelFailure("the model raised (Fail)"),
    ],
)
def test_what_a_run_raised_comes_as_it_was_raised(pair, error) -> None:
    error.__cause__ = ValueError("in onnxruntime")
    with pytest.raises(TurnoutError) as caught:
        unpack_answer(pair[1], pack_failure(error))
    got = caught.value
    assert (type(got), got.message, got.retry_after, got.violations) == (
        type(error), error.message, error.retry_after, error.violations,
    )  # fmt: skip
    assert "in onnxruntime" in str(got.__cause__)


def test_a_child_does_not_decide_that_it_crashed(pair) -> None:
    with pytest.raises(ModelFailure) as caught:
        unpack_answer(pair[1], pack_failure(ModelCrashed("it says")))
    assert type(caught.value) is ModelFailure


@given(st.data())
def test_a_broken_frame_is_refused_and_harms_nothing(data) -> None:
    writer = Arena.create(1 << 20, writable=True)
    reader = Arena(writer.read_only(), 1 << 20, writable=False)
    frame = bytearray(pack_answer(writer, [("y", np.arange(4)), ("s", np.array(["a", "b"], object))]))
    for _ in range(data.draw(st.integers(1, 3))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(frame)))
    try:
        unpack_answer(reader, bytes(frame[:cut]))
    except (FrameError, TurnoutError):
        pass
    finally:
        writer.close()
        reader.close()


def test_a_tensor_beyond_the_memory_is_refused(pair) -> None:
    writer, reader = pair
    pack_answer(writer, [("y", np.arange(4))])
    frame = struct.pack("<BHH", 2, 1, 0) + struct.pack("<BBHQ", 1, 1, 1, 1 << 40) + struct.pack("<q", 1 << 40) + b"y"
    with pytest.raises(FrameError):
        unpack_answer(reader, frame)
    with pytest.raises(ArenaBroken):
        reader.written(1 << 40)
    with pytest.raises(FrameError):
        unpack_loaded(frame)
