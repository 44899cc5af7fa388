"""Keys that sign versions: elliptic curves, as in OpenSSF model signatures."""

import base64
import binascii
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from turnout.errors import ConfigError
from turnout.registry.storage.files import read_named

_HASHES: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
_KINDS = "an elliptic-curve key (P-256, P-384 or P-521)"


class UnfitKeyError(ValueError):
    """Raised when a key is of a kind that cannot sign models. The message is a phrase that follows the key's name."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key for checking signatures.

    Attributes:
        der: The key as SubjectPublicKeyInfo.
    """

    der: bytes

    @classmethod
    def of(cls, key: object) -> Self:
        """Converts a key of `cryptography`. Raises UnfitKeyError if the key is of a kind that cannot sign models."""
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
            raise UnfitKeyError(f"holds no public key that signs models, expected {_KINDS}")
        return cls(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))

    @classmethod
    def from_der(cls, der: bytes) -> Self:
        """Reads a key from DER. Raises UnfitKeyError as `of` does."""
        return cls.of(_loaded(serialization.load_der_public_key, der))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads a key as it is configured: the path of a PEM file, or base64 as returned by `str`.

        Raises:
            ConfigError: The text is neither.
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
        """Reads a key from a PEM file. Raises ConfigError if the file cannot be read, or contains no suitable key."""
        data = read_named(file, "public key")
        try:
            return cls.of(_loaded(serialization.load_pem_public_key, data))
        except ValueError as error:
            raise ConfigError(f"{file} {error}") from None

    def __str__(self) -> str:
        return base64.b64encode(self.der).decode()

    @property
    def pem(self) -> str:
        """The key in PEM format."""
        encoded = self._key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return encoded.decode()

    @property
    def hint(self) -> str:
        """Identifier of the key in bundles: 64 hexadecimal digits."""
        return hashlib.sha256(self.pem.encode()).hexdigest()

    @property
    def id(self) -> str:
        """Identifier of the key for display: 16 hexadecimal digits, the beginning of `hint`."""
        return self.hint[:16]

    def made(self, signature: bytes, message: bytes) -> bool:
        """Returns whether `signature` is a signature over `message` by this key."""
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
    """A key for making signatures. It is never printed."""

    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, file: Path, passphrase: str = "") -> Self:
        """Creates a P-256 key in a new PEM file that only its owner may read. Encrypts it unless the passphrase is "".

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
        """Reads a key from PEM, encrypted or not, in PKCS#8 or as `openssl ecparam -genkey` writes it.

        Raises:
            ConfigError: The file cannot be read or contains no suitable key, or the passphrase is missing or wrong.
        """
        data = read_named(file, "private key")
        key: object = None
        try:
            key = serialization.load_pem_private_key(data, passphrase.encode() or None)
        except TypeError:  # encrypted without a passphrase, or a passphrase for a key that is not encrypted
            if not passphrase:
                raise ConfigError(
                    f"{file} is encrypted: give its passphrase by --passphrase-file or TURNOUT_KEY_PASSPHRASE"
                ) from None
            key = _loaded(lambda pem: serialization.load_pem_private_key(pem, None), data)
        except (ValueError, UnsupportedAlgorithm):
            if passphrase and b"ENCRYPTED" in data:
                raise ConfigError(f"{file} cannot be decrypted: the passphrase is wrong") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _HASHES:
            raise ConfigError(f"{file} holds no private key that signs models, expected {_KINDS} as PEM") from None
        return cls(key)

    @property
    def public(self) -> PublicKey:
        """The public part, for checking its signatures."""
        return PublicKey.of(self.key.public_key())

    def sign(self, message: bytes) -> bytes:
        """Returns a signature over `message`: ECDSA, as DER, with the hash function that matches the curve."""
        return self.key.sign(message, ec.ECDSA(_HASHES[self.key.curve.name]))


def _loaded(load: Callable[[bytes], object], data: bytes) -> object:
    """Returns the key in `data`; None if it cannot be read."""
    try:
        return load(data)
    except (ValueError, UnsupportedAlgorithm):
        return None
