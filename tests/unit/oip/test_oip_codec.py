import struct

import ml_dtypes
import numpy as np
import pytest

from turnout.errors import InvalidTensor, Unsupported
from turnout.oip.elements import BY_NAME, ELEMENT_TYPES, NUMERIC_NAMES
from turnout.registry.manifest.signature import DataType
from turnout.rpc.oip.answer import output_parts
from turnout.rpc.oip.codec import decode_inputs
from turnout.serving.inputs.limits import DEFAULT_LIMITS
from turnout_proto.oip.inference_pb2 import InferTensorContents, ModelInferRequest, ModelInferResponse

NUMERIC = sorted(NUMERIC_NAMES.items(), key=lambda item: item[1])
WITH_CONTENTS = [kind for kind in ELEMENT_TYPES.values() if kind.contents]


def raw_request(datatype, shape, raw, name="x"):
    request = ModelInferRequest()
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    request.raw_input_contents.append(raw)
    return request


def typed_request(datatype, shape, **contents):
    request = ModelInferRequest()
    request.inputs.add(name="x", datatype=datatype, shape=shape, contents=InferTensorContents(**contents))
    return request


def lengthed(*elements):
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def fault(request):
    with pytest.raises(InvalidTensor) as raised:
        decode_inputs(request)
    (violation,) = raised.value.violations
    return violation


def described(outputs) -> ModelInferResponse:
    return ModelInferResponse.FromString(b"".join(output_parts(outputs, {})))


def test_every_element_type_has_a_name_of_its_own():
    assert len(BY_NAME) == len(DataType)
    assert set(BY_NAME) == {
        *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
        *("FP16", "BF16", "FP32", "FP64", "BYTES"),
    }


@pytest.mark.parametrize(("dtype", "name"), NUMERIC)
def test_raw_numbers_come_in_as_they_were_and_go_out_the_same(dtype, name):
    array = np.arange(6).reshape(2, 3).astype(dtype)

    decoded = decode_inputs(raw_request(name, [2, 3], array.tobytes()))["x"]
    response = described([("y", decoded)])

    assert decoded.dtype == dtype
    np.testing.assert_array_equal(decoded, array)
    assert (response.outputs[0].name, response.outputs[0].datatype) == ("y", name)
    assert list(response.outputs[0].shape) == [2, 3]
    assert list(response.raw_output_contents) == [array.tobytes()]


def test_raw_numbers_are_views_not_copies():
    decoded = decode_inputs(raw_request("FP32", [4], bytes(16)))["x"]

    assert not decoded.flags.owndata
    assert not decoded.flags.writeable


@pytest.mark.parametrize("shape", [[], [0], [3, 0, 2]], ids=str)
def test_scalars_and_empty_tensors_are_tensors(shape):
    count = int(np.prod(shape, dtype=int))

    assert decode_inputs(raw_request("INT64", shape, bytes(8 * count)))["x"].shape == tuple(shape)
    assert decode_inputs(raw_request("BYTES", shape, lengthed(*[b"a"] * count)))["x"].shape == tuple(shape)
    assert decode_inputs(typed_request("INT64", shape, int64_contents=[7] * count))["x"].shape == tuple(shape)
    response = described([("y", np.zeros(shape, np.float32))])
    assert list(response.outputs[0].shape) == shape


@pytest.mark.parametrize("kind", BY_NAME.values(), ids=BY_NAME)
def test_an_empty_tensor_needs_no_contents_at_all(kind):
    request = ModelInferRequest()
    request.inputs.add(name="x", datatype=kind.name, shape=[0, 4])

    decoded = decode_inputs(request)["x"]

    assert (decoded.dtype, decoded.shape) == (kind.dtype, (0, 4))


def test_a_request_without_inputs_has_none():
    assert decode_inputs(ModelInferRequest()) == {}


