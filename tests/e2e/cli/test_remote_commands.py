"""Each command that takes a repository, on one that lives elsewhere."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from semver import Version

import onnx_models
from processes import turnout
from remote_stores import CREDENTIALS, EVERY_KIND, RemoteStore, running_store
from turnout.app.read_only import with_state
from turnout.config import Settings
from turnout.errors import ConfigError
from turnout.registry.manifest.manifest import MANIFEST_FILE
from turnout.registry.remote import oci_artifacts
from turnout.registry.remote import repository as remote_module
from turnout.registry.remote.repository import RemoteRepository
from turnout.scratch import Scratch
from turnout.state.database.engine import sqlite_url

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

V1 = Version(1)


@pytest.fixture(scope="module", params=EVERY_KIND)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteStore]:
    with running_store(request.param, tmp_path_factory.mktemp(request.param)) as store:
        yield store


@pytest.fixture
def store(server: RemoteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RemoteStore:
    """A place of one's own, which all commands work on."""
    store = server.apart()
    for name, value in store.environment(tmp_path / "cache", sqlite_url(tmp_path / "state.db")).items():
        monkeypatch.setenv(name, value)
    return store


def put_artifact(store: RemoteStore, key: str, data: bytes) -> None:
    """Tags an artifact that says to be a document, as anybody may who may push."""
    name = store.url.split("/", 3)[3]
    at = f"{store.endpoint}/v2/{name}"
    with httpx.Client() as client:
        for blob in (data, b"{}"):
            begun = client.post(f"{at}/blobs/uploads/")
            digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
            target = begun.request.url.join(begun.headers["location"]).copy_merge_params({"digest": digest})
            client.put(target, content=blob, headers={"content-type": "application/octet-stream"}).raise_for_status()
        version = key.removesuffix("/manifest.json") if key.endswith("/manifest.json") and ".." not in key else ""
        layer = {"mediaType": "x/y", "digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}
        empty = {"mediaType": "x/y", "digest": f"sha256:{hashlib.sha256(b'{}').hexdigest()}", "size": 2}
        made = {
            "schemaVersion": 2,
            "mediaType": oci_artifacts.MANIFEST_TYPE,
            "config": layer if version else empty,
            "layers": [empty if version else layer],
            "annotations": {"dev.turnout.key": key},
        }
        tag = version.replace("/", "__") if version else oci_artifacts.document_tag(key, data)
        headers = {"content-type": oci_artifacts.MANIFEST_TYPE}
        client.put(f"{at}/manifests/{tag}", content=json.dumps(made), headers=headers).raise_for_status()


def test_every_command_works_on_a_repository_that_lives_elsewhere(
    store: RemoteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [onnx_models.save(onnx_models.scaled(f), tmp_path / f"{f}.onnx") for f in (2, 3, 4)]
    turnout("key", "new", tmp_path / "ada.pem")
    first = json.loads(turnout("publish", "m", "auto", files[0], "--release", "--json").stdout)
    assert (first["version"], first["created"]) == ("1.0.0", True)
    assert not json.loads(turnout("publish", "m", "1.0.0", files[0], "--json").stdout)["created"]
    assert json.loads(turnout("publish", "m", "9.0.0", files[1], "--dry-run", "--json").stdout)["created"] is False
    turnout("publish", "m", "2.0.0", files[1], "--sign-key", tmp_path / "ada.pem")
    taken = turnout("publish", "m", "2.0.0", files[2], check=False)
    assert taken.returncode == 4
    assert "exists with other content" in taken.stderr
    assert "1.0.0" in turnout("models").stdout
    assert store.url not in turnout("show", "m").stderr
    assert json.loads(turnout("show", "m@2.0.0", "--json").stdout)["signatures"]
    turnout("sign", "m@1.0.0", "--key", tmp_path / "ada.pem")
    output = json.loads(turnout("verify", "--json").stdout)
    assert output["ok"]
    assert [list(one["signatures"].values()) for one in output["versions"]] == [["unknown key"]] * 2
    turnout("diff", "m@1.0.0", "m@2.0.0")
    turnout("tag", "m", "stable", "1.0.0")
    assert turnout("yank", "m@1.0.0", "--reason", "x", check=False).returncode == 1
    turnout("tag", "m", "stable", "--delete")
    turnout("release", "m@2.0.0")
    turnout("yank", "m@1.0.0", "--reason", "x")
    turnout("unyank", "m@1.0.0", "--reason", "x", "--i-know-why")
    turnout("export", "m@2.0.0", "--to", tmp_path / "export")
    assert (tmp_path / "export/models/m/2.0.0" / MANIFEST_FILE).exists()
    turnout("doctor", check=False)
    assert "repository" in turnout("doctor", check=False).stdout
    assert "published" in turnout("log").stdout
    turnout("state", "backup", tmp_path / "backup.db")
    monkeypatch.setattr(remote_module, "UNUSED_SECONDS", -5.0)
    pruned = turnout("prune", "m", "--yes", "--newer-than", "0", "--keep-releases", "1", "--json")
    assert json.loads(pruned.stdout)["removed"] == [{"model": "m", "version": "1.0.0"}]
    with closing(store.open(tmp_path / "elsewhere")) as other:
        assert [str(one.manifest.version) for one in other.published()] == ["2.0.0"]
    # Into another place, from what was exported out of this one.
    apart = store.apart()
    monkeypatch.setenv("TURNOUT_MODELS", apart.url)
    monkeypatch.setenv("TURNOUT_STATE", sqlite_url(tmp_path / "other.db"))
    turnout("import", tmp_path / "export", "--release")
    output = json.loads(turnout("verify", "--json").stdout)
    assert (output["ok"], len(output["versions"])) == (True, 1)


def test_a_damaged_file_is_told_by_verify_and_the_gates_plan_is_read_from_where_versions_live(
    store: RemoteStore, tmp_path: Path
) -> None:
    file = onnx_models.save(onnx_models.scaled(51), tmp_path / "m.onnx")
    done = json.loads(turnout("publish", "m", "1.0.0", file, "--json").stdout)
    with closing(store.open(tmp_path / "reader")) as reader:
        assert isinstance(reader, RemoteRepository)
        (entry,) = reader.find("m", V1).manifest.files
        assert reader.find("m", V1).digest == done["digest"]
        reader._store.replace("gates.toml", b'[metadata]\nrequired = ["description"]\n')
    refused = turnout("publish", "m", "2.0.0", file, check=False)
    assert refused.returncode == 3
    assert "description" in refused.stdout + refused.stderr
    store.overwrite_blob(entry.digest, b"x" * entry.size)
    output = turnout("verify", "--json", check=False)
    assert output.returncode == 1
    assert json.loads(output.stdout)["versions"][0]["fault"] == "model.onnx is not what was published"


def test_without_a_state_store_it_is_said_where_to_put_one(
    store: RemoteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TURNOUT_STATE")
    file = onnx_models.save(onnx_models.scaled(2), tmp_path / "m.onnx")
    for command in (
        ("publish", "m", "1.0.0", file),
        ("state", "backup", tmp_path / "b"),
        ("token", "create", "x", "--role", "predict", "--model", "m"),
    ):
        done = turnout(*command, check=False)
        assert done.returncode == 1
        assert f"the repository is {store.url}, where no state store can lie: name one with --state" in done.stderr
    assert turnout("models").returncode == 0
    settings = Settings(**store.settings(tmp_path / "cache", ""))
    with Scratch() as scratch, pytest.raises(ConfigError, match="name one with --state"):
        with_state(settings, scratch)
    refused = turnout("models", "--models", f"{store.kind}://key:sEcret@host/name", check=False)
    assert refused.returncode == 1
    assert "credentials are taken from the environment" in refused.stderr
    assert "sEcret" not in refused.stderr


def test_what_may_be_written_by_strangers_is_read_with_bounds(
    store: RemoteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = onnx_models.save(onnx_models.scaled(2), tmp_path / "m.onnx")
    turnout("publish", "m", "1.0.0", file)
    with closing(store.open(tmp_path / "honest")) as reader:
        manifest = reader._store.current("m/1.0.0/manifest.json", 1 << 20)
        assert manifest is not None
    bad = {
        "models/m/2.0.0/manifest.json": manifest,  # that of another version
        "models/m/3.0.0/manifest.json": b"{",
        "models/m/4.0.0/manifest.json": b" " * (17 << 20),
        "models/m/5.0.0/other": b"x",
        "models/../../m/6.0.0/manifest.json": manifest,
        "models/m/.attestations/1.0.0/../../../../../escaped": b"x",
        "models/m/.attestations/1.0.0/large.json": b"x" * (5 << 20),
        "models/.hidden/1.0.0/manifest.json": manifest,
        "models/gates.toml": b"x" * (1 << 17),
    }
    for key, data in bad.items():
        if store.kind == "oci" and "/.hidden/" in key:
            continue  # no tag begins with a dot
        if store.kind == "oci":
            put_artifact(store, key.removeprefix("models/"), data)
        else:
            store.put(key, data)
    with closing(store.open(tmp_path / "reader")) as reader:
        listing = reader.scan()
        assert [str(one.manifest.version) for one in listing.published] == ["1.0.0"]
        assert [(p.version, p.damaged) for p in listing.problems] == [(f"{n}.0.0", True) for n in (2, 3, 4)]
        reader.verify("m", V1)
        names = {path.name for path in (tmp_path / "reader").rglob("*")}
        assert not names & {"escaped", "large.json", "gates.toml", ".hidden"}
    assert not list(tmp_path.parent.glob("escaped"))
    with (
        closing(store.open(tmp_path / "few", max_objects=3)) as few,
        pytest.raises(OSError, match=r"more than 3 \w+ \(repository\.max_objects\)"),
    ):
        few.scan()
    refused = turnout("models", check=False)
    assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in refused.stdout + refused.stderr
