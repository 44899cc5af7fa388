"""Both clients, over both transports, against the server they are made for."""

import asyncio

import numpy as np
import pytest
import pytest_asyncio

from client_faults import BOUND, AnyClient
from onnx_models import matmul, scaled, slow, string_identity
from turnout_client import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    Role,
    Standing,
    Unimplemented,
    VersionState,
)

pytestmark = pytest.mark.both_transports

one_server = pytest.mark.asyncio(loop_scope="module")
"""Of tests that change nothing on the server which they share."""

X = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture
def connect(kind, transport):
    def to(server, **options):
        return AnyClient(kind, str(server.grpc), transport=transport, **options)

    return to


@pytest.fixture(scope="module")
def digests(publish_for_module):
    """Publishes what the tests ask that change nothing; of `m` the digests, by version."""
    publish_for_module("double", "1.0.0", scaled(2))
    publish_for_module("words", "1.0.0", string_identity())
    publish_for_module("slow", "1.0.0", slow())
    publish_for_module("square", "1.0.0", matmul(8))
    publish_for_module("square", "2.0.0-rc.1", matmul(8, seed=1), release=False)
    return {v: publish_for_module("m", v, scaled(float(v[0]))) for v in ("1.0.0", "1.10.0", "3.2.0")}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(digests, start_server_for_module):
    return await start_server_for_module()


@one_server
async def test_versions_answer_side_by_side(digests, server, connect) -> None:
    async with connect(server, version="^1") as client:
        for version, answers in (
            (None, "1.10.0"),
            ("", "3.2.0"),
            ("1.0.0", "1.0.0"),
            (digests["3.2.0"], "3.2.0"),
            ("~1.0", "1.0.0"),
        ):
            prediction = await client.predict("m", {"x": X}, version=version)
            assert prediction.version == answers
            assert prediction.digest == digests[answers]
            assert prediction.role is (Role.BASELINE if version == "" else Role.PINNED)
            np.testing.assert_array_equal(prediction["y"], float(answers[0]) * X)


@one_server
async def test_many_predictions_at_once_each_get_their_own(server, connect) -> None:
    async with connect(server) as client:
        answers = await asyncio.gather(*(client.predict("double", {"x": X + n}) for n in range(200)))
    for n, answer in enumerate(answers):
        np.testing.assert_array_equal(answer["y"], 2 * (X + n))


@one_server
async def test_text_goes_in_and_comes_out(server, connect) -> None:
    async with connect(server) as client:
        prediction = await client.predict("words", {"x": ["a", "žluť", ""]})
    assert prediction["y"].tolist() == ["a", "žluť", ""]


@one_server
async def test_what_is_wrong_with_an_input_is_told_field_by_field(server, connect) -> None:
    async with connect(server) as client:
        with pytest.raises(InvalidArgument) as caught:
            await client.predict("double", {"x": X.astype(np.float64)})
        (violation,) = caught.value.violations
        assert violation.field == "inputs.x"
        assert violation.description == "expected x: float32[batch, 4], got float64[2, 4]"
        with pytest.raises(InvalidArgument) as caught:
            await client.predict("double", {"x": X}, version="^^1")
        assert [violation.field for violation in caught.value.violations] == ["version"]
        with pytest.raises(NotFound, match=r"1\.0\.0"):
            await client.predict("double", {"x": X}, version="2.0.0")


@one_server
async def test_a_deadline_holds_on_both_sides(server, connect) -> None:
    async with connect(server) as client:
        await client.predict("slow", {"x": X[:1], "n": np.int64(1)})
        with pytest.raises(DeadlineExceeded):
            await client.predict("slow", {"x": X[:1], "n": np.int64(30_000)}, timeout=0.05)
        await client.predict("slow", {"x": X[:1], "n": np.int64(1)}, timeout=30)


@one_server
async def test_the_catalog_says_what_is_served(server, connect) -> None:
    async with connect(server) as client:
        models = await client.models()
        assert [model.name for model in models] == ["double", "m", "slow", "square", "words"]
        model = models[3]
        assert (model.name, model.default_version) == ("square", "1.0.0")
        assert [version.version for version in model.versions] == ["2.0.0-rc.1", "1.0.0"]
        assert [version.standing for version in model.versions] == [Standing.CANDIDATE, Standing.RELEASED]
        assert {version.state for version in model.versions} == {VersionState.READY}
        assert str(model.versions[1].inputs[0]) == "x: float32[batch, 8]"
        assert await client.get_model("square") == model
        assert await client.get_version("square", "1") == model.versions[1]
        with pytest.raises(NotFound, match="nobody"):
            await client.get_model("nobody")


async def test_waiting_for_the_server_and_for_a_model_of_it(publish_model, start_server, connect) -> None:
    publish_model("m", "1.0.0", scaled(1))
    async with connect(await start_server(wait=False)) as client:
        await client.wait_ready(timeout=30)
        await client.wait_ready("m", timeout=90)
        await client.wait_ready("m", "^1", timeout=30)
        with pytest.raises(DeadlineExceeded, match=r"model:m@\^2 was not ready within 0.2 s"):
            await client.wait_ready("m", "^2", timeout=0.2)


async def test_a_model_that_is_published_later_is_waited_for(publish_model, start_server, connect) -> None:
    publish_model("m", "1.0.0", scaled(1))
    async with connect(await start_server()) as client:
        waiting = asyncio.create_task(client.wait_ready("late", timeout=30))
        await asyncio.to_thread(publish_model, "late", "1.0.0", scaled(5))
        await waiting
        assert (await client.predict("late", {"x": X})).version == "1.0.0"


async def test_no_proxy_of_the_environment_comes_between_a_client_and_a_server_of_its_own_machine(
    connect, publish_model, start_server, monkeypatch
) -> None:
    publish_model("double", "1.0.0", scaled(2))
    server = await start_server()
    monkeypatch.delenv("no_grpc_proxy", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # nobody listens there
    async with connect(server, token="secret") as client:
        np.testing.assert_array_equal((await client.predict("double", {"x": X}))["y"], 2 * X)


@one_server
async def test_the_http_port_is_told_from_the_grpc_port(server, kind, transport) -> None:
    async with AnyClient(kind, str(server.http), transport=transport) as client:
        for call in (client.predict("double", {"x": X}), client.models(), client.wait_ready(timeout=BOUND)):
            with pytest.raises(Unimplemented, match="Turnout's gRPC port is 8001 by default"):
                await call
