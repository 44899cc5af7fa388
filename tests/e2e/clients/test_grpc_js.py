"""Node's gRPC client, written in JavaScript from the HTTP/2 of Node's own, talks to a Turnout server.

The rules are in `tests/support/products/grpc_js_rules`. All of them run once for each transport; each is a test here.
"""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import google.rpc
import httpx
import pytest
from onnx import TensorProto
from semver import Version

import node as node_packages
import onnx_models
from processes import ServerProcess, serving
from started_servers import TRANSPORTS
from turnout.config import Settings
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout.state.store import StateStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the first run on a machine installs Node

PACKAGES = ("@grpc/grpc-js@1.14.7", "@grpc/proto-loader@0.8.1")
RULES = Path(__file__).parents[2] / "support" / "products" / "grpc_js_rules"
PROTOS = Path(__file__).parents[3] / "protos"
NAMES = re.findall(r"^export async function (\w+)", (RULES / "rules.mjs").read_text(), re.MULTILINE)


@pytest.fixture(scope="session")
def node() -> Path:
    """A folder with Node and the packages; made once per machine."""
    return node_packages.environment(*PACKAGES)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("node")
    with StateStore.open(Settings(models=root / "models").state_url) as store:
        for name, model in (
            ("m", onnx_models.scaled(2)),
            ("slow", onnx_models.slow()),
            ("wide", onnx_models.identity(TensorProto.FLOAT, ["batch", 4])),
        ):
            path = onnx_models.save(model, root / f"{name}.onnx")
            publish(Repository(root / "models"), PublishRequest(name, Version(1), path))
            store.release(name, Version(1), actor="test", reason="")
    return root / "models"


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(models: Path, request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    with serving(models, TURNOUT_TRANSPORT__DATA=request.param) as process:
        deadline = time.monotonic() + 60
        while httpx.get(f"http://{process.http}/readyz").status_code != 200:
            assert time.monotonic() < deadline, process.log.read_text()
            time.sleep(0.02)
        yield process


@pytest.fixture(scope="module")
def outcomes(server: ServerProcess, node: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What became of each rule: "" where it holds."""
    scripts = tmp_path_factory.mktemp("rules")
    for script in RULES.iterdir():
        shutil.copy(script, scripts)
    (scripts / "node_modules").symlink_to(node / "node_modules")  # modules are looked for beside the script
    google_apis = Path(next(iter(google.rpc.__path__))).parent.parent
    command = [node / "bin" / "node", scripts / "run_rules.mjs", server.grpc, PROTOS, google_apis]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("rule", NAMES)
def test_grpc_js_unchanged(outcomes: dict[str, str], rule: str) -> None:
    assert not outcomes[rule], outcomes[rule]


def test_no_rule_made_the_server_stumble(outcomes: dict[str, str], server: ServerProcess) -> None:
    assert set(outcomes) == set(NAMES)
    log = server.log.read_text()
    assert "Traceback" not in log
    assert '"level": "error"' not in log
