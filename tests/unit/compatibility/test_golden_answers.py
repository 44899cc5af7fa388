"""What a golden case expects is compared with what was answered, value by value, and in no lesser form."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from semver import Version

from turnout.registry.compatibility.agreement import differs, largest_difference
from turnout.registry.compatibility.golden_answers import accuracy_of, answer_faults
from turnout.registry.compatibility.sandbox import ExampleResult
from turnout.registry.manifest.manifest import MODEL_FILE, FileEntry, Manifest, Tolerance
from turnout.registry.manifest.signature import DataType, Signature, TensorSpec
from turnout.registry.storage.golden import GoldenCase

NAN, INFINITY = float("nan"), float("inf")


def _manifest(dtype: DataType, **declared: Any) -> Manifest:
    files = (FileEntry(MODEL_FILE, 1, "sha256:" + "0" * 64),)
    signature = Signature((), (TensorSpec("y", dtype, (None, None)),))
    return Manifest("m", Version(1), files, signature, {"": 17}, 8, **declared)


def _array(value: Any) -> NDArray[Any]:
    array = np.asarray(value)
    return array.astype(object) if array.dtype.kind == "U" else array


def faults(got: Any, expected: Any, dtype: DataType = DataType.FLOAT32, **declared: Any) -> list[str]:
    answer = ExampleResult("one", True, {"y": _array(got)})
    return list(answer_faults(_manifest(dtype, **declared), GoldenCase("one", {}, {"y": _array(expected)}), answer))


def accuracy(got: Any, labels: Any) -> tuple[int, int] | None:
    case = GoldenCase("one", {}, {}, {"y": np.asarray(labels, np.int64)})
    found = accuracy_of(_manifest(DataType.FLOAT32), {"one": case}, {"one": ExampleResult("one", True, {"y": got})})
    return None if found is None else (found.right, found.rows)


TWO = np.full((1, 2), 2, np.float32)


@pytest.mark.parametrize(
    ("expected", "kind"),
    [
        (np.full((1, 2), 2 + 5j, np.complex64), "complex64"),
        (np.full((1, 2), 2, "M8[s]"), "datetime64[s]"),
        (np.full((1, 2), 2, "m8[s]"), "timedelta64[s]"),
        (np.full((1, 2), b"2"), "|S1"),
        (np.zeros((1, 2), "V4"), "|V4"),
        (np.full((1, 2), "2"), "text"),
    ],
)
def test_expected_values_of_a_kind_that_no_output_has_are_a_fault(expected: NDArray[Any], kind: str) -> None:
    assert faults(TWO, expected) == [f"case one: output y is float32, and cannot be compared with {kind}"]


@pytest.mark.parametrize("element", [np.float64, np.float16, np.int64, np.uint8])
def test_expected_numbers_may_have_another_dtype(element: type) -> None:
    assert faults(TWO, TWO.astype(element)) == []


def test_text_is_compared_with_text_only() -> None:
    assert faults([["a"]], [["a"]], DataType.STRING) == []
    assert faults([["a"]], [[2.0]], DataType.STRING) == [
        "case one: output y is text, and cannot be compared with float64"
    ]
    assert faults([["a", "x"]], [["a", "\x1b"]], DataType.STRING) == [
        "case one: output y is off by inf (must be equal): 'x' instead of '\\x1b' at [0, 1]"
    ]


@pytest.mark.parametrize(
    ("got", "expected", "difference"),
    [([2, NAN], [2, 3], "nan instead of 3 at [1]"), ([INFINITY, NAN], [-INFINITY, NAN], "inf instead of -inf at [0]")],
)
def test_a_difference_that_is_no_number_is_shown(got: list[float], expected: list[float], difference: str) -> None:
    (fault,) = faults(np.float32(got), np.float32(expected))
    assert fault == f"case one: output y is off by inf (allowed 1e-05 + 0.001 * value): {difference}"


LARGE = 2**53


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (np.array([LARGE + 1]), np.array([LARGE])),
        (np.array([LARGE + 1], np.uint64), np.array([LARGE], np.uint64)),
        (np.array([2**63 + 1], np.uint64), np.array([2**63], np.uint64)),
        (np.array([LARGE + 1]), np.array([float(LARGE)])),
        (np.array([1]), np.array([1.5])),
        (np.array([0]), np.array([NAN])),
    ],
)
def test_integers_are_compared_exactly(got: NDArray[Any], expected: NDArray[Any]) -> None:
    assert differs(got, expected, None)
    assert faults(got, expected, DataType.INT64)
    if got.dtype == expected.dtype:
        assert differs(got, expected, Tolerance(0.5, 0.0))
        assert not differs(got, expected, Tolerance(1.0, 0.0))
        assert largest_difference(got, expected) == 1


def test_the_difference_of_the_extremes_of_an_integer_fits() -> None:
    ends = np.iinfo(np.int64)
    assert largest_difference(np.array([ends.min]), np.array([ends.max])) == float(2**64)
    assert largest_difference(np.array([-1], np.int8), np.array([1], np.int8)) == 2


def test_a_row_with_a_score_that_is_no_number_is_wrong() -> None:
    assert accuracy(np.array([[NAN, NAN], [1, 0], [NAN, 5]]), [0, 0, 0]) == (1, 3)


def test_rows_without_labels_count_for_nothing() -> None:
    assert accuracy(np.zeros((0, 3)), []) == (0, 0)


@pytest.mark.parametrize(
    ("got", "labels", "fault"),
    [
        (np.zeros((1, 0)), [0], "has 0 classes, and the label 0 is none of them"),
        (np.zeros((1, 3)), [3], "has 3 classes, and the label 3 is none of them"),
        (np.zeros((1, 3)), [-1], "has 3 classes, and the label -1 is none of them"),
        (np.full((1, 3), "a", object), [0], "is text, and labels are compared with scores"),
        (np.zeros((3, 5)), [0, 1], "has shape (3, 5) for 2 labels"),
        (np.zeros(2), [0, 1], "has shape (2,) for 2 labels"),
    ],
)
def test_labels_that_an_answer_has_no_scores_for_are_a_fault(got: NDArray[Any], labels: list[int], fault: str) -> None:
    case = GoldenCase("one", {}, {}, {"y": np.asarray(labels)})
    found = answer_faults(_manifest(DataType.FLOAT32), case, ExampleResult("one", True, {"y": got}))
    assert found == [f"case one: output y {fault}"]
    assert accuracy(got, labels) is None
