import ml_dtypes
import numpy as np
import pytest

from turnout.errors import InvalidRequest
from turnout.oip.extensions.classification import classify


def test_the_highest_come_first_with_their_indices():
    values = np.array([0.25, 2.0, -1.0, 0.5], np.float32)

    assert classify("y", values, 3, by_rows=False).tolist() == ["2.000000:1", "0.500000:3", "0.250000:0"]


def test_each_row_of_a_batch_is_classified_by_itself():
    values = np.array([[[1, 3]], [[9, 7]]], np.int64)

    top = classify("y", values, 1, by_rows=True)

    assert top.shape == (2, 1)
    assert top.tolist() == [["3:1"], ["9:0"]]


def test_without_rows_a_table_is_one_list():
    assert classify("y", np.array([[1, 3], [9, 7]]), 2, by_rows=False).tolist() == ["9:2", "7:3"]


def test_no_more_classes_come_than_there_are():
    assert classify("y", np.zeros(2, np.float64), 10, by_rows=False).shape == (2,)
    assert classify("y", np.zeros((3, 0), np.float32), 10, by_rows=True).shape == (3, 0)
    assert classify("y", np.zeros(0, np.float32), 10, by_rows=False).shape == (0,)


def test_an_empty_batch_has_no_rows():
    assert classify("y", np.zeros((0, 4), np.float32), 2, by_rows=True).shape == (0, 2)


def test_labels_stand_behind_the_indices_that_they_have():
    values = np.array([[1, 3, 2]], np.int64)
    assert classify("y", values, 3, ["a", "b:c"], by_rows=True).tolist() == [["3:1:b:c", "2:2", "1:0:a"]]


def test_equal_values_stand_by_index():
    assert classify("y", np.array([1, 1, 1], np.uint8), 3, by_rows=False).tolist() == ["1:0", "1:1", "1:2"]


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint8, np.uint64])
def test_the_ends_of_whole_numbers_rank_right(dtype):
    bounds = np.iinfo(dtype)
    values = np.array([bounds.min, bounds.max], dtype)

    assert classify("y", values, 2, by_rows=False).tolist() == [f"{bounds.max}:1", f"{bounds.min}:0"]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_floats_rank_too(dtype):
    assert classify("y", np.array([0.5, 1.5], dtype), 1, by_rows=False).tolist() == ["1.500000:1"]


def test_what_is_no_number_comes_last():
    values = np.array([np.nan, 1.0, -np.inf], np.float32)

    assert classify("y", values, 3, by_rows=False).tolist() == ["1.000000:1", "-inf:2", "nan:0"]


@pytest.mark.parametrize("values", [np.array(["a"], object), np.array([True])], ids=["text", "bool"])
def test_only_numbers_are_ranked(values):
    with pytest.raises(InvalidRequest, match="classification"):
        classify("y", values, 1, by_rows=False)
