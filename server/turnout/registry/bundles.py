"""Sigstore bundles over a version's files, by `model-signing`: for who checks models with the tools of OpenSSF.

    <root>/<model>/.attestations/<version>/bundle-<key>.sigstore.json

Signed with an elliptic-curve key, without any service on the network. The package is an extra, `turnout[sigstore]`.
"""

import hashlib
import tempfile
from pathlib import Path
from types import ModuleType

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from semver import Version

from turnout.errors import ConfigError, NotTrusted
from turnout.registry import attestations
from turnout.registry.files import explain, read_small
from turnout.registry.repository import Repository

_PREFIX = "bundle-"
_SUFFIX = ".sigstore.json"
_MAX_KEY_BYTES = 64 << 10


def sign(repository: Repository, model: str, version: Version, key: Path) -> str:
    """Signs the files of a version as they are, and keeps the bundle beside it; that they are what was published is for
    the caller to know.

    Args:
        repository: Where the version is.
        model: Its model.
        version: Which.
        key: PEM file of an elliptic-curve private key without a password.

    Returns:
        The id of the key: 16 hexadecimal digits.

    Raises:
        ConfigError: The extra is not installed, the file holds no such key, or the repository cannot be written to.
    """
    package = _package()
    try:
        private = serialization.load_pem_private_key(_read(key), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        private = None
    if not isinstance(private, EllipticCurvePrivateKey):
        raise ConfigError(f"{key} holds no elliptic-curve private key as PEM without a password") from None
    name = _id(private.public_key())
    with tempfile.TemporaryDirectory(prefix="turnout-bundle-") as folder:
        made = Path(folder) / "bundle"
        package.signing.Config().use_elliptic_key_signer(private_key=key).sign(repository.fetch(model, version), made)
        data = made.read_bytes()
    try:
        attestations.write(repository, model, version, f"{_PREFIX}{name}{_SUFFIX}", data)
    except OSError as error:
        raise ConfigError(f"the repository cannot be written to: {error.strerror}") from None
    return name


def verify(repository: Repository, model: str, version: Version, key: Path) -> str:
    """Checks the bundle that a key made of a version against the files as they are.

    Returns:
        The id of the key.

    Raises:
        ConfigError: The extra is not installed, or the file holds no elliptic-curve public key.
        NotTrusted: There is no bundle of that key, or it does not fit the files.
    """
    package = _package()
    try:
        public = serialization.load_pem_public_key(_read(key))
    except (ValueError, UnsupportedAlgorithm):
        public = None
    if not isinstance(public, EllipticCurvePublicKey):
        raise ConfigError(f"{key} holds no elliptic-curve public key as PEM") from None
    name = _id(public)
    file = f"{_PREFIX}{name}{_SUFFIX}"
    found = attestations.read(repository, model, version, file)
    if file not in found:
        raise NotTrusted(f"{model} {version} has no bundle by {name}")
    with tempfile.TemporaryDirectory(prefix="turnout-bundle-") as folder:
        kept = Path(folder) / "bundle"
        kept.write_bytes(found[file])
        try:
            package.verifying.Config().use_elliptic_key_verifier(public_key=key).verify(
                repository.fetch(model, version), kept
            )
        except Exception as error:  # the package raises ValueError, and what its parsers raise on what is no bundle
            raise NotTrusted(f"the bundle by {name} does not fit {model} {version}") from error
    return name


def _package() -> ModuleType:
    try:
        import model_signing
    except ImportError:
        raise ConfigError("Sigstore bundles need an extra: pip install 'turnout[sigstore]'") from None
    package: ModuleType = model_signing
    return package


def _id(key: EllipticCurvePublicKey) -> str:
    encoded = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).hexdigest()[:16]


def _read(file: Path) -> bytes:
    try:
        return read_small(file, _MAX_KEY_BYTES)
    except OSError as error:
        raise ConfigError(f"the key {str(file)[:200]!r} {explain(error)}") from None
