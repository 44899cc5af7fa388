"""Bodies of inference requests over HTTP, and tensors in JSON."""

import json
import struct

import ml_dtypes
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.errors import InvalidRequest, InvalidTensor, Unsupported
from turnout.oip.elements import BY_NAME, NUMERIC_NAMES
from turnout.oip.json_tensors import from_json, to_json
from turnout.serving.inputs.limits import DEFAULT_LIMITS
from turnout.web.oip.requests import (
    open_body,
    read_binary_outputs,
    read_inputs,
    read_outputs,
    read_parameters,
)

IN_JSON = sorted(name for name in NUMERIC_NAMES.values() if name not in ("FP16", "BF16"))


def read(document, binary=None, **more):
    text = json.dumps(document).encode()
    return open_body(text + (binary or b""), None if binary is None else str(len(text)), **more)


def written(data):
    """What a client reads where `data` is written."""
    return json.loads(orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY), parse_constant=pytest.fail)


def tensor(datatype="FP32", shape=(2,), **more):
    return {"name": "x", "datatype": datatype, "shape": list(shape), **more}


def fault(document, binary=None):
    with pytest.raises(InvalidRequest) as raised:
        read_inputs(read(document, binary))
    (violation,) = raised.value.violations
    return violation


@pytest.mark.parametrize("name", IN_JSON)
def test_numbers_come_in_flat_or_nested_and_go_out_flat(name):
    kind = BY_NAME[name]
    values = [True, False, True, True] if name == "BOOL" else [0, 1, 2, 3]
    flat = from_json(0, kind, (2, 2), values)
    nested = from_json(0, kind, (2, 2), [values[:2], values[2:]])

    assert flat.dtype == nested.dtype == kind.dtype
    np.testing.assert_array_equal(flat, np.array(values, kind.dtype).reshape(2, 2))
    np.testing.assert_array_equal(flat, nested)
    assert written(to_json("y", name, flat)) == values


@given(st.lists(st.floats(width=32), max_size=20))
def test_every_float_goes_out_and_comes_in_the_same(values):
    array = np.array(values, np.float32)
    text = written(to_json("y", "FP32", array))
    np.testing.assert_array_equal(from_json(0, BY_NAME["FP32"], (len(values),), text), array)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=10))
def test_every_text_goes_out_and_comes_in_the_same(values):
    array = from_json(0, BY_NAME["BYTES"], (len(values),), values)
    assert written(to_json("y", "BYTES", array)) == values


@pytest.mark.parametrize("name", ["FP16", "BF16"])
def test_half_floats_are_refused_in_json_both_ways(name):
    assert "binary_data_size" in fault({"inputs": [tensor(name, data=[1.0, 2.0])]}).description
    with pytest.raises(InvalidRequest, match="binary_data"):
        to_json("y", name, np.zeros(1, BY_NAME[name].dtype))


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("INT8", [128, 0]),
        ("UINT8", [-1, 0]),
        ("UINT64", [2**64, 0]),
        ("INT64", [10**30, 0]),
        ("INT32", [1.0, 2]),
        ("INT32", [True, 2]),
        ("INT32", ["1", 2]),
        ("BOOL", [0, 1]),
        ("FP32", [1e39, 0]),
        ("FP32", ["1.5", 0]),
        ("FP32", [None, 0]),
        ("FP32", [True, 0]),
        ("FP64", [{}, 0]),
        ("BYTES", ["a", 1]),
        ("BYTES", ["a", None]),
    ],
)
def test_values_of_another_kind_or_out_of_range_are_refused(datatype, data):
    assert fault({"inputs": [tensor(datatype, data=data)]}).field.startswith("inputs[0].data")


@pytest.mark.parametrize(
    "data",
    [None, 1, "ab", {}, [], [1], [1, 2, 3], [[1, 2]], [[1], [2]], [[1], 2], [[[1]], [[2]]]],
    ids=str,
)
def test_data_of_another_shape_is_refused(data):
    assert fault({"inputs": [tensor(data=data)]}).field.startswith("inputs[0].data")


@pytest.mark.parametrize("data", [[[1, 2], [3]], [[1, 2, 3], [4]], [[1, 2], 3, 4], [[1, 2], [[3], 4]]], ids=str)
def test_ragged_data_is_refused(data):
    assert fault({"inputs": [tensor(shape=(2, 2), data=data)]}).field.startswith("inputs[0].data")


@pytest.mark.parametrize(("shape", "data"), [((), [7]), ((0,), []), ((2, 0), [[], []]), ((0, 3), [])], ids=str)
def test_scalars_and_empty_tensors_are_tensors(shape, data):
    assert read_inputs(read({"inputs": [tensor("INT64", shape, data=data)]}))["x"].shape == shape


@pytest.mark.parametrize(
    "shape",
    [None, "2", [2.0], [True], ["2"], [-1], [1] * 33, [2**70], [0, 2**62, 2**62, 2**62]],
    ids=["none", "text", "float", "bool", "texts", "negative", "rank", "beyond 64 bits", "hidden product"],
)
def test_impossible_shapes_are_refused(shape):
    assert fault({"inputs": [{**tensor(data=[]), "shape": shape}]}).field == "inputs[0].shape"


def test_a_giant_shape_costs_no_memory():
    assert fault({"inputs": [tensor(shape=(2**40, 2**20), data=[1])]}).field == "inputs[0].data"


