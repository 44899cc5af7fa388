"""Where an input is empty, ONNX Runtime answers some operators with what was in memory: other callers' values."""

import asyncio

import grpc
import ml_dtypes
import numpy as np
import pytest
from onnx import ModelProto, TensorProto
from semver import Version

import onnx_models
from nested_models import PLACES
from rowwise_models import FLOAT, INT32, UINT8, graph, node
from turnout.config import Runtime
from wire import outputs_of, refusal, request, stub_of

SECRET = 777.0

PLACED = pytest.mark.parametrize("place", ["", "deep", "in a function of another operator set"])


def placed(place: str, proto: ModelProto) -> ModelProto:
    return PLACES[place](proto) if place else proto


@pytest.mark.parametrize("mixes", [False, True], ids=["batched", "never batched"])
@PLACED
async def test_an_empty_part_shows_nobody_what_others_sent(publish_model, start_server, mixes, place) -> None:
    publish_model("m", "1.0.0", placed(place, onnx_models.side_by_side(mixes=mixes)))
    server = await start_server(runtime=Runtime(runners=1))
    secret, own = np.full((2, 64), SECRET, np.float32), np.ones((2, 64), np.float32)
    async with stub_of(server) as stub:
        for _ in range(3):
            await asyncio.gather(*(stub.Predict(request("m", a=secret, b=secret)) for _ in range(4)))
            for a, b in ((own, own[:0]), (own[:0], own)):
                error = await refusal(stub.Predict(request("m", a=a, b=b)))
                assert error.code is grpc.StatusCode.INVALID_ARGUMENT
                assert f"inputs.b: expected {len(a)} along axis 0, as inputs.a has, got {len(b)}" in error.message
        answer = await stub.Predict(request("m", a=own, b=own))
        np.testing.assert_array_equal(outputs_of(answer)["y"], np.full((2, 128), 2 if mixes else 1, np.float32))
        none = await stub.Predict(request("m", a=own[:0], b=own[:0]))
    assert outputs_of(none)["y"].shape == (0, 128)


@PLACED
async def test_regions_of_an_empty_picture_show_nobody_what_lies_beside_it(publish_model, start_server, place) -> None:
    publish_model("m", "1.0.0", placed(place, onnx_models.regions()))
    server = await start_server()
    boxes, picture = np.array([[0, 0, 3, 3]], np.float32), np.full((1, 1, 8, 64), SECRET, np.float32)
    async with stub_of(server) as stub:
        answer = await stub.Predict(request("m", x=picture, boxes=boxes, pictures=np.zeros(1, np.int64)))
        np.testing.assert_array_equal(outputs_of(answer)["y"], np.full((1, 1, 2, 2), SECRET / 2, np.float32))
        for axis, shape in ((2, (1, 1, 0, 64)), (3, (1, 1, 8, 0))):
            empty = request("m", x=np.empty(shape, np.float32), boxes=boxes, pictures=np.zeros(1, np.int64))
            error = await refusal(stub.Predict(empty))
            assert error.code is grpc.StatusCode.INVALID_ARGUMENT
            assert f"inputs.x: expected 1 or more along axis {axis}, got float32" in error.message
        if place == "deep":
            return  # what a loop is given may be made of any input, and so may the picture
        none = await stub.Predict(request("m", x=picture, boxes=boxes[:0], pictures=np.zeros(0, np.int64)))
    assert outputs_of(none)["y"].shape == (0, 1, 2, 2)


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("place", ["", *PLACES])
@pytest.mark.parametrize("skip", [0, 2], ids=["sent empty", "made empty by the graph"])
async def test_a_product_that_sums_up_nothing_shows_nobody_what_others_sent(
    publish_model, start_server, turned, place, skip
) -> None:
    publish_model("m", "1.0.0", placed(place, onnx_models.turned_product(turned, skip=skip)))
    server = await start_server(runtime=Runtime(runners=1))

    def of(value: float, steps: int):
        shape = (2, 8, steps) if turned else (2, steps, 8)
        return {name: np.full(shape, value, np.float32) for name in "ab"}

    async with stub_of(server) as stub:
        for _ in range(3):
            await stub.Predict(request("m", **of(SECRET, 3 + skip)))
            answer = await stub.Predict(request("m", **of(1, skip)))
            np.testing.assert_array_equal(outputs_of(answer)["y"], np.zeros((2, 8, 8), np.float32))
        answer = await stub.Predict(request("m", **of(1, 3 + skip)))
    np.testing.assert_array_equal(outputs_of(answer)["y"], np.full((2, 8, 8), 3, np.float32))


