"""A version leaves one repository and comes into another, the same in every byte, or not at all."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rfc8785
from semver import Version

import command_line
import onnx_models
from processes import serving_in_thread, turnout
from turnout.errors import DigestMismatch, InvalidModel
from turnout.registry.manifest.digest import canonical_bytes, read_canonical
from turnout.registry.signing.keys import PrivateKey
from turnout.registry.signing.signer import KeySigner
from turnout.registry.storage.listing import Published
from turnout.registry.storage.repository import Repository
from turnout.registry.transfer.copying import import_version, only_version

pytestmark = pytest.mark.slow

V1 = Version(1)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models/ with m 1.0.0, weights beside the model and a golden case, and out/, its export."""
    home = tmp_path_factory.mktemp("original")
    source = onnx_models.save_external(home / "work", location="weights.data")
    np.savez(home / "one.npz", **{"inputs/x": np.ones((1, 64), np.float32)})
    described = r'description = "d | <b> \u001b[31m\u202e"'
    (home / "meta.toml").write_text(f'{described}\nauthors = ["Ada"]\n[training]\nseed = 7\n')
    options = ("--meta", home / "meta.toml", "--golden", home / "one.npz", "--models", home / "models")
    turnout("publish", "m", "1.0.0", source, *options)
    turnout("export", "m@1.0.0", "--to", home / "out", "--models", home / "models")
    return home


@pytest.fixture
def exported(original: Path, tmp_path: Path) -> Path:
    """A copy of the export, beside a copy of where it came from."""
    for name in ("models", "out"):
        shutil.copytree(original / name, tmp_path / name)
    return tmp_path / "out"


def imported(tmp_path: Path, exported: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return turnout("import", exported, "--models", tmp_path / "other", "--json", *options, check=False)


def test_an_imported_version_has_the_same_digest_and_answers(tmp_path: Path, exported: Path) -> None:
    before = Repository(tmp_path / "models").find("m", V1)
    done = imported(tmp_path, exported, "--digest", before.digest, "--release")
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout)
    assert (output["digest"], output["created"], output["standing"]) == (before.digest, True, "released")
    assert Repository(tmp_path / "other").verify("m", V1, expected=before.digest).manifest == before.manifest
    assert json.loads(imported(tmp_path, exported).stdout)["created"] is False
    with serving_in_thread(tmp_path / "other") as server:
        turnout("load", "m@1.0.0", "--server", server.control)
        turnout("predict", "m", "--input", "x=random", "--server", server.control)


def test_what_was_attested_travels_and_is_marked_as_imported(tmp_path: Path, exported: Path) -> None:
    home = tmp_path / "models" / "m" / ".attestations" / "1.0.0"
    digest = Repository(tmp_path / "models").find("m", V1).digest
    shutil.rmtree(exported)
    published = Repository(tmp_path / "models").find("m", V1)
    key = PrivateKey.create(tmp_path / "key.pem")
    bundle = f"bundle-{key.public.id}.sigstore.json"
    (home / bundle).write_bytes(KeySigner(key).sign(published).to_bytes())
    other = Published(published.manifest, "sha256:" + "1" * 64)
    (home / "bundle-0123456789abcdef.sigstore.json").write_bytes(KeySigner(key).sign(other).to_bytes())
    (home / "bundle-garbage.sigstore.json").write_bytes(b"{}")
    for name, body in (
        ("signature-0123456789abcdef.json", {"digest": digest}),
        ("gates-1.json", {"digest": digest}),
        ("gates-2.json", {"digest": "sha256:" + "0" * 64}),
    ):
        (home / name).write_text(json.dumps(body))
    turnout("export", "m@1.0.0", "--to", exported, "--models", tmp_path / "models")
    assert imported(tmp_path, exported).returncode == 0
    kept = tmp_path / "other" / "m" / ".attestations" / "1.0.0"
    assert sorted(os.listdir(kept)) == [
        bundle,
        "gates-1.json",  # what the gates here found
        "imported-environment.json", "imported-gates-1.json", "imported-signature-0123456789abcdef.json",
    ]  # fmt: skip
    signed_by = ("--signed-by", tmp_path / "key.pub.pem", "--models", tmp_path / "other")
    (tmp_path / "key.pub.pem").write_text(key.public.pem)
    turnout("verify", "m@1.0.0", *signed_by)
    assert (kept / "imported-environment.json").read_bytes() == (home / "environment.json").read_bytes()
    described = json.loads(turnout("show", "m@1.0.0", "--models", tmp_path / "other", "--json").stdout)
    assert described["published_on"]["imported"] is True
    turnout("export", "m@1.0.0", "--to", tmp_path / "again", "--models", tmp_path / "other")
    turnout("import", tmp_path / "again", "--models", tmp_path / "third")
    assert sorted(os.listdir(tmp_path / "third" / "m" / ".attestations" / "1.0.0")) == sorted(os.listdir(kept))


