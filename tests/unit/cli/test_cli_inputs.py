"""What `turnout predict --input` makes of files, JSON and `random`."""

import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from turnout.cli.serve.inputs import dtype_name, json_elements, missing, read_inputs, summary
from turnout.errors import InvalidRequest, InvalidTensor
from turnout.registry.manifest.signature import DataType, Signature, TensorSpec

SIGNATURE = Signature(
    (
        TensorSpec("x", DataType.FLOAT32, ("batch", 4)),
        TensorSpec("n", DataType.INT8, (None,)),
        TensorSpec("words", DataType.STRING, ("batch",)),
        TensorSpec("flag", DataType.BOOL, ()),
        TensorSpec("half", DataType.BFLOAT16, (2,)),
        TensorSpec("bias", DataType.FLOAT32, (4,), has_default=True),
    ),
    (),
)


def read(argument: str) -> np.ndarray:
    (array,) = read_inputs([argument], SIGNATURE).values()
    return array


def fault(argument: str, error: type[InvalidRequest] = InvalidTensor) -> str:
    with pytest.raises(error) as caught:
        read(argument)
    return caught.value.message


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("x=[[1, 2.5, 3, 4]]", np.array([[1, 2.5, 3, 4]], np.float32)),
        ("x=[]", np.array([], np.float32)),
        ("n=[1, -128]", np.array([1, -128], np.int8)),
        ('words=["a", "b=c", ""]', np.array(["a", "b=c", ""], object)),
        ("flag=true", np.array(True)),
        ("half=[1, 0.5]", np.array([1, 0.5], ml_dtypes.bfloat16)),
        ('x=[NaN, -Infinity, "Infinity"]', np.array([math.nan, -math.inf, math.inf], np.float32)),
    ],
)
def test_json_becomes_an_array_of_the_inputs_dtype(argument: str, expected: np.ndarray) -> None:
    array = read(argument)
    assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("n=[1.5]", "inputs.n: expected int8 elements, got 1.5"),
        ("n=[true]", "inputs.n: expected int8 elements, got true"),
        ("n=[128]", "inputs.n: a number is out of the range of int8"),
        ("x=[null]", "inputs.x: expected float32 elements, got null"),
        ('x=["1"]', 'inputs.x: expected float32 elements, got "1"'),
        ("words=[1]", "inputs.words: expected string elements, got 1"),
        ("flag=1", "inputs.flag: expected bool elements, got 1"),
        ("x=[[1], [2, 3]]", "inputs.x: expected JSON lists of one length at each depth"),
        ("n=[NaN]", "inputs.n: expected int8 elements, got NaN"),
        ("words=[NaN]", "inputs.words: expected string elements, got NaN"),
        ("x=[1, [2]]", "inputs.x: expected JSON lists of one length at each depth"),
    ],
)
def test_nothing_is_rounded_cut_off_or_read_as_another_kind(argument: str, message: str) -> None:
    assert fault(argument) == message


def test_random_values_fit_the_signature_with_free_dimensions_of_1() -> None:
    assert (read("x=random").shape, read("x=random").dtype) == ((1, 4), np.float32)
    assert (read("n=random").shape, read("n=random").dtype) == ((1,), np.int8)
    assert read("words=random").dtype == object
    assert np.array_equal(read("x=random"), read("x=random"))


def test_random_takes_a_shape() -> None:
    assert read("x=random:3x4").shape == (3, 4)
    assert read("x=random:0").shape == (0,)
    assert read("x=random:scalar").shape == ()
    assert "random:4x64" in fault("x=random:3,4")


def test_a_file_is_sent_as_it_is(tmp_path: Path) -> None:
    for name, array in {
        "x": np.arange(8, dtype=np.float64).reshape(2, 4),
        "words": np.array(["a", "ü"]),
        "half": np.array([1, 2], ml_dtypes.bfloat16),
    }.items():
        np.save(tmp_path / f"{name}.npy", array)
    assert read(f"x=@{tmp_path}/x.npy").dtype == np.float64
    assert read(f"words=@{tmp_path}/words.npy").tolist() == ["a", "ü"]
    assert read(f"half=@{tmp_path}/half.npy").dtype == ml_dtypes.bfloat16


def test_a_file_that_holds_no_plain_array_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "empty.npy").touch()
    np.save(tmp_path / "pickled.npy", np.array([object()]), allow_pickle=True)
    np.savez(tmp_path / "many.npz", a=np.zeros(1))
    for name in ("text.npy", "empty.npy", "pickled.npy", "many.npz"):
        assert "is not an .npy file of plain elements" in fault(f"x=@{tmp_path}/{name}")
    for text in ("[1e999]", "[NaN, 1e999]", "[nan]", "[1", "one"):
        assert f"expected @FILE.npy, JSON, random or random:4x64, got {text!r} (" in fault(f"x={text}")
    assert "No such file" in fault(f"x=@{tmp_path}/nowhere.npy")


def test_an_argument_names_an_input_of_the_model_once() -> None:
    assert "there are: x: float32[batch, 4]" in fault("y=1")
    assert "expected NAME=@FILE.npy" in fault("x", InvalidRequest)
    assert "expected NAME=@FILE.npy" in fault("x=", InvalidRequest)
    with pytest.raises(InvalidRequest, match="given twice"):
        read_inputs(["x=random", "x=random"], SIGNATURE)


def test_inputs_with_a_default_may_be_left_out() -> None:
    given = read_inputs(["x=random", "n=random", "flag=true"], SIGNATURE)
    assert [spec.name for spec in missing(given, SIGNATURE)] == ["words", "half"]


def test_outputs_become_json_values() -> None:
    assert json_elements(np.array([1, 2], ml_dtypes.bfloat16)) == [1.0, 2.0]
    assert json_elements(np.array(["a", "b"], object)) == ["a", "b"]
    assert json_elements(np.array([[True]])) == [[True]]
    assert math.isnan(json_elements(np.array(math.nan)))
    assert (dtype_name(np.array(["a"], object)), dtype_name(np.zeros(1, ml_dtypes.bfloat16))) == ("string", "bfloat16")


def test_a_summary_is_one_line_of_the_first_and_last_elements() -> None:
    assert summary(np.arange(10_000)) == "[ 0 1 2 ... 9997 9998 9999]"
    assert "\n" not in summary(np.zeros((100, 100)))