@pytest.mark.parametrize("product", ["MatMul", "Gemm"])
async def test_a_quantised_product_of_nothing_shows_nobody_what_others_sent(
    publish_model, start_server, product
) -> None:
    """ONNX Runtime makes one operator of these."""
    steps = [
        node("DequantizeLinear", "a scale zero", "c"),
        node("DequantizeLinear", "b scale zero", "d"),
        node(product, "c d", "e"),
        node("QuantizeLinear", "e scale zero"),
    ]
    constants = {"scale": 1.0, "zero": np.uint8(0)}
    proto = graph(steps, {"a": (UINT8, ["n", "t"]), "b": (UINT8, ["t", 8])}, {"y": (UINT8, 2)}, constants)
    publish_model("m", "1.0.0", proto)
    server = await start_server(runtime=Runtime(runners=1))
    async with stub_of(server) as stub:
        for _ in range(3):
            await stub.Predict(request("m", a=np.full((4, 3), 7, np.uint8), b=np.full((3, 8), 7, np.uint8)))
            error = await refusal(stub.Predict(request("m", a=np.ones((4, 0), np.uint8), b=np.ones((0, 8), np.uint8))))
            assert error.code is grpc.StatusCode.INVALID_ARGUMENT
            assert "inputs.a: expected 1 or more along axis 1" in error.message
        answer = await stub.Predict(request("m", a=np.ones((4, 3), np.uint8), b=np.ones((3, 8), np.uint8)))
    np.testing.assert_array_equal(outputs_of(answer)["y"], np.full((4, 8), 3, np.uint8))


async def test_an_empty_element_of_a_sequence_shows_nobody_what_others_sent(publish_model, start_server) -> None:
    steps = [node("SequenceConstruct", "a b", "s"), node("ConcatFromSequence", "s", axis=1)]
    publish_model("m", "1.0.0", graph(steps, {"a": (FLOAT, ["n", 64]), "b": (FLOAT, ["m", 64])}, {"y": (FLOAT, 2)}))
    server = await start_server(runtime=Runtime(runners=1))
    own = np.ones((2, 64), np.float32)
    async with stub_of(server) as stub:
        error = await refusal(stub.Predict(request("m", a=own, b=own[:0])))
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert "inputs.b: expected 2 along axis 0, as inputs.a has, got 0" in error.message
        answer = await stub.Predict(request("m", a=own, b=own))
    np.testing.assert_array_equal(outputs_of(answer)["y"], np.ones((2, 128), np.float32))


CUT = {"from": [5], "end": [2**40], "columns": [1], "scale": np.float32(1), "point": np.uint8(0)}
"""Of fewer than six columns, a `Slice` by these leaves none. The graph makes it empty; the request is not."""


@pytest.mark.parametrize(
    ("nodes", "columns", "element", "expected"),
    [
        (
            [node("Slice", "x from end columns", "p"), node("Concat", "p x", axis=0)],
            3,
            FLOAT,
            [[1] * 3] * 8 + [[0] * 3] * 8,
        ),
        (
            [
                node("QuantizeLinear", "x scale point", "q"),
                node("Slice", "q from end columns", "p"),
                node("Transpose", "p", "t", perm=[1, 0]),
                node("MatMulInteger", "p t"),
            ],
            8,
            INT32,
            [[0] * 8] * 8,
        ),
    ],
    ids=["joined", "summed"],
)
async def test_what_a_graph_makes_empty_shows_nobody_what_others_sent(
    publish_model, start_server, nodes, columns, element, expected
) -> None:
    publish_model("m", "1.0.0", graph(nodes, {"x": (FLOAT, ["n", "t"])}, {"y": (element, 2)}, CUT))
    server = await start_server(runtime=Runtime(runners=1))
    loaded = server.services.catalog.snapshot.models["m"].versions[Version(1, 0, 0)].handle.loaded
    assert loaded.isolation.zeroed
    assert not loaded.in_force.plan.max_rows
    secret, own = np.full((8, columns), 77, np.float32), np.ones((8, 3), np.float32)
    async with stub_of(server) as stub:
        for _ in range(3):
            await asyncio.gather(*(stub.Predict(request("m", x=secret)) for _ in range(4)))
            answer = await stub.Predict(request("m", x=own))
            np.testing.assert_array_equal(outputs_of(answer)["y"], expected)