def test_an_export_that_a_trusted_key_signed_is_taken_where_signatures_are_required(
    tmp_path: Path, exported: Path
) -> None:
    key = PrivateKey.create(tmp_path / "key.pem")
    config = tmp_path / "turnout.toml"
    config.write_text(f'[signing]\nsignatures = "require"\ntrusted_keys = ["{key.public}"]\n')
    refused = imported(tmp_path, exported, "--config", str(config))
    assert "it is not signed, and signing.signatures asks for that" in refused.stderr
    turnout("sign", "m@1.0.0", "--key", tmp_path / "key.pem", "--models", tmp_path / "models")
    turnout("export", "m@1.0.0", "--to", tmp_path / "signed", "--models", tmp_path / "models")
    taken = imported(tmp_path, tmp_path / "signed", "--config", str(config))
    assert taken.returncode == 0, taken.stderr
    turnout("verify", "m@1.0.0", "--models", tmp_path / "other", "--config", config)
    signing = {"signatures": "require", "trusted_keys": [str(key.public)]}
    for mounted in (tmp_path / "signed", tmp_path / "signed" / "models", tmp_path / "signed" / "models" / "m"):
        with serving_in_thread(
            mounted, read_only=True, signing=signing, state=f"sqlite:///{tmp_path}/mounted.db"
        ) as server:
            turnout("load", "m@1.0.0", "--server", server.control)