@pytest.mark.parametrize("kind", WITH_CONTENTS, ids=lambda kind: kind.name)
def test_typed_contents_come_in_as_their_own_type(kind):
    values = {"BOOL": [True, False], "BYTES": [b"a\xc3\xa9", b""]}.get(kind.name, [1, 0])

    decoded = decode_inputs(typed_request(kind.name, [2, 1], **{kind.contents: values}))["x"]

    assert decoded.dtype == kind.dtype
    assert decoded.tolist() == ([["aé"], [""]] if kind.name == "BYTES" else [[v] for v in values])


@pytest.mark.parametrize("name", ["FP16", "BF16"])
def test_half_floats_travel_raw_only(name):
    assert "raw_input_contents" in fault(typed_request(name, [1], fp32_contents=[1.0])).description


def test_bfloat16_comes_in_as_ml_dtypes_knows_it():
    array = np.array([1.5, -2.0], ml_dtypes.bfloat16)

    np.testing.assert_array_equal(decode_inputs(raw_request("BF16", [2], array.tobytes()))["x"], array)


def test_text_comes_in_as_str_and_goes_out_as_utf8_behind_its_length():
    raw = lengthed(b"frog", "Gleis 9¾".encode(), b"")

    decoded = decode_inputs(raw_request("BYTES", [3], raw))["x"]
    response = described([("y", decoded)])

    assert decoded.dtype == object
    assert decoded.tolist() == ["frog", "Gleis 9¾", ""]
    assert response.outputs[0].datatype == "BYTES"
    assert list(response.raw_output_contents) == [raw]


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (lengthed(b"a"), "raw_input_contents[0]"),
        (lengthed(b"a", b"b", b"c"), "raw_input_contents[0]"),
        (lengthed(b"a", b"b") + b"\0", "raw_input_contents[0]"),
        (lengthed(b"a") + struct.pack("<I", 2) + b"b", "raw_input_contents[0]"),
        (lengthed(b"abc") + b"\x01\0", "raw_input_contents[0]"),
        (struct.pack("<I", 2**32 - 1) + bytes(8), "raw_input_contents[0]"),
        (lengthed(b"a", b"\xff"), "raw_input_contents[0][1]"),
    ],
    ids=["too few", "too many", "a byte more", "cut element", "cut length", "giant length", "not UTF-8"],
)
def test_malformed_text_is_refused(raw, field):
    assert fault(raw_request("BYTES", [2], raw)).field == field


def test_typed_text_must_be_utf8():
    assert fault(typed_request("BYTES", [1], bytes_contents=[b"\xff"])).field == "inputs[0].contents.bytes_contents[0]"


@pytest.mark.parametrize(("shape", "size"), [([2], 7), ([2], 9), ([3], 8), ([], 8), ([0], 1)], ids=str)
def test_raw_bytes_must_be_exactly_what_type_and_shape_ask_for(shape, size):
    assert fault(raw_request("FP32", shape, bytes(size))).field == "raw_input_contents[0]"


@pytest.mark.parametrize(
    "shape",
    [[-1], [2, -3], [1] * 33, [0, 2**62, 2**62, 2**62]],
    ids=["minus one", "negative", "rank", "hidden product"],
)
@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_impossible_shapes_are_refused(shape, datatype):
    raw = b"" if 0 in shape else lengthed(b"")
    assert fault(raw_request(datatype, shape, raw)).field == "inputs[0].shape"
    assert fault(typed_request(datatype, shape)).field == "inputs[0].shape"


@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_a_giant_shape_costs_no_memory(datatype):
    assert fault(raw_request(datatype, [2**40, 2**40], bytes(8))).field == "raw_input_contents[0]"
    assert fault(typed_request(datatype, [2**40, 2**40])).field == "inputs[0].contents"


@pytest.mark.parametrize("datatype", ["", "fp32", "STRING", "FP8", "x" * 10_000])
def test_an_unknown_type_is_refused_in_few_words(datatype):
    violation = fault(raw_request(datatype, [1], bytes(4)))

    assert violation.field == "inputs[0].datatype"
    assert len(violation.description) < 300


