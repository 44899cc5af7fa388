"""NaN and infinity in outputs are seen in every type, at every size and place."""

import warnings

import ml_dtypes
import numpy as np
import pytest

from turnout.serving.counting.finite import all_finite

FLOATS = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [1, 7, 8192, 8193, 20_000])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_no_number_is_seen(dtype, size, value) -> None:
    output = np.ones(size).astype(dtype)
    assert all_finite([output])
    for place in {0, size // 2, size - 1}:
        spoiled = output.copy()
        spoiled[place] = value
        assert not all_finite([output, spoiled])


@pytest.mark.parametrize("dtype", FLOATS)
def test_large_numbers_are_numbers(dtype) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all_finite([np.full(100, ml_dtypes.finfo(dtype).max, dtype)])


def test_what_cannot_hold_them_is_finite() -> None:
    outputs = [np.array(["nan"], object), np.array([2**63 - 1]), np.array([True]), np.zeros(0, np.float32)]
    assert all_finite([*outputs, np.ones((2, 3, 4), np.float32).T])
    assert all_finite([])