def _change(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.mark.parametrize("change", ["byte", "longer", "gone", "more", "link", "golden"])
def test_an_export_that_was_tampered_with_is_refused(tmp_path: Path, exported: Path, change: str) -> None:
    home = exported / "models" / "m" / "1.0.0"
    weights = home / "weights.data"
    match change:
        case "byte":
            data = bytearray(weights.read_bytes())
            data[7] ^= 1
            _change(weights, bytes(data))
        case "longer":
            _change(weights, weights.read_bytes() + b"x")
        case "gone":
            weights.unlink()
        case "more":
            (home / "more.data").write_bytes(b"x")
        case "link":
            weights.unlink()
            weights.symlink_to("model.onnx")
        case "golden":
            _change(home / "golden" / "one.npz", b"x")
    source = Repository(exported / "models")
    with pytest.raises(DigestMismatch):
        import_version(Repository(tmp_path / "other"), source, only_version(source))
    assert Repository(tmp_path / "other").scan().published == ()


def test_an_export_that_was_made_anew_is_another_version(tmp_path: Path, exported: Path) -> None:
    path = exported / "models" / "m" / "1.0.0" / "manifest.json"
    manifest = read_canonical(path.read_bytes())
    _change(path, canonical_bytes(replace(manifest, metadata={"description": "another"})))
    digest = Repository(tmp_path / "models").find("m", V1).digest
    done = imported(tmp_path, exported, "--digest", digest)
    assert done.returncode == 1
    assert json.loads(done.stderr)["error"]["kind"] == "DigestMismatch"
    assert Repository(tmp_path / "other").scan().published == ()


def test_a_manifest_that_says_other_things_than_its_model_is_refused(tmp_path: Path, exported: Path) -> None:
    home = exported / "models" / "m" / "1.0.0"
    body = json.loads((home / "manifest.json").read_bytes())
    body["signature"]["inputs"][0]["dtype"] = "int32"
    _change(home / "manifest.json", rfc8785.dumps(body))
    source = Repository(exported / "models")
    with pytest.raises(InvalidModel, match="signature is not that of"):
        import_version(Repository(tmp_path / "other"), source, only_version(source))
    assert Repository(tmp_path / "other").scan().published == ()


def test_other_content_under_the_number_is_refused(tmp_path: Path, exported: Path) -> None:
    source = onnx_models.save(onnx_models.scaled(2), tmp_path / "m.onnx")
    turnout("publish", "m", "1.0.0", source, "--models", tmp_path / "other")
    assert json.loads(imported(tmp_path, exported).stderr)["error"]["kind"] == "AlreadyExists"


def test_an_export_of_none_or_of_several_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty" / "models").mkdir(parents=True)
    done = imported(tmp_path, tmp_path / "empty")
    assert "expected an export of one version, found 0" in done.stderr
    done = imported(tmp_path, tmp_path)
    assert "is not an export: it holds no models/; `turnout import triton DIR` imports a Triton" in done.stderr
    (tmp_path / "odd" / "m" / "1.0.0").mkdir(parents=True)
    (tmp_path / "odd" / "m" / "1.0.0" / "manifest.json").write_bytes(b"{}")
    with pytest.raises(DigestMismatch):
        only_version(Repository(tmp_path / "odd"))


def test_the_card_and_the_lock_and_the_dockerfile_are_what_they_say(tmp_path: Path, exported: Path) -> None:
    digest = Repository(tmp_path / "models").find("m", V1).digest
    card = (exported / "README.md").read_text()
    assert card.startswith("# m 1.0.0\n")
    assert "d \\| \\<b\\> ?\\[31m?" in card
    assert f"| digest | `{digest}` |" in card
    assert "| seed | 7 |" in card
    lock = (exported / "environment.txt").read_text().splitlines()[1:]
    installed = subprocess.run([sys.executable, "-m", "pip", "freeze"], capture_output=True, text=True, check=True)
    known = {line.lower().replace("_", "-") for line in installed.stdout.splitlines()}
    assert {line.lower().replace("_", "-") for line in lock} <= known
    assert {"numpy", "protobuf", "grpcio", "sqlalchemy"} <= {line.split("==")[0] for line in lock}
    assert not {line for line in lock if line.startswith(("pytest", "turnout"))}
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, exported / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_the_dockerfile_does_to_the_models_makes_them_serve_that_version(tmp_path: Path, exported: Path) -> None:
    text = (exported / "Dockerfile").read_text().replace("\\\n", " ")
    steps = [line.removeprefix("RUN ") for line in text.splitlines() if line.startswith("RUN turnout")]
    assert len(steps) == 1
    for command in steps[0].split("&&"):
        environment = os.environ | {"TURNOUT_MODELS": str(exported / "models")}
        done = command_line.run(*shlex.split(command)[1:], env=environment)
        assert done.returncode == 0, done.stderr
    with serving_in_thread(exported / "models") as server:
        turnout("load", "m@1.0.0", "--server", server.control)
        answer = json.loads(turnout("predict", "m", "--input", "x=random", "--server", server.control, "--json").stdout)
        assert "1.0.0" in json.dumps(answer)


def test_an_export_overwrites_nothing_and_leaves_no_half(tmp_path: Path, exported: Path) -> None:
    before = sorted(path for path in exported.rglob("*"))
    arguments = ("--models", tmp_path / "models", "--json")
    done = turnout("export", "m@1.0.0", "--to", exported, *arguments, check=False)
    assert "exists" in json.loads(done.stderr)["error"]["message"]
    assert sorted(path for path in exported.rglob("*")) == before
    weights = tmp_path / "models" / "m" / "1.0.0" / "weights.data"
    _change(weights, b"x")
    done = turnout("export", "m@1.0.0", "--to", tmp_path / "bad", *arguments, check=False)
    assert json.loads(done.stderr)["error"]["kind"] == "DigestMismatch"
    assert not [name for name in os.listdir(tmp_path) if "bad" in name]