@pytest.mark.parametrize("raw", [b"\x02\x01", b"\xff\x00"])
def test_a_bool_is_0_or_1(raw):
    assert fault(raw_request("BOOL", [2], raw)).field == "raw_input_contents[0]"


def test_raw_and_typed_contents_do_not_mix():
    request = typed_request("FP32", [1], fp32_contents=[1.0])
    request.raw_input_contents.append(bytes(4))

    assert fault(request).field == "inputs[0].contents"


@pytest.mark.parametrize("raws", [1, 3])
def test_raw_contents_are_one_for_each_input(raws):
    request = ModelInferRequest(raw_input_contents=[bytes(4)] * raws)
    request.inputs.add(name="a", datatype="FP32", shape=[1])
    request.inputs.add(name="b", datatype="FP32", shape=[1])

    assert fault(request).field == "raw_input_contents"


@pytest.mark.parametrize("values", [[], [1, 2], [1, 2, 3, 4]])
def test_typed_contents_are_as_many_as_the_shape_asks_for(values):
    assert fault(typed_request("INT32", [3], int_contents=values)).field == "inputs[0].contents"


def test_typed_contents_stand_in_the_list_of_their_type():
    assert "int_contents" in fault(typed_request("INT32", [1], int64_contents=[1])).description
    assert fault(typed_request("INT32", [1], int_contents=[1], fp32_contents=[1])).field == "inputs[0].contents"


@pytest.mark.parametrize(
    ("datatype", "contents"),
    [
        ("INT8", {"int_contents": [128]}),
        ("INT8", {"int_contents": [-129]}),
        ("INT16", {"int_contents": [2**15]}),
        ("UINT8", {"uint_contents": [256]}),
        ("UINT16", {"uint_contents": [2**16]}),
    ],
)
def test_typed_values_must_fit_their_type(datatype, contents):
    assert fault(typed_request(datatype, [1], **contents)).field == "inputs[0].contents"


def test_an_input_stands_once():
    raw = raw_request("FP32", [1], bytes(4))
    raw.MergeFrom(raw_request("FP32", [1], bytes(4)))
    typed = typed_request("FP32", [1], fp32_contents=[1])
    typed.MergeFrom(typed_request("FP32", [1], fp32_contents=[1]))

    assert fault(raw).field == "inputs[1].name"
    assert fault(typed).field == "inputs[1].name"


@pytest.mark.parametrize("raws", [0, 1])
def test_shared_memory_is_refused_whatever_else_there_is(raws):
    request = ModelInferRequest(raw_input_contents=[bytes(4)] * raws)
    request.inputs.add(name="x", datatype="FP32", shape=[1]).parameters["shared_memory_region"].string_param = "r"

    with pytest.raises(Unsupported, match="shared memory"):
        decode_inputs(request)


def test_too_many_inputs_are_refused_before_any_is_decoded():
    request = ModelInferRequest()
    for index in range(DEFAULT_LIMITS.tensors + 1):
        request.inputs.add(name=str(index), datatype="nonsense")
        request.raw_input_contents.append(b"")

    assert fault(request).field == "inputs"


def test_outputs_of_any_layout_go_out_row_major():
    array = np.arange(6, dtype=np.int32).reshape(2, 3).T

    response = described([("y", array)])

    assert list(response.outputs[0].shape) == [3, 2]
    assert response.raw_output_contents[0] == np.ascontiguousarray(array).tobytes()


def test_an_output_that_the_protocol_cannot_hold_is_no_crash():
    with pytest.raises(Unsupported, match="complex64"):
        output_parts([("y", np.zeros(1, np.complex64))], {})


def test_outputs_are_described_as_they_are_though_they_were_otherwise_before():
    remembered = {}
    for array in (np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32), np.zeros((3, 2), np.int64)):
        for _ in range(2):
            response = ModelInferResponse.FromString(b"".join(output_parts([("y", array)], remembered)))
            assert tuple(response.outputs[0].shape) == array.shape
            assert response.outputs[0].datatype == ("FP32" if array.dtype == np.float32 else "INT64")
            assert response.raw_output_contents[0] == array.tobytes()
