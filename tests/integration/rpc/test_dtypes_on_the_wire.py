"""Every element type goes in and comes out as it was, scalars and empty tensors too."""

import ml_dtypes
import numpy as np
import pytest
import pytest_asyncio
from onnx import TensorProto

from onnx_models import add_with_default, bfloat16_cast, identity, scalar, string_identity
from wire import outputs_of, request, stub_of

pytestmark = [pytest.mark.both_transports, pytest.mark.asyncio(loop_scope="module")]

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


NAMES = {element: TensorProto.DataType.Name(element).lower() for element in TYPES}

every_type = pytest.mark.parametrize("element", TYPES, ids=lambda element: TensorProto.DataType.Name(element))


@pytest.fixture(scope="module")
def all_models(publish_for_module) -> None:
    """What is sent to one is nothing to the others."""
    for element, name in NAMES.items():
        publish_for_module(name, "1.0.0", identity(element))
        publish_for_module(f"{name}-scalar", "1.0.0", identity(element, []))
    for name, model in (
        ("strings", string_identity()),
        ("scalar", scalar()),
        ("casts", bfloat16_cast()),
        ("default", add_with_default()),
    ):
        publish_for_module(name, "1.0.0", model)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stub(all_models, start_server_for_module):
    async with stub_of(await start_server_for_module()) as stub:
        yield stub


@every_type
@pytest.mark.parametrize("rows", [0, 1, 3])
async def test_a_tensor_comes_back_as_it_was(stub, element, rows) -> None:
    sent = (np.arange(rows * 4) % 2).reshape(rows, 4).astype(TYPES[element])
    for array in (sent, sent[::-1], sent[:1]):  # the second is read and answered by what is known of the first
        (got,) = outputs_of(await stub.Predict(request(NAMES[element], x=array))).values()
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got, array)


async def test_strings_come_back_as_they_were(stub) -> None:
    (spec,) = string_identity().graph.input
    sent = np.full([2 for _ in spec.type.tensor_type.shape.dim], "grün — 緑", dtype=object)
    for array in (sent, sent, sent + "!"):
        (got,) = outputs_of(await stub.Predict(request("strings", **{spec.name: array}))).values()
        np.testing.assert_array_equal(got, array)


@every_type
async def test_a_scalar_of_any_type_stays_one(stub, element) -> None:
    answer = await stub.Predict(request(f"{NAMES[element]}-scalar", x=np.array(1, TYPES[element])))
    (got,) = outputs_of(answer).values()
    assert (got.dtype, got.shape, got) == (np.dtype(TYPES[element]), (), 1)


async def test_a_scalar_stays_one(stub) -> None:
    names = [i.name for i in scalar().graph.input]
    answer = await stub.Predict(request("scalar", **{name: np.float32(2) for name in names}))
    assert all(array.shape == () for array in outputs_of(answer).values())


async def test_bfloat16_runs_inside_the_model(stub) -> None:
    (spec,) = bfloat16_cast().graph.input
    dtype = TYPES[spec.type.tensor_type.elem_type]
    sent = np.ones([2 for _ in spec.type.tensor_type.shape.dim], dtype)
    answer = await stub.Predict(request("casts", **{spec.name: sent}))
    (got,) = outputs_of(answer).values()
    np.testing.assert_array_equal(got.astype(np.float32), np.ones_like(got, np.float32))


async def test_an_input_with_a_default_may_be_left_out(stub) -> None:
    x = np.zeros((2, 3), np.float32)
    default = await stub.Predict(request("default", x=x))
    given = await stub.Predict(request("default", x=x, bias=np.full(3, 7, np.float32)))
    np.testing.assert_array_equal(outputs_of(given)["y"], x + 7)
    assert not np.array_equal(outputs_of(default)["y"], x + 7)
