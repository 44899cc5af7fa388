"""The environment that a version declares, against the machine; and the one it was published in."""

import json
import platform
from pathlib import Path

import onnxruntime as ort
import pytest
from semver import Version

import onnx_models
from turnout.registry.gates.reports import gate_attestations
from turnout.registry.manifest.digest import manifest_digest
from turnout.registry.publishing.environment_record import recorded_environment
from turnout.registry.publishing.metadata import parse_metadata
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout.registry.transfer.copying import copy_version
from turnout.serving.versions.lifecycle import LifecycleState

V1 = Version(1)
OLD = parse_metadata({"environment": {"onnxruntime": "<1.0"}})


def test_a_publish_records_its_machine_outside_the_digest(models: Path, tmp_path: Path) -> None:
    repository = Repository(models)
    source = onnx_models.save(onnx_models.scaled(2), tmp_path / "m.onnx")
    result = publish(repository, PublishRequest("m", V1, source))
    seen = recorded_environment(repository, "m", V1, result.digest)
    assert seen is not None
    assert (seen.environment.onnxruntime, seen.environment.python) == (ort.__version__, platform.python_version())
    assert not seen.imported
    assert repository.verify("m", V1, expected=result.digest)
    assert [p.manifest.version for p in repository.scan().published] == [V1]
    assert repository.scan().problems == ()
    assert manifest_digest(result.manifest) == result.digest


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"schema": 2}', b"\xff", b"[" * 100_000, b"x" * (2 << 20)])
def test_a_record_that_is_none_is_not_believed(models: Path, tmp_path: Path, data: bytes) -> None:
    repository = Repository(models)
    source = onnx_models.save(onnx_models.scaled(2), tmp_path / "m.onnx")
    result = publish(repository, PublishRequest("m", V1, source))
    path = models / "m" / ".attestations" / "1.0.0" / "environment.json"
    body = json.loads(path.read_bytes())
    path.unlink()
    path.write_bytes(data)
    assert recorded_environment(repository, "m", V1, result.digest) is None
    path.write_bytes(json.dumps(body | {"digest": "sha256:" + "0" * 64}).encode())
    assert recorded_environment(repository, "m", V1, result.digest) is None


def test_any_number_of_signatures_hide_no_other_record(models: Path, tmp_path: Path) -> None:
    repository = Repository(models)
    source = onnx_models.save(onnx_models.scaled(2), tmp_path / "m.onnx")
    result = publish(repository, PublishRequest("m", V1, source))
    home = models / "m" / ".attestations" / "1.0.0"
    for number in range(300):
        (home / f"bundle-{number:016x}.sigstore.json").write_bytes(b"{}")
    assert recorded_environment(repository, "m", V1, result.digest) is not None
    assert len(gate_attestations(repository, "m", V1, result.digest)) == 1
    copied = Repository(tmp_path / "export")
    copy_version(repository, "m", V1, copied.root, None)
    assert recorded_environment(copied, "m", V1, result.digest) is not None
    assert len(gate_attestations(copied, "m", V1, result.digest)) == 1


async def test_a_difference_is_warned_of_and_the_version_serves(start_server, publish_model, capsys) -> None:
    publish_model("m", "1.0.0", onnx_models.scaled(2), metadata=OLD)
    server = await start_server()
    assert (await server.parts.serving.manager.load("m", V1)).state is LifecycleState.READY
    warned = [json.loads(line) for line in capsys.readouterr().err.splitlines() if "environment differs" in line]
    assert [line["reason"] for line in warned] == [f"ONNX Runtime <1.0 is declared, {ort.__version__} is here"]


async def test_a_difference_refuses_the_load_where_that_is_configured(start_server, publish_model) -> None:
    publish_model("m", "1.0.0", onnx_models.scaled(2), metadata=OLD)
    publish_model("m", "1.1.0", onnx_models.scaled(2), metadata=parse_metadata({"environment": {"python": ">=3"}}))
    server = await start_server(loading={"environment": "refuse"})
    entries = server.services.catalog.snapshot.model("m").versions
    assert entries[V1].state is LifecycleState.FAILED
    assert "declares another environment: ONNX Runtime <1.0" in entries[V1].reason
    assert entries[Version(1, 1)].state is LifecycleState.READY


async def test_nothing_is_said_where_it_is_ignored(start_server, publish_model, capsys) -> None:
    publish_model("m", "1.0.0", onnx_models.scaled(2), metadata=OLD)
    await start_server(loading={"environment": "ignore"})
    assert "environment differs" not in capsys.readouterr().err
