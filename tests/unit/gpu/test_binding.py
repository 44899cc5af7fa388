"""IO binding, driven on the CPU provider: the same calls as on CUDA, over ordinary host memory."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from onnx_models import identity, matmul, string_identity
from turnout.config import Runtime
from turnout.registry.onnx.model import read_model
from turnout.serving.sessions.io_binding import BoundRunner, HostBuffer, bindable, pageable
from turnout.serving.sessions.providers import CPU
from turnout.serving.sessions.session import Session
from turnout.serving.sessions.spec import SessionSpec


@pytest.fixture
def session(tmp_path: Path):
    def make(model: onnx.ModelProto) -> Session:
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        return Session(SessionSpec(path, read_model(path).signature, [CPU], 0, Runtime()))

    return make


@pytest.mark.parametrize(
    ("element", "dtype"),
    [
        (TensorProto.FLOAT, np.float32),
        (TensorProto.FLOAT16, np.float16),
        (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
        (TensorProto.INT64, np.int64),
        (TensorProto.UINT8, np.uint8),
        (TensorProto.BOOL, np.bool_),
    ],
)
def test_a_bound_run_gives_what_a_plain_run_gives(session, element, dtype) -> None:
    x = (np.arange(8) % 2).reshape(2, 4).astype(dtype)
    model = identity(element)
    name, out = model.graph.input[0].name, model.graph.output[0].name
    with BoundRunner(session(model), pageable) as run:
        (got,) = run({name: x}, [out])
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(got, x)


def test_empty_tensors_are_bound_too(session) -> None:
    model = identity()
    with BoundRunner(session(model), pageable) as run:
        (got,) = run({model.graph.input[0].name: np.empty((0, 4), np.float32)}, [model.graph.output[0].name])
    assert got.shape == (0, 4)


def test_models_with_strings_are_not_bound(tmp_path) -> None:
    for model, expected in ((string_identity(), False), (identity(), True)):
        path = tmp_path / f"{expected}.onnx"
        onnx.save(model, path)
        assert bindable(read_model(path).signature) is expected


def test_a_buffer_is_reused_until_it_is_too_small(session) -> None:
    made: list[int] = []

    def allocate(size: int) -> HostBuffer:
        made.append(size)
        return pageable(size)

    with BoundRunner(session(matmul()), allocate) as run:
        for rows in (1, 3, 4, 2, 9, 8):
            run({"x": np.zeros((rows, 64), np.float32)}, ["y"])
    assert made == [256, 1024, 4096]


def test_an_answer_outlives_the_next_run(session) -> None:
    made = session(matmul())
    first, second = np.ones((1, 64), np.float32), np.full((1, 64), 2, np.float32)
    with BoundRunner(made, pageable) as run:
        (kept,) = run({"x": first}, ["y"])
        run({"x": second}, ["y"])
    np.testing.assert_allclose(kept, made.run({"x": first}, ["y"])[0], rtol=1e-5)


def test_leaving_the_context_frees_every_buffer(session) -> None:
    freed: list[int] = []

    def allocate(size: int) -> HostBuffer:
        buffer = pageable(size)
        return HostBuffer(size, buffer.address, buffer, lambda: freed.append(size))

    with BoundRunner(session(matmul()), allocate) as run:
        run({"x": np.zeros((1, 64), np.float32)}, ["y"])
        run({"x": np.zeros((2, 64), np.float32)}, ["y"])
    assert freed == [256, 512]
