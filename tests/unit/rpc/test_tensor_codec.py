"""The rules of the tensor codec, one by one; the properties stand in tests/property."""

import pickle

import ml_dtypes
import numpy as np
import pytest

from turnout_proto.tensors import MAX_RANK, TensorError, append, decode, encode
from turnout_proto.v1.prediction_pb2 import DataType, PredictRequest, Tensor

NUMBERS = [
    ("BOOL", np.bool_),
    ("UINT8", np.uint8),
    ("UINT16", np.uint16),
    ("UINT32", np.uint32),
    ("UINT64", np.uint64),
    ("INT8", np.int8),
    ("INT16", np.int16),
    ("INT32", np.int32),
    ("INT64", np.int64),
    ("FLOAT16", np.float16),
    ("BFLOAT16", ml_dtypes.bfloat16),
    ("FLOAT32", np.float32),
    ("FLOAT64", np.float64),
]


def refused(tensor: Tensor) -> TensorError:
    with pytest.raises(TensorError) as caught:
        decode(tensor)
    return caught.value


@pytest.mark.parametrize(("name", "dtype"), NUMBERS)
def test_each_numeric_type_travels_under_its_own_code(name, dtype):
    array = np.array([[0, 1], [1, 0]]).astype(dtype)
    tensor = encode("x", array)
    assert tensor.name == "x"
    assert tensor.data_type == DataType.Value(f"DATA_TYPE_{name}")
    assert tensor.shape == [2, 2]
    assert len(tensor.raw) == 4 * np.dtype(dtype).itemsize
    back = decode(tensor)
    assert back.dtype == np.dtype(dtype)
    assert np.array_equal(back, array)


def test_every_code_of_the_protocol_is_tested_above():
    named = {f"DATA_TYPE_{name}" for name, _ in NUMBERS}
    assert named | {"DATA_TYPE_UNSPECIFIED", "DATA_TYPE_STRING"} == set(DataType.keys())


def test_elements_are_little_endian_and_row_major():
    assert encode("x", np.array([[1, 2], [3, 4]], np.uint16).T).raw == b"\x01\0\x03\0\x02\0\x04\0"
    assert encode("x", np.array([1, 2], ">u2")).raw == b"\x01\0\x02\0"


def test_views_of_any_layout_are_encoded_as_what_they_show():
    whole = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    for view in (
        whole[:, ::-1],
        whole[..., ::2],
        whole.T,
        np.broadcast_to(whole[0], (5, 3, 4)),
        np.asfortranarray(whole),
    ):
        assert np.array_equal(decode(encode("x", view)), view)


def test_a_scalar_is_a_tensor_without_dimensions():
    tensor = encode("x", np.array(2.5, np.float32))
    assert tensor.shape == []
    assert decode(tensor).shape == ()
    assert decode(tensor) == 2.5
    assert decode(encode("s", np.array("word"))).item() == "word"


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 7, 2)])
def test_an_empty_tensor_keeps_its_shape(shape):
    assert decode(encode("x", np.empty(shape, np.float32))).shape == shape
    assert decode(encode("x", np.empty(shape, object))).shape == shape


def test_what_is_decoded_cannot_be_written():
    for array in (np.zeros(3, np.float32), np.zeros(3, np.bool_), np.array(["a"], object), np.array("a", object)):
        with pytest.raises(ValueError, match="read-only"):
            decode(encode("x", array))[...] = array


def test_decoding_shares_the_bytes_of_the_message():
    assert decode(encode("x", np.zeros((2, 2)))).base is not None


@pytest.mark.parametrize(
    "array",
    [
        np.array(["a", "žluť", ""]),
        np.array(["a", "žluť", ""], object),
        np.array([np.str_("a"), "žluť", b""], object),
        np.array([b"a", "žluť".encode(), b""], "S"),
        np.array(["a", "žluť", ""], np.dtypes.StringDType()),
    ],
    ids=["U", "objects", "mixed objects", "S", "StringDType"],
)
def test_strings_of_every_kind_arrive_as_str(array):
    back = decode(encode("x", array))
    assert back.dtype == object
    assert back.tolist() == ["a", "žluť", ""]
    assert {type(element) for element in back} == {str}


def test_strings_keep_their_order_in_a_matrix():
    terms = np.array([["a", "b"], ["c", "d"], ["e", "f"]], object)
    assert np.array_equal(decode(encode("x", terms.T)), terms.T)


def test_text_that_utf8_cannot_hold_is_refused():
    for element in ("\ud800", b"\xff"):
        with pytest.raises(TensorError) as caught:
            encode("x", np.array(["fine", element], object))
        assert caught.value.field == "strings[1]"
    error = refused(Tensor(data_type=DataType.DATA_TYPE_STRING, shape=[2], strings=[b"fine", b"a\xff"]))
    assert (error.field, error.description) == ("strings[1]", "expected UTF-8, got another byte at 1")


