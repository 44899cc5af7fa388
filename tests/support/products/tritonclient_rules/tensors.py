"""Inputs for the models that the server under test holds; `tests/e2e/clients/test_tritonclient.py` publishes them."""

import numpy as np
from tritonclient.grpc import InferInput
from tritonclient.utils import np_to_triton_dtype

X = np.array([[1.0, -2.0, 0.5, 4.0]], np.float32)

FACTORS = {"": 3, "1.9.0": 2, "v1.9.0": 2, "1.10.0": 3, "^1.9": 3, "~1.9.0": 2, "2.0.0": 5, "stable": 2, "latest": 3}
"""By selector: what the version of `scale` that answers it multiplies with. 2.0.0 is a candidate."""

VERSIONS = {2: "1.9.0", 3: "1.10.0", 5: "2.0.0"}


def tensor(name: str, array: np.ndarray) -> InferInput:
    """Makes an input, its elements raw."""
    made = InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made


def rounds(count: int) -> list[InferInput]:
    """Makes the inputs of `slow`, which takes as long as `count` says; 60,000 is about half a second."""
    return [tensor("x", X), tensor("n", np.array(count, np.int64))]
