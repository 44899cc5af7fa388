"""`turnout publish` out of an S3 server and an MLflow registry, both real, on this machine."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from semver import Version

import onnx_models
from processes import serving_in_thread, turnout
from turnout.registry.storage.repository import Repository

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

V1 = Version(1)
SUPPORT = Path(__file__).parents[2] / "support" / "servers"

PUT = """
import sys, boto3
client = boto3.client("s3", region_name="us-east-1")
client.create_bucket(Bucket="models")
for key, path in zip(sys.argv[1::2], sys.argv[2::2]):
    client.upload_file(path, "models", key)
"""

REFUSED = """
import json, sys
from turnout.errors import TurnoutError
from turnout.config import Transfers
from turnout.registry.sources.source import local_source
terms = []
for url in sys.argv[1:]:
    try:
        with local_source(url, Transfers(max_file_bytes=1000, max_upload_bytes=1000)):
            terms.append("")
    except TurnoutError as error:
        terms.append(error.message)
print(json.dumps(terms))
"""

# MLflow takes four seconds of CPU to import: whoever has done so goes on with what turnout makes of it.
REGISTER = """
import json, mlflow, mlflow.onnx, numpy as np, onnx, sys
from command_line import run
from mlflow.models.signature import ModelSignature
from mlflow.types import Schema, TensorSpec
signature = ModelSignature(*(Schema([TensorSpec(np.dtype("float32"), (-1, 64), name)]) for name in "xy"))
with mlflow.start_run():
    mlflow.log_param("rate", 0.1)
    mlflow.log_metric("accuracy", 0.9)
    mlflow.set_tag("mlflow.source.git.commit", "0123456789abcdef0123456789abcdef01234567")
    mlflow.onnx.log_model(onnx.load(sys.argv[1]), name="model", signature=signature, registered_model_name="files",
                          pip_requirements=["onnx"])  # else MLflow runs the model in two more processes, to see
client = mlflow.MlflowClient()
client.set_registered_model_alias("files", "champion", 1)
client.set_model_version_tag("files", 1, "team", "files")
client.update_model_version("files", 1, description="Content types")
ends = [run(*arguments) for arguments in json.loads(sys.argv[2])]
print(json.dumps([[end.returncode, end.stdout, end.stderr] for end in ends]))
"""


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an S3 server."""
    log = tmp_path / "s3.log"
    with log.open("wb") as output:
        command = [sys.executable, "-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while not (found := re.search(r"Running on (http://127\.0\.0\.1:\d+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        for name, value in (
            ("AWS_ENDPOINT_URL", found[1]),
            ("AWS_ACCESS_KEY_ID", "the-key"),
            ("AWS_SECRET_ACCESS_KEY", "the-secret"),
        ):
            monkeypatch.setenv(name, value)
        yield found[1]
    finally:
        process.kill()
        process.wait()


def test_a_model_in_s3_is_published_with_its_external_data(s3: str, tmp_path: Path) -> None:
    source = onnx_models.save_external(tmp_path / "work", location="deep/weights.data")
    weights = source.parent / "deep/weights.data"
    objects = ["m/model.onnx", source, "m/deep/weights.data", weights, "alone/model.onnx", source]
    subprocess.run([sys.executable, "-c", PUT, *objects], check=True, timeout=200)
    repository = ("--models", tmp_path / "models")
    output = json.loads(turnout("publish", "m", "1.0.0", "s3://models/m/model.onnx", *repository, "--json").stdout)
    assert output["created"]
    local = turnout("publish", "m", "1.0.0", source, *repository, "--json")
    assert json.loads(local.stdout)["digest"] == output["digest"]
    with serving_in_thread(tmp_path / "served") as server:
        to = ("--server", server.control, "--json")
        remote = json.loads(turnout("publish", "m", "1.0.0", "s3://models/m/model.onnx", *to).stdout)
        assert remote["digest"] == output["digest"]
    urls = ["s3://models/alone/model.onnx", "s3://models/none.onnx", "s3://none/model.onnx", "s3://models/m/model.onnx"]
    done = subprocess.run([sys.executable, "-c", REFUSED, *urls], capture_output=True, text=True, timeout=100)
    terms = json.loads(done.stdout)
    assert "external data 'deep/weights.data' does not exist" in terms[0]
    assert "the ONNX file does not exist" in terms[1]
    assert "the ONNX file" in terms[2]
    assert "is larger than 1000 bytes" in terms[3]
    assert "the-secret" not in done.stdout


def test_a_model_in_mlflow_brings_its_signature_its_tags_and_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    source = onnx_models.save(onnx_models.matmul(), tmp_path / "m.onnx")
    commands = [
        ["publish", "m", "1.0.0", f"mlflow:models:/files{which}", "--models", str(tmp_path / repository), "--json"]
        for which, repository in (("@champion", "models"), ("/1", "other"), ("@nobody", "other"))
    ]
    made = subprocess.run(
        [sys.executable, "-c", REGISTER, source, json.dumps(commands)],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(SUPPORT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    *published, (refused, _, terms) = json.loads(made.stdout.splitlines()[-1])
    assert [code for code, *_ in published] == [0, 0], published
    by_alias, by_number = (json.loads(out)["digest"] for _, out, _ in published)
    assert by_alias == by_number
    manifest = Repository(tmp_path / "models").verify("m", V1).manifest
    assert len(manifest.files) == 2  # MLflow keeps the weights beside the model
    assert manifest.metadata["description"] == "Content types"
    known = manifest.metadata["mlflow"]
    assert (known["model"], known["version"], known["tags"]) == ("files", "1", {"team": "files"})
    assert known["signature"]["inputs"][0]["name"] == "x"
    training = manifest.provenance.training
    assert (training.hyperparameters, training.metrics) == ({"rate": "0.1"}, {"accuracy": 0.9})
    assert training.commit == "0123456789abcdef0123456789abcdef01234567"
    assert refused == 1
    assert "MLflow has no such model" in terms
    assert str(tmp_path) not in terms
    assert not [name for name in os.listdir(tmp_path / "tmp") if name.startswith("turnout-source-")]
