"""Sigstore bundles, made and checked with no network."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from semver import Version

from onnx_models import scaled
from turnout.errors import ConfigError, NotTrusted
from turnout.registry import bundles
from turnout.registry.repository import Repository
from turnout.registry.signing import PrivateKey

ONE = Version(1)

# pytest.importorskip would take the ImportError of a dependency for a missing extra only with a warning of its own.
pytest.importorskip("model_signing", exc_type=ImportError)


def new_key(folder: Path, name: str) -> tuple[Path, Path]:
    """Makes an elliptic-curve key; returns the files of its private and its public part."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    plain = serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def test_a_bundle_fits_the_files_that_it_was_made_of_and_no_others(
    models: Path, publish_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nobody answers
    publish_model("m", "1.0.0", scaled(1))
    repository = Repository(models)
    private, public = new_key(tmp_path, "ada")
    _, other = new_key(tmp_path, "bob")
    assert bundles.sign(repository, "m", ONE, private) == bundles.verify(repository, "m", ONE, public)
    repository.verify("m", ONE)
    with pytest.raises(NotTrusted, match="has no bundle by"):
        bundles.verify(repository, "m", ONE, other)
    file = models / "m" / "1.0.0" / "model.onnx"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(NotTrusted, match=r"does not fit m 1\.0\.0"):
        bundles.verify(repository, "m", ONE, public)


def test_other_kinds_of_keys_are_refused(models: Path, publish_model, tmp_path: Path) -> None:
    publish_model("m", "1.0.0", scaled(1))
    repository = Repository(models)
    key = PrivateKey.create(tmp_path / "ed25519.pem")
    (tmp_path / "ed25519.pub.pem").write_text(key.public.pem)
    with pytest.raises(ConfigError, match="no elliptic-curve private key"):
        bundles.sign(repository, "m", ONE, tmp_path / "ed25519.pem")
    with pytest.raises(ConfigError, match="no elliptic-curve public key"):
        bundles.verify(repository, "m", ONE, tmp_path / "ed25519.pub.pem")