@pytest.mark.parametrize(
    ("one", "other"),
    [(["n", "t"], ["b", "t", 64]), (["n", 64, "t"], ["t"]), (["t"], ["b", "t", 64]), ([1, "n", "t"], ["b", "t", 64])],
)
async def test_a_product_that_repeats_a_factor_shows_nobody_what_others_sent(
    publish_model, start_server, one, other
) -> None:
    proto = graph([node("MatMul", "a b")], {"a": (FLOAT, one), "b": (FLOAT, other)}, {"y": (FLOAT, 2)})
    publish_model("m", "1.0.0", proto)
    server = await start_server(runtime=Runtime(runners=1))

    def of(steps: int):
        sizes = {"t": steps, "n": 8, "b": 8}
        given = {"a": one, "b": other}
        return {name: np.ones([sizes.get(size, size) for size in shape], np.float32) for name, shape in given.items()}

    async with stub_of(server) as stub:
        answer = await stub.Predict(request("m", **of(3)))
        np.testing.assert_array_equal(outputs_of(answer)["y"], np.matmul(*of(3).values()))
        error = await refusal(stub.Predict(request("m", **of(0))))
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert f"inputs.a: expected 1 or more along axis {one.index('t')}" in error.message


async def test_a_reduction_of_nothing_shows_nobody_what_others_sent(publish_model, start_server) -> None:
    """ONNX Runtime ignores the axis, so that the first part is (n, 0) and not (n, 1)."""
    nodes = [node("ReduceMax", "x last", "r"), node("Concat", "r row", axis=0)]
    constants = {"last": np.array([-1]), "row": np.ones((1, 1), np.float32)}
    publish_model("m", "1.0.0", graph(nodes, {"x": (FLOAT, ["n", "t"])}, {"y": (FLOAT, 2)}, constants))
    server = await start_server(runtime=Runtime(runners=1))
    async with stub_of(server) as stub:
        for _ in range(3):
            await stub.Predict(request("m", x=np.full((64, 1), SECRET, np.float32)))
            error = await refusal(stub.Predict(request("m", x=np.ones((64, 0), np.float32))))
            assert error.code is grpc.StatusCode.INVALID_ARGUMENT
            assert "inputs.x: expected 1 or more along axis 1" in error.message
        answer = await stub.Predict(request("m", x=np.full((2, 3), 5, np.float32)))
    np.testing.assert_array_equal(outputs_of(answer)["y"], [[5], [5], [1]])


@pytest.mark.parametrize("isolation", ["thread", "process"])
@pytest.mark.parametrize("element", [FLOAT, TensorProto.BFLOAT16])
async def test_an_output_that_is_not_computed_from_nothing_is_refused(
    publish_model, start_server, isolation, element
) -> None:
    nodes = [
        node("Cast", "x", "numbers", to=FLOAT),
        node("QuantizeLinear", "numbers scale point", "q"),
        node("QLinearSoftmax", "q scale point scale point", domain="com.microsoft", opset=18, axis=1),
    ]
    versions = {"": 18, "com.microsoft": 1}
    publish_model("m", "1.0.0", graph(nodes, {"x": (element, ["n", 4])}, {"y": (UINT8, 2)}, CUT, versions))
    server = await start_server(runtime=Runtime(isolation=isolation))
    dtype = ml_dtypes.bfloat16 if element == TensorProto.BFLOAT16 else np.float32
    async with stub_of(server) as stub:
        error = await refusal(stub.Predict(request("m", x=np.ones((0, 4), dtype))))
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert "the model computes no y from them" in error.message
        answer = await stub.Predict(request("m", x=np.ones((1, 4), dtype)))
    assert outputs_of(answer)["y"].shape == (1, 4)
