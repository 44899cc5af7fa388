"""A request is checked against the signature, and all that is wrong is told at once."""

import numpy as np
import pytest

from turnout.errors import InvalidTensor
from turnout.registry.manifest.signature import DataType, Signature, TensorSpec
from turnout.serving.inputs.validation import Validator

VALIDATOR = Validator(
    Signature(
        (
            TensorSpec("x", DataType.FLOAT32, ("N", 4)),
            TensorSpec("bias", DataType.FLOAT32, (4,), has_default=True),
            TensorSpec("word", DataType.STRING, ()),
        ),
        (TensorSpec("y", DataType.FLOAT32, ("N", 4)), TensorSpec("z", DataType.INT64, ())),
    )
)
X = np.zeros((2, 4), np.float32)
WORD = np.array("a", dtype=object)


def test_free_dimensions_take_any_size_and_defaults_may_be_left_out() -> None:
    for rows in (0, 1, 7):
        assert VALIDATOR.check({"x": np.zeros((rows, 4), np.float32), "word": WORD}, ()) == ["y", "z"]


def test_wanted_outputs_keep_their_order() -> None:
    assert list(VALIDATOR.check({"x": X, "word": WORD}, ["z", "y"])) == ["z", "y"]


@pytest.mark.parametrize(("rows", "others", "taken"), [(2, 0, False), (0, 1, False), (0, 0, True), (2, 1, True)])
def test_inputs_are_empty_together_where_the_graph_takes_them_for_equal_in_size(rows, others, taken) -> None:
    signature = Signature(tuple(TensorSpec(name, DataType.FLOAT32, ("N", "M")) for name in "ab"), ())
    two = Validator(signature, [[("a", 0), ("b", 0)]])
    inputs = {"a": np.zeros((rows, 3), np.float32), "b": np.zeros((others, 3), np.float32)}
    if taken:
        assert two.check(inputs, ()) == []
        return
    with pytest.raises(
        InvalidTensor, match=rf"inputs\.b: expected {rows} along axis 0, as inputs\.a has, got {others}"
    ):
        two.check(inputs, ())


def test_an_empty_input_may_not_claim_sizes_that_no_message_could_fill() -> None:
    wide = Validator(Signature((TensorSpec("x", DataType.FLOAT32, ("N", "M", "K")),), ()))
    assert wide.check({"x": np.empty((0, 1000, 1000), np.float32)}, ()) == []
    for shape in ((2**31, 0, 4), (0, 2**40, 1), (2**20, 0, 2**20)):
        with pytest.raises(InvalidTensor, match="beside its dimension of 0"):
            wide.check({"x": np.empty(shape, np.float32)}, ())


@pytest.mark.parametrize(
    ("inputs", "outputs", "fields"),
    [
        ({}, (), {"inputs.x", "inputs.word"}),
        ({"x": X}, (), {"inputs.word"}),
        ({"x": X, "word": WORD, "q": X}, (), {"inputs.q"}),
        ({"x": X.astype(np.float64), "word": X}, (), {"inputs.x", "inputs.word"}),
        ({"x": X[0], "word": WORD}, (), {"inputs.x"}),
        ({"x": np.zeros((2, 5), np.float32), "word": WORD}, (), {"inputs.x"}),
        ({"x": X, "word": WORD}, ["y", "nope"], {"outputs.nope"}),
        ({"x": X, "word": WORD}, ["y", "y"], {"outputs"}),
    ],
)
def test_everything_wrong_is_told_by_field(inputs, outputs, fields) -> None:
    with pytest.raises(InvalidTensor) as refused:
        VALIDATOR.check(inputs, outputs)
    assert {violation.field for violation in refused.value.violations} == fields