@pytest.mark.parametrize("array", [np.array([1, "a"], object), np.array([None], object), np.array([[1], [2]], object)])
def test_objects_that_are_no_text_are_refused(array):
    with pytest.raises(TensorError, match=r"expected str or bytes in an array of objects, got (int|NoneType)"):
        encode("x", array)


@pytest.mark.parametrize("dtype", ["c8", "M8[s]", "i4,f4", ml_dtypes.float8_e4m3fn, ml_dtypes.int4])
def test_types_without_a_place_on_the_wire_are_refused(dtype):
    with pytest.raises(TensorError, match="expected an array of") as caught:
        encode("x", np.zeros(2, dtype))
    assert caught.value.field == "data_type"


def test_append_builds_the_same_tensor_in_its_place():
    request = PredictRequest()
    arrays = [np.arange(6).reshape(2, 3), np.array("word"), np.array([1, 2], ">i2")]
    for array in arrays:
        append(request.inputs, "x", array)
    assert list(request.inputs) == [encode("x", array) for array in arrays]


def test_append_leaves_nothing_behind_where_it_refuses():
    request = PredictRequest()
    with pytest.raises(TensorError):
        append(request.inputs, "x", np.zeros(2, "c8"))
    assert len(request.inputs) == 0


@pytest.mark.parametrize("code", [0, 14, 15, 17, 99, -1])
def test_an_unknown_element_type_is_refused(code):
    error = refused(Tensor(data_type=code, raw=b""))
    assert error.field == "data_type"


def test_negative_dimensions_are_refused_even_where_their_product_fits():
    error = refused(Tensor(data_type=DataType.DATA_TYPE_UINT8, shape=[-2, -2], raw=b"abcd"))
    assert (error.field, error.description) == ("shape", "expected dimensions of 0 or more, got [-2, -2]")


def test_rank_is_bounded_on_both_ways():
    assert decode(encode("x", np.zeros((1,) * MAX_RANK))).ndim == MAX_RANK
    assert refused(Tensor(data_type=DataType.DATA_TYPE_UINT8, shape=[1] * 33, raw=b"a")).field == "shape"
    for dtype in (np.float64, object):
        with pytest.raises(TensorError, match="expected at most 32 dimensions, got 33"):
            encode("x", np.empty((1,) * 33, dtype))


@pytest.mark.parametrize("shape", [[2**62, 2**62], [2**63 - 1] * 32, [2**32, 2**32, 2**32], [2**62, 2**62, 0]])
def test_a_huge_shape_neither_overflows_nor_allocates(shape):
    assert refused(Tensor(data_type=DataType.DATA_TYPE_FLOAT32, shape=shape)).field == "shape"
    error = refused(Tensor(data_type=DataType.DATA_TYPE_STRING, shape=shape))
    assert error.field in ("shape", "strings")
    assert len(error.description) < 800


def test_a_wrong_byte_count_names_both_counts():
    error = refused(Tensor(data_type=DataType.DATA_TYPE_FLOAT32, shape=[2, 2], raw=b"abc"))
    assert (error.field, error.description) == ("raw", "expected 16 bytes for float32[2, 2], got 3")


def test_a_wrong_string_count_names_both_counts():
    error = refused(Tensor(data_type=DataType.DATA_TYPE_STRING, shape=[3], strings=[b"a"]))
    assert (error.field, error.description) == ("strings", "expected 3 for shape [3], got 1")


def test_elements_in_the_other_kinds_place_are_refused():
    assert refused(Tensor(data_type=DataType.DATA_TYPE_STRING, shape=[1], strings=[b"a"], raw=b"a")).field == "raw"
    assert refused(Tensor(data_type=DataType.DATA_TYPE_UINT8, shape=[1], strings=[b"a"], raw=b"a")).field == "strings"


@pytest.mark.parametrize("length", [3, 100_000])
def test_a_bool_byte_is_zero_or_one(length):
    bools = np.ones(length, np.uint8)
    tensor = Tensor(data_type=DataType.DATA_TYPE_BOOL, shape=[length], raw=bools.tobytes())
    assert decode(tensor).all()
    bools[-1] = 2
    tensor.raw = bools.tobytes()
    assert refused(tensor).field == "raw"


def test_a_tensor_error_survives_pickling():
    error = pickle.loads(pickle.dumps(TensorError("shape", "expected a, got b")))
    assert (error.field, error.description, str(error)) == ("shape", "expected a, got b", "shape: expected a, got b")
