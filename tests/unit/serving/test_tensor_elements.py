"""The elements of outputs as bytes: the same in one part or two, whatever the type and the layout."""

import ml_dtypes  # noqa: F401 - makes `bfloat16` known to NumPy
import numpy as np
import pytest

from turnout.serving.sessions.tensor import elements_of


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool", "complex64", "float16", "int64", "uint8"])
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (3, 5), (400, 700), (1, 131_072), (131_073, 1)])
@pytest.mark.parametrize("layout", ["C", "F", "strided"])
def test_the_parts_of_the_elements_are_all_of_them(dtype: str, shape: tuple[int, ...], layout: str) -> None:
    values = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    array = np.asarray(values, order="F") if layout == "F" else values
    if layout == "strided" and shape:
        array = np.repeat(values, 2, axis=-1)[..., ::2]
    parts = elements_of(array)
    assert b"".join(parts) == values.tobytes()
    assert len(parts[-1]) <= 131_072  # what is last is copied once more
