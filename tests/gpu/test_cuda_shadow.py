"""Shadows on a GPU: a session of their own beside the live one, with a memory limit of its own."""

import numpy as np
import pytest

from onnx_models import grows, matmul, save
from routing_wire import policy, put
from shadow_wire import PATIENT, numbered, predict, settled
from turnout.config import Runtime
from turnout.errors import MemoryBudgetExceeded
from turnout.registry.onnx.model import read_model
from turnout.serving.isolation.session import IsolatedSession
from turnout.serving.sessions.memory import used_bytes
from turnout.serving.sessions.providers import CPU, CUDA
from turnout.serving.sessions.spec import SessionSpec

pytestmark = pytest.mark.gpu

MIB = 1024 * 1024
X = np.random.default_rng(3).standard_normal((2, 2048)).astype(np.float32)


@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_a_shadow_has_a_session_of_its_own_on_the_device(publish_model, start_server, isolation: str) -> None:
    publish_model("m", "1.0.0", matmul(2048))
    publish_model("m", "1.1.0", matmul(2048), release=False)
    limited = {"noise_rate": 0, "memory_limit_bytes": 64 * MIB, "isolation": isolation}
    server = await start_server(shadow=PATIENT | limited)
    before = used_bytes("cuda:0")
    await put(server, policy("1.0.0", {"1.1.0": 1.0}))
    live = await predict(server, numbered(50, x=X))
    assert live.errors == []
    comparison = await settled(server, "1.1.0", 50)
    assert dict(comparison.outcomes) == {"agreed": 50}
    assert used_bytes("cuda:0") - before >= 16 * MIB  # the weights once more


def test_a_child_keeps_to_its_arena_and_lives_on(tmp_path) -> None:
    path = save(grows(), tmp_path / "model.onnx")
    runtime = Runtime(arena_limit_bytes=64 * MIB)
    child = IsolatedSession(
        SessionSpec(path, read_model(path).signature, [CUDA, CPU], 0, runtime), memory_limit=256 * MIB
    )
    child.start()
    x = np.ones((1, 4), np.float32)
    try:
        for _ in range(2):
            with pytest.raises(MemoryBudgetExceeded):
                child.run({"x": x, "n": np.array(64 * MIB)}, ["y"], _never)
            (y,) = child.run({"x": x, "n": np.array(MIB)}, ["y"], _never)
            np.testing.assert_array_equal(y, x)
    finally:
        child.close()


def _never() -> bool:
    return False
