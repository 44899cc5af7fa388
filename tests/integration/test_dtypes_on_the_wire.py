"""Every element type goes in and comes out as it was, scalars and empty tensors too."""

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto

from onnx_models import add_with_default, bfloat16_cast, identity, scalar, string_identity
from wire import outputs_of, request, stub_of

pytestmark = pytest.mark.both_transports

TYPES = {
    TensorProto.BOOL: np.bool_,
    TensorProto.UINT8: np.uint8,
    TensorProto.UINT16: np.uint16,
    TensorProto.UINT32: np.uint32,
    TensorProto.UINT64: np.uint64,
    TensorProto.INT8: np.int8,
    TensorProto.INT16: np.int16,
    TensorProto.INT32: np.int32,
    TensorProto.INT64: np.int64,
    TensorProto.FLOAT16: np.float16,
    TensorProto.BFLOAT16: ml_dtypes.bfloat16,
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
}


@pytest.mark.parametrize("element", TYPES, ids=lambda element: TensorProto.DataType.Name(element))
@pytest.mark.parametrize("rows", [0, 1, 3])
async def test_a_tensor_comes_back_as_it_was(publish_model, start_server, element, rows) -> None:
    publish_model("m", "1.0.0", identity(element))
    sent = (np.arange(rows * 4) % 2).reshape(rows, 4).astype(TYPES[element])
    async with stub_of(await start_server()) as stub:
        for array in (sent, sent[::-1], sent[:1]):  # the second is read and answered by what is known of the first
            (got,) = outputs_of(await stub.Predict(request("m", x=array))).values()
            assert got.dtype == array.dtype
            np.testing.assert_array_equal(got, array)


async def test_strings_come_back_as_they_were(publish_model, start_server) -> None:
    model = string_identity()
    publish_model("m", "1.0.0", model)
    name, shape = model.graph.input[0].name, [2 for _ in model.graph.input[0].type.tensor_type.shape.dim]
    sent = np.full(shape, "grün — 緑", dtype=object)
    async with stub_of(await start_server()) as stub:
        for array in (sent, sent, sent + "!"):
            (got,) = outputs_of(await stub.Predict(request("m", **{name: array}))).values()
            np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("element", TYPES, ids=lambda element: TensorProto.DataType.Name(element))
async def test_a_scalar_of_any_type_stays_one(publish_model, start_server, element) -> None:
    publish_model("m", "1.0.0", identity(element, []))
    async with stub_of(await start_server()) as stub:
        answer = await stub.Predict(request("m", x=np.array(1, TYPES[element])))
    (got,) = outputs_of(answer).values()
    assert (got.dtype, got.shape, got) == (np.dtype(TYPES[element]), (), 1)


async def test_a_scalar_stays_one(publish_model, start_server) -> None:
    model = scalar()
    publish_model("m", "1.0.0", model)
    names = [i.name for i in model.graph.input]
    async with stub_of(await start_server()) as stub:
        answer = await stub.Predict(request("m", **{name: np.float32(2) for name in names}))
    assert all(array.shape == () for array in outputs_of(answer).values())


async def test_bfloat16_runs_inside_the_model(publish_model, start_server) -> None:
    model = bfloat16_cast()
    publish_model("m", "1.0.0", model)
    spec = model.graph.input[0]
    dtype = TYPES[spec.type.tensor_type.elem_type]
    sent = np.ones([2 for _ in spec.type.tensor_type.shape.dim], dtype)
    async with stub_of(await start_server()) as stub:
        answer = await stub.Predict(request("m", **{spec.name: sent}))
    (got,) = outputs_of(answer).values()
    np.testing.assert_array_equal(got.astype(np.float32), np.ones_like(got, np.float32))


async def test_an_input_with_a_default_may_be_left_out(publish_model, start_server) -> None:
    publish_model("m", "1.0.0", add_with_default())
    x = np.zeros((2, 3), np.float32)
    async with stub_of(await start_server()) as stub:
        default = await stub.Predict(request("m", x=x))
        given = await stub.Predict(request("m", x=x, bias=np.full(3, 7, np.float32)))
    np.testing.assert_array_equal(outputs_of(given)["y"], x + 7)
    assert not np.array_equal(outputs_of(default)["y"], x + 7)
