"""Real models and every element type on CUDA: each answer is the one that ONNX Runtime gives on the CPU."""

import asyncio

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto
from semver import Version

from onnx_models import bfloat16_cast, identity, scalar, string_identity
from real_models import answer_of, direct_session, random_inputs
from turnout.serving.sessions.providers import CUDA
from wire import outputs_of, request, stub_of
from zoo import WHEELS, fetch

pytestmark = pytest.mark.gpu


async def test_every_real_model_answers_as_on_the_cpu(publish_model, start_server) -> None:
    for model, version in WHEELS:
        publish_model(model, version, fetch(model, version))
    server = await start_server()
    async with stub_of(server) as stub:
        for model, version in WHEELS:
            entry = server.services.catalog.snapshot.models[model].versions[Version.parse(version)]
            assert entry.providers[0] == CUDA, entry.reason
            given = [random_inputs(model, version, seed) for seed in range(24)]
            answers = await asyncio.gather(*(stub.Predict(request(model, version, **inputs)) for inputs in given))
            session = direct_session(fetch(model, version))
            for inputs, answer in zip(given, answers, strict=True):
                got = outputs_of(answer)
                for name, value in answer_of(session, inputs).items():
                    np.testing.assert_allclose(got[name], value, rtol=1e-3, atol=1e-3, err_msg=f"{model} {version}")


@pytest.mark.parametrize(
    ("model", "value"),
    [
        (identity(TensorProto.BOOL), np.array([[True, False, True, True]])),
        (identity(TensorProto.UINT8), np.array([[0, 1, 2, 255]], np.uint8)),
        (identity(TensorProto.INT64), np.array([[-(2**62), 0, 1, 2**62]], np.int64)),
        (identity(TensorProto.FLOAT16), np.array([[0.5, -1, 2, 6e4]], np.float16)),
        (identity(TensorProto.BFLOAT16), np.array([[0.5, -1, 2, 3e38]], ml_dtypes.bfloat16)),
        (identity(TensorProto.DOUBLE), np.array([[1e-300, 0, 1, 1e300]])),
        (identity(), np.empty((0, 4), np.float32)),
        (string_identity(), np.array(["a", "", "é\u4e2d"], object)),
    ],
    ids=["bool", "uint8", "int64", "float16", "bfloat16", "float64", "empty", "string"],
)
async def test_a_tensor_comes_back_as_it_was(publish_model, start_server, model, value) -> None:
    publish_model("m", "1.0.0", model)
    async with stub_of(await start_server()) as stub:
        answer = await stub.Predict(request("m", x=value))
    (got,) = outputs_of(answer).values()
    assert got.dtype == value.dtype
    np.testing.assert_array_equal(got, value)


async def test_scalars_and_bfloat16_run_inside_a_model(publish_model, start_server) -> None:
    publish_model("twice", "1.0.0", scalar())
    publish_model("single", "1.0.0", bfloat16_cast())
    async with stub_of(await start_server()) as stub:
        (twice,) = outputs_of(await stub.Predict(request("twice", x=np.float32(2.5)))).values()
        given = np.array([[1.5, -2.0]], ml_dtypes.bfloat16)
        (single,) = outputs_of(await stub.Predict(request("single", x=given))).values()
    assert (twice.shape, float(twice)) == ((), 5.0)
    np.testing.assert_array_equal(single, [[1.5, -2.0]])
