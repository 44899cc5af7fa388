"""Operators are found wherever a model has them, and no statement of a model about its sizes is believed."""

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto

import onnx_models
from nested_models import CLAIMS, PLACES, UNUSUAL
from turnout.registry.manifest.signature import DataType, Signature, TensorSpec
from turnout.registry.onnx.graph_reader import describe
from turnout.serving.isolation.empty_inputs import in_step, never_empty
from turnout.serving.isolation.hazards import find_hazard

EVERYWHERE = {**PLACES, **UNUSUAL}


def answers(proto: ModelProto, **inputs: np.ndarray) -> np.ndarray:
    (answer,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(["y"], inputs)
    return answer


@pytest.mark.parametrize("place", EVERYWHERE)
def test_a_product_over_a_free_dimension_is_found(place) -> None:
    proto = onnx_models.integer_product()
    moved = EVERYWHERE[place](proto)
    given = {name: np.random.default_rng(1).integers(0, 256, (4, 4), np.uint8) for name in "ab"}
    np.testing.assert_array_equal(answers(moved, **given), answers(proto, **given))
    assert {("a", 1), ("b", 0)} <= never_empty(describe(moved))


@pytest.mark.parametrize("place", EVERYWHERE)
def test_a_picture_that_may_be_empty_is_found(place) -> None:
    moved = describe(EVERYWHERE[place](onnx_models.regions()))
    assert {("x", axis) for axis in range(4)} <= never_empty(moved)
    assert find_hazard(moved) is not None


@pytest.mark.parametrize("place", ["in a branch", "in a loop", "deep"])
def test_a_picture_that_comes_out_of_a_place_may_be_empty(place) -> None:
    proto = onnx_models.regions()
    halved = onnx_models.model(
        [proto.graph.node[0]],
        proto.graph.input[:1],
        [onnx_models.tensor("halved", TensorProto.FLOAT, [1, 1, "h", "w"])],
        proto.graph.initializer,
    )
    moved = PLACES[place](halved)
    moved.graph.node.append(proto.graph.node[1])
    moved.graph.input.extend(proto.graph.input[1:])
    del moved.graph.output[:]
    moved.graph.output.extend(proto.graph.output)
    boxes, pictures = np.array([[0, 0, 3, 3]], np.float32), np.zeros(1, np.int64)
    assert answers(moved, x=np.ones((1, 1, 4, 4), np.float32), boxes=boxes, pictures=pictures).shape == (1, 1, 2, 2)
    assert {("x", axis) for axis in range(4)} <= never_empty(describe(moved))


@pytest.mark.parametrize("place", EVERYWHERE)
def test_rows_that_are_put_beside_each_other_are_found(place) -> None:
    proto = onnx_models.side_by_side()
    inputs = [TensorSpec(name, DataType.FLOAT32, (size, 64)) for name, size in (("a", "n"), ("b", "m"))]
    moved = EVERYWHERE[place](proto)
    assert answers(moved, a=np.ones((2, 64), np.float32), b=np.ones((2, 64), np.float32)).shape == (2, 128)
    assert [dict(group) for group in in_step(describe(moved), Signature(tuple(inputs), ()))] == [{"a": 0, "b": 0}]


@pytest.mark.parametrize("claim", CLAIMS)
def test_what_a_model_says_about_sizes_hides_no_hazard(claim) -> None:
    proto = CLAIMS[claim]()
    assert answers(proto, x=np.ones((2, 1, 2), np.float32)).shape == (2, 1, 1, 2)
    assert "LSTM" in str(find_hazard(describe(proto)))
