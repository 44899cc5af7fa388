"""The weights of a version are found wherever its file has them."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_models
from nested_models import PLACES
from turnout.registry.diff.weight_changes import compare_weights
from turnout.registry.onnx.weights import read_weights


def _version(home: Path, place: str, factor: float) -> Path:
    """Writes a model that multiplies x by the value of a Constant node."""
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.float32([factor]), "factor"))
    x, y = (onnx_models.tensor(name, TensorProto.FLOAT, ["n", 4]) for name in "xy")
    proto = onnx_models.model([constant, helper.make_node("Mul", ["x", "c"], ["y"])], [x], [y])
    home.mkdir()
    onnx_models.save(PLACES[place](proto), home / "model.onnx")
    return home


@pytest.mark.parametrize("place", PLACES)
def test_weights_that_differ_are_told_apart_wherever_they_are(tmp_path, place) -> None:
    old, new = (_version(tmp_path / name, place, factor) for name, factor in (("old", 2.0), ("new", 3.0)))
    assert read_weights(old).contents != read_weights(new).contents
    assert read_weights(old).operators == read_weights(new).operators
    assert {change.relative for change in compare_weights(old, new).changed} == {0.5}
