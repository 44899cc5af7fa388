"""Keys that versions are signed with: elliptic curves, as OpenSSF's model signatures have them."""

import base64
import binascii
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from turnout.errors import ConfigError
from turnout.registry.storage.files import explain, read_small

_MOST_BYTES = 64 << 10
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
_KINDS = "an elliptic-curve key (P-256, P-384 or P-521)"


class UnfitKeyError(ValueError):
    """A key is not of a kind that signs models; the message goes on from the key's name."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that signatures are checked with.

    Attributes:
        der: As SubjectPublicKeyInfo.
    """

    der: bytes

    @classmethod
    def of(cls, key: object) -> Self:
        """Takes a key of `cryptography`.

        Raises:
            UnfitKeyError: It is not of a kind that signs models.
        """
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
            raise UnfitKeyError(f"holds no public key that signs models, expected {_KINDS}")
        return cls(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))

    @classmethod
    def from_der(cls, der: bytes) -> Self:
        """Reads a key. Raises UnfitKeyError as `of`."""
        try:
            key: object = serialization.load_der_public_key(der)
        except (ValueError, UnsupportedAlgorithm):
            key = None
        return cls.of(key)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads a key as it stands in the configuration: the path of a PEM file, or base64 as `str` gives it.

        Raises:
            ConfigError: It is neither.
        """
        try:
            der = base64.b64decode(text, validate=True)
        except (ValueError, binascii.Error):
            der = b""
        if der.startswith(b"\x30"):
            try:
                return cls.from_der(der)
            except ValueError as error:
                raise ConfigError(f"the public key {text[:200]} {error}") from None
        return cls.load(Path(text))

    @classmethod
    def load(cls, file: Path) -> Self:
        """Reads a PEM file.

        Raises:
            ConfigError: It cannot be read, or holds no such key.
        """
        data = read_pem(file, "public key")
        try:
            key: object = serialization.load_pem_public_key(data)
        except (ValueError, UnsupportedAlgorithm):
            key = None
        try:
            return cls.of(key)
        except ValueError as error:
            raise ConfigError(f"{file} {error}") from None

    def __str__(self) -> str:
        return base64.b64encode(self.der).decode()

    @property
    def pem(self) -> str:
        """The key as PEM."""
        encoded = self._key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return encoded.decode()

    @property
    def hint(self) -> str:
        """What bundles name it by: 64 hexadecimal digits."""
        return hashlib.sha256(self.pem.encode()).hexdigest()

    @property
    def id(self) -> str:
        """What people name it by: 16 hexadecimal digits, the beginning of `hint`."""
        return self.hint[:16]

    def made(self, signature: bytes, message: bytes) -> bool:
        """Tells whether the key's owner signed `message` with it."""
        key = self._key
        try:
            key.verify(signature, message, ec.ECDSA(_HASHES[key.curve.name]))
        except InvalidSignature:
            return False
        return True

    @property
    def _key(self) -> ec.EllipticCurvePublicKey:
        key = serialization.load_der_public_key(self.der)
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return key


@dataclass(frozen=True, slots=True, repr=False)
class PrivateKey:
    """A key that signatures are made with. Never printed."""

    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, file: Path, passphrase: str = "") -> Self:
        """Creates a P-256 key in a new PEM file that only its owner may read, encrypted unless the passphrase is "".

        Raises:
            ConfigError: The file exists, or cannot be written.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase:
            encryption = serialization.BestAvailableEncryption(passphrase.encode())
        encoded = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise ConfigError(f"{file} exists; a key is never overwritten") from None
        except OSError as error:
            raise ConfigError(f"{file} cannot be written: {error.strerror}") from None
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(encoded)
            opened.flush()
            os.fsync(opened.fileno())
        return cls(key)

    @classmethod
    def load(cls, file: Path, passphrase: str = "") -> Self:
        """Reads a key, encrypted or not, from PEM: PKCS#8, or as `openssl ecparam -genkey` writes it.

        Raises:
            ConfigError: The file cannot be read, holds no such key, or the passphrase is missing or another one.
        """
        data = read_pem(file, "private key")
        key: object = None
        try:
            key = serialization.load_pem_private_key(data, passphrase.encode() or None)
        except TypeError:  # encrypted, and no passphrase; or a passphrase, and not encrypted
            if not passphrase:
                raise ConfigError(
                    f"{file} is encrypted: give its passphrase by --passphrase-file or TURNOUT_KEY_PASSPHRASE"
                ) from None
            key = _unencrypted(data)
        except (ValueError, UnsupportedAlgorithm):
            if passphrase and b"ENCRYPTED" in data:
                raise ConfigError(f"{file} cannot be decrypted: the passphrase is another one") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _HASHES:
            raise ConfigError(f"{file} holds no private key that signs models, expected {_KINDS} as PEM") from None
        return cls(key)

    @property
    def public(self) -> PublicKey:
        """What its signatures are checked with."""
        return PublicKey.of(self.key.public_key())

    def sign(self, message: bytes) -> bytes:
        """Returns its signature over `message`: ECDSA, as DER, with the hash that goes with its curve."""
        return self.key.sign(message, ec.ECDSA(_HASHES[self.key.curve.name]))


def read_pem(file: Path, what: str) -> bytes:
    """Reads a file that a person named.

    Raises:
        ConfigError: It cannot be read, or is too large to be a key or certificates.
    """
    try:
        data = read_small(file, _MOST_BYTES)
    except (OSError, ValueError) as error:
        reason = explain(error) if isinstance(error, OSError) else "is not a path"
        raise ConfigError(f"the {what} {str(file)[:200]!r} {reason}") from None
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"{file} is too large to be a {what}")
    return data


def _unencrypted(data: bytes) -> object:
    try:
        return serialization.load_pem_private_key(data, None)
    except (ValueError, UnsupportedAlgorithm):
        return None