def test_binary_parts_stand_in_the_order_of_the_inputs_that_have_them():
    first, second = np.array([1.5, -2], ml_dtypes.bfloat16), np.array([3, 4], np.int16)
    document = {
        "inputs": [
            {"name": "a", "datatype": "BF16", "shape": [2], "parameters": {"binary_data_size": 4}},
            {"name": "b", "datatype": "FP32", "shape": [1], "data": [0.5]},
            {"name": "c", "datatype": "INT16", "shape": [2], "parameters": {"binary_data_size": 4}},
            {"name": "d", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}},
        ]
    }
    inputs = read_inputs(read(document, first.tobytes() + second.tobytes() + struct.pack("<I", 1) + b"e"))
    np.testing.assert_array_equal(inputs["a"], first)
    np.testing.assert_array_equal(inputs["c"], second)
    assert (inputs["b"].tolist(), inputs["d"].tolist()) == ([0.5], ["e"])


def test_binary_elements_are_aligned_whatever_the_length_of_the_json():
    for padding in range(8):
        body = read({"id": "i" * padding, "inputs": [tensor("FP64", parameters={"binary_data_size": 16})]}, bytes(16))
        assert read_inputs(body)["x"].flags.aligned


@pytest.mark.parametrize(
    ("size", "binary", "field"),
    [
        (8, bytes(7), "inputs[0].parameters.binary_data_size"),
        (8, bytes(9), "body"),
        (7, bytes(7), "inputs[0] (binary)"),
        (-8, bytes(8), "inputs[0].parameters.binary_data_size"),
        (8.0, bytes(8), "inputs[0].parameters.binary_data_size"),
        (True, bytes(8), "inputs[0].parameters.binary_data_size"),
        (2**70, bytes(8), "inputs[0].parameters.binary_data_size"),
    ],
)
def test_binary_parts_are_as_long_as_they_say(size, binary, field):
    assert fault({"inputs": [tensor(parameters={"binary_data_size": size})]}, binary).field == field


def test_an_input_is_binary_or_json():
    both = tensor(data=[1, 2], parameters={"binary_data_size": 8})
    assert fault({"inputs": [both]}, bytes(8)).field == "inputs[0].data"


@pytest.mark.parametrize("length", ["", "x", "-1", "0", "9" * 30, "1.5", "+2", "1000000", "²"])
def test_the_length_of_the_json_is_within_the_body(length):
    with pytest.raises(InvalidRequest, match="inference-header-content-length"):
        open_body(b'{"inputs": []}', length)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"id": "\xff"}',
        b'{"id": "\xed\xa0\x80"}',
        b'{"id": "\\ud800"}',
        b"[" * 100_000,
        b'{"inputs":' * 100_000,
        b'{"id": 1e999}',
        '{"id": ""}'.encode("utf-16"),
    ],
    ids=lambda body: repr(body[:12]),
)
def test_what_is_no_object_of_json_is_refused(body):
    with pytest.raises(InvalidRequest, match=r"^body"):
        open_body(body, None)


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({}, "inputs"),
        ({"inputs": {}}, "inputs"),
        ({"inputs": [1]}, "inputs"),
        ({"inputs": [tensor("fp32")]}, "inputs[0].datatype"),
        ({"inputs": [tensor(5)]}, "inputs[0].datatype"),
        ({"inputs": [{**tensor(), "name": 1}]}, "inputs[0].name"),
        ({"inputs": [tensor(data=[1, 2]), tensor(data=[1, 2])]}, "inputs[1].name"),
        ({"inputs": [tensor(parameters=[])]}, "inputs[0].parameters"),
        ({"inputs": [tensor(parameters={"a": []})]}, "inputs[0].parameters.a"),
        ({"inputs": [tensor()] * (DEFAULT_LIMITS.tensors + 1)}, "inputs"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_input_is_refused_by_field(document, field):
    assert fault(document).field == field


def test_shared_memory_is_refused():
    with pytest.raises(Unsupported, match="shared memory"):
        read_inputs(read({"inputs": [tensor(parameters={"shared_memory_region": "r"})]}))


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"outputs": "y"}, "outputs"),
        ({"outputs": ["y"]}, "outputs"),
        ({"outputs": [{}]}, "outputs[0].name"),
        ({"outputs": [{"name": "y", "parameters": 1}]}, "outputs[0].parameters"),
        ({"outputs": [{"name": "y"}] * (DEFAULT_LIMITS.tensors + 1)}, "outputs"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_output_is_refused_by_field(document, field):
    with pytest.raises(InvalidRequest) as raised:
        read_outputs(read(document))
    assert [violation.field for violation in raised.value.violations] == [field]


def test_what_an_output_says_goes_before_what_the_request_says():
    body = read(
        {
            "parameters": {"binary_data_output": True},
            "outputs": [{"name": "a", "parameters": {"binary_data": False}}, {"name": "b"}],
        }
    )
    options = read_binary_outputs(read_outputs(body), read_parameters(body))
    assert (options.wants("a"), options.wants("b"), options.wants("c")) == (False, True, True)


def test_a_wish_for_binary_is_true_or_false():
    body = read({"parameters": {"binary_data_output": 1}})
    with pytest.raises(InvalidRequest, match="binary_data_output"):
        read_binary_outputs((), read_parameters(body))


def test_a_request_has_a_bounded_number_of_parameters():
    with pytest.raises(InvalidRequest, match="at most"):
        read_parameters(read({"parameters": {str(n): n for n in range(1000)}}))


def test_an_unknown_type_is_no_output_of_this_protocol():
    with pytest.raises(InvalidTensor):
        read_inputs(read({"inputs": [tensor("COMPLEX64", data=[1, 2])]}))
