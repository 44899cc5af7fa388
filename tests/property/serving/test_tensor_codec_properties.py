"""What holds of the tensor codec for all arrays, and for all messages whatever."""

import math

import ml_dtypes
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from turnout_proto.tensors import TensorError, decode, encode
from turnout_proto.v1.prediction_pb2 import DataType, Tensor

WIDTHS = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
SHAPES = hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)
NUMERIC = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def outcome(tensor):
    """What decoding ends with: an array, or the one error it may raise."""
    try:
        return decode(tensor)
    except TensorError as error:
        return error


@given(hnp.arrays(NUMERIC, SHAPES))
def test_numbers_come_back_bit_by_bit(array):
    back = decode(encode("x", array))
    little = array.astype(array.dtype.newbyteorder("<"))
    assert back.dtype == little.dtype
    assert back.shape == array.shape
    assert back.tobytes() == little.tobytes()


@given(hnp.arrays(np.uint16, SHAPES))
def test_bfloat16_comes_back_bit_by_bit(bits):
    array = bits.view(ml_dtypes.bfloat16)
    back = decode(encode("x", array))
    assert back.dtype == ml_dtypes.bfloat16
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@given(hnp.arrays(object, SHAPES, elements=TEXT))
def test_text_comes_back_letter_by_letter(array):
    back = decode(encode("x", array))
    assert back.shape == array.shape
    assert back.ravel().tolist() == array.ravel().tolist()


@given(hnp.arrays(np.int32, hnp.array_shapes(max_dims=4, max_side=5)), st.data())
def test_a_slice_is_encoded_as_what_it_shows(array, data):
    view = np.asarray(array[data.draw(hnp.basic_indices(array.shape))])
    back = decode(encode("x", view))
    assert back.shape == view.shape
    assert np.array_equal(back, view)


DIMENSIONS = st.one_of(st.integers(0, 4), st.integers(-(2**63), 2**63 - 1))


@given(
    data_type=st.one_of(st.sampled_from(list(WIDTHS)), st.integers(-5, 40)),
    shape=st.lists(DIMENSIONS, max_size=35),
    raw=st.binary(max_size=64),
    strings=st.one_of(st.just([]), st.lists(st.binary(max_size=4), max_size=5)),
)
def test_a_message_whatever_decodes_to_what_it_says_or_is_refused(data_type, shape, raw, strings):
    tensor = Tensor(data_type=data_type, shape=shape, raw=raw, strings=strings)
    array = outcome(tensor)
    if isinstance(array, TensorError):
        assert array.field.partition("[")[0] in ("data_type", "shape", "raw", "strings")
        assert array.description.startswith("expected ")
        return
    assert list(array.shape) == shape
    if data_type == DataType.DATA_TYPE_STRING:
        assert array.ravel().tolist() == [element.decode() for element in strings]
        assert not raw
    else:
        assert array.tobytes() == raw
        assert not strings


@given(
    data_type=st.sampled_from([*WIDTHS, DataType.DATA_TYPE_STRING]),
    shape=st.lists(st.integers(0, 3), max_size=4),
    data=st.data(),
)
def test_a_message_that_adds_up_is_never_refused(data_type, shape, data):
    count = math.prod(shape)
    if data_type == DataType.DATA_TYPE_STRING:
        strings = data.draw(st.lists(TEXT.map(str.encode), min_size=count, max_size=count))
        tensor = Tensor(data_type=data_type, shape=shape, strings=strings)
    else:
        size = count * WIDTHS[data_type]
        raw = data.draw(st.binary(min_size=size, max_size=size))
        if data_type == DataType.DATA_TYPE_BOOL:
            raw = bytes(byte & 1 for byte in raw)
        tensor = Tensor(data_type=data_type, shape=shape, raw=raw)
    array = decode(tensor)
    again = encode("", array)
    assert again == tensor


@given(st.integers(0, 40), st.integers(0, 40), st.sampled_from(list(WIDTHS)))
def test_a_byte_count_that_is_wrong_is_always_refused(elements, length, data_type):
    result = outcome(Tensor(data_type=data_type, shape=[elements], raw=bytes(length)))
    if length == elements * WIDTHS[data_type]:
        assert result.shape == (elements,)
    else:
        assert result.field == "raw"
