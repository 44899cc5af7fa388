"""All the real models at once: each answer is ONNX Runtime's own, whatever names the version."""

from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from semver import Version

from processes import Server, serving_in_thread
from real_models import answer_of, direct_session, random_inputs
from turnout.config import Settings
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout.releases.release import ReleaseStateWriter
from turnout.state.store import StateStore
from turnout_client import Client
from wire import outputs_of, refusal, request, stub_of
from zoo import WHEELS, fetch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves every real model, all released; magika 3.2.0 is tagged stable. No test changes anything of it."""
    models = tmp_path_factory.mktemp("real") / "models"
    repository = Repository(models)
    with StateStore.open(Settings(models=models).state_url) as store:
        release_writer = ReleaseStateWriter(repository, store)
        for model, number in WHEELS:
            version = Version.parse(number)
            publish(repository, PublishRequest(model, version, fetch(model, number)))
            store.release(model, version, actor="test", reason="")
        release_writer.set_tag("magika", "stable", Version(3, 2, 0), actor="test", reason="")
    with serving_in_thread(models) as running:
        with Client(running.grpc) as client:
            for model, number in WHEELS:
                client.wait_ready(model, number, timeout=100)
        yield running


async def test_every_real_model_answers_as_onnx_runtime_does(server: Server) -> None:
    async with stub_of(server) as stub:
        for model, version in WHEELS:
            session = direct_session(fetch(model, version))
            for seed in range(3):
                inputs = random_inputs(model, version, seed)
                answer = await stub.Predict(request(model, version, **inputs))
                assert answer.route.version == version
                for name, expected in answer_of(session, inputs).items():
                    np.testing.assert_allclose(outputs_of(answer)[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("selector", "version"),
    [("^1", "1.0.0"), ("1", "1.0.0"), ("^3", "3.3.0"), ("~3.2", "3.2.0"), (">=1 <3.3", "3.2.0"), ("", "3.3.0"),
     ("latest", "3.3.0"), ("stable", "3.2.0"), ("v3.2.0", "3.2.0"), ("1.x || 2.x", "1.0.0")],
)  # fmt: skip
async def test_each_selector_reaches_its_version(server: Server, selector: str, version: str) -> None:
    async with stub_of(server) as stub:
        answer = await stub.Predict(request("magika", selector, **random_inputs("magika", version, 0)))
    assert answer.route.version == version


async def test_silero_is_batched_along_its_states_second_axis(publish_model, start_server) -> None:
    publish_model("silero", "6.2.3", fetch("silero", "6.2.3"))
    server = await start_server()
    entry = server.services.catalog.snapshot.models["silero"].versions[Version(6, 2, 3)]
    assert "input axis 0, state axis 1" in entry.batching


async def test_a_request_of_no_rows_ends_no_server_of_silero(server: Server) -> None:
    """ONNX Runtime's LSTM aborts the process on it."""
    empty = {"input": np.empty((0, 512), np.float32), "state": np.empty((2, 0, 128), np.float32), "sr": np.array(16000)}
    async with stub_of(server) as stub:
        assert (await refusal(stub.Predict(request("silero", **empty)))).code is grpc.StatusCode.INTERNAL
        answer = await stub.Predict(request("silero", **random_inputs("silero", "6.2.3", 0)))
    assert answer.route.version == "6.2.3"
