"""A C++ client on Debian's libgrpc++, in closed loops: the benchmarks' generator, which fails if one request does."""

import time
from collections.abc import Iterator

import httpx
import pytest
from semver import Version

import onnx_models
from debian import needs, program
from harness.load import Generator, Target
from processes import Server, serving_in_thread
from started_servers import TRANSPORTS
from turnout.config import Settings
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout.state.store import StateStore

PLUGIN = program("protobuf-compiler-grpc libgrpc++-dev libprotobuf-dev pkg-config g++", "grpc_cpp_plugin")
SECONDS = 0.3

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), needs(PLUGIN, "libgrpc++-dev protobuf-compiler-grpc")]


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("cpp")
    with StateStore.open(Settings(models=root / "models").state_url) as store:
        path = onnx_models.save(onnx_models.scaled(2), root / "m.onnx")
        publish(Repository(root / "models"), PublishRequest("m", Version(1), path))
        store.release("m", Version(1), actor="test", reason="")
    with serving_in_thread(root / "models", transport={"data": request.param}) as running:
        deadline = time.monotonic() + 60
        while httpx.get(f"http://{running.http}/readyz").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield running


@pytest.mark.parametrize("mode", ["unary", "stream"])
def test_closed_loops_lose_no_request(server: Server, mode: str) -> None:
    generator = Generator("-O0")
    target = Target(server.grpc, "m", "", "x", "f32", "1,4")
    for in_flight in (1, 16, 64):
        assert generator.run(target, mode, in_flight, SECONDS).answers >= in_flight


def test_eight_connections_are_served_at_once(server: Server) -> None:
    generator = Generator("-O0")
    target = Target(server.grpc, "m", "^1", "x", "f32", "1,4")
    running = [generator.start(target, "unary", 8, SECONDS) for _ in range(8)]
    assert all(generator.finish(process).answers >= 8 for process in running)
