"""tritonclient talks to a Turnout server unchanged. It runs in an environment of its own, since it pins grpcio.

The rules are in `tests/support/products/tritonclient_rules`. All of them run once for each transport, inside that
environment, and each is a test here.
"""

import ast
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from onnx import ModelProto, TensorProto, helper
from semver import Version

import onnx_models
import tritonclient_env
from processes import ServerProcess, serving
from started_servers import TRANSPORTS
from tritonclient_env import RULES
from turnout.config import Settings
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout.releases.release import ReleaseStateWriter
from turnout.state.store import StateStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the first run on a machine installs tritonclient

MODULES = ("sync_client", "aio_client", "callback_client", "typed_contents", "description", "http_client")

ELEMENTS = {
    "bool": TensorProto.BOOL,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
}


def _rules(module: str) -> list[str]:
    tree = ast.parse((RULES / f"{module}.py").read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [function.name for function in functions if function.name.startswith("test_")]


def _ends() -> ModelProto:
    """least, most = the ends of each row of x."""
    rows = [onnx_models.tensor(name, TensorProto.FLOAT, ["batch"]) for name in ("least", "most")]
    return onnx_models.model(
        [
            helper.make_node("ReduceMin", ["x"], ["least"], axes=[1], keepdims=0),
            helper.make_node("ReduceMax", ["x"], ["most"], axes=[1], keepdims=0),
        ],
        [onnx_models.tensor("x", TensorProto.FLOAT, ["batch", 4])],
        rows,
    )


def _to_bfloat16() -> ModelProto:
    """y = x, from float32 to bfloat16."""
    return onnx_models.model(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)],
        [onnx_models.tensor("x", TensorProto.FLOAT, ["batch", 2])],
        [onnx_models.tensor("y", TensorProto.BFLOAT16, ["batch", 2])],
    )


@pytest.fixture(scope="session")
def tritonclient_python() -> Path:
    return tritonclient_env.tritonclient_python()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("triton")
    models = root / "models"
    repository = Repository(models)
    with StateStore.open(Settings(models=models).state_url) as store:
        release_writer = ReleaseStateWriter(repository, store)

        def put(name: str, version: str, proto: ModelProto, *, release: bool = True) -> None:
            exact = Version.parse(version)
            publish(repository, PublishRequest(name, exact, onnx_models.save(proto, root / f"{name}-{version}.onnx")))
            if release:
                store.release(name, exact, actor="test", reason="")

        put("scale", "1.9.0", onnx_models.scaled(2))
        put("scale", "1.10.0", onnx_models.scaled(3))
        put("scale", "2.0.0", onnx_models.scaled(5), release=False)
        release_writer.set_tag("scale", "stable", Version.parse("1.9.0"), actor="test", reason="")
        put("moved", "1.0.0", onnx_models.scaled(1))
        put("moved", "1.1.0", onnx_models.scaled(2))
        put("text", "1.0.0", onnx_models.string_identity())
        put("slow", "1.0.0", onnx_models.slow())
        put("ends", "1.0.0", _ends())
        put("from-bfloat16", "1.0.0", onnx_models.bfloat16_cast())
        put("to-bfloat16", "1.0.0", _to_bfloat16())
        for name, element in ELEMENTS.items():
            put(f"as-{name}", "1.0.0", onnx_models.identity(element, ["batch", 2]))
    return models


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(models: Path, request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    with serving(models, TURNOUT_RUNTIME__RUNNERS="1", TURNOUT_TRANSPORT__DATA=request.param) as process:
        deadline = time.monotonic() + 60
        while httpx.get(f"http://{process.http}/readyz").status_code != 200:
            assert time.monotonic() < deadline, process.log.read_text()
            time.sleep(0.02)
        yield process


@pytest.fixture(scope="module")
def outcomes(server: ServerProcess, tritonclient_python: Path) -> dict[str, dict[str, str]]:
    """What became of each rule, by module: "" where it holds."""
    command = [tritonclient_python, RULES / "run_rules.py", server.grpc, server.control, server.http, *MODULES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, str]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(("module", "rule"), [(module, rule) for module in MODULES for rule in _rules(module)])
def test_tritonclient_unchanged(outcomes: dict[str, dict[str, str]], module: str, rule: str) -> None:
    assert not outcomes[module][rule], outcomes[module][rule]


def test_no_rule_made_the_server_stumble(outcomes: dict[str, dict[str, str]], server: ServerProcess) -> None:
    assert len(outcomes) == len(MODULES)
    log = server.log.read_text()
    assert "Traceback" not in log
    assert [line for line in log.splitlines() if '"level": "error"' in line] == []
