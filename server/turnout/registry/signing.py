"""Detached signatures over versions' digests: Ed25519 (RFC 8032), made with a key that its owner keeps.

What is signed is not the manifest but the line `turnout.v1 version sha256:...`, so that a signature made for something
else is never taken for one of a version. The digest pins model, version and every byte.
"""

import base64
import binascii
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from turnout.errors import ConfigError, Conflict, InvalidRequest
from turnout.registry.files import explain, read_small

_SCHEMA = 1
_MAX_KEY_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that signatures are checked with.

    Attributes:
        raw: Its 32 bytes.
    """

    raw: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads a key as it stands in the configuration: the path of a PEM file, or base64 as `str` gives it.

        Raises:
            ConfigError: It is neither.
        """
        try:
            raw = base64.b64decode(text, validate=True)
        except (ValueError, binascii.Error):
            raw = b""
        if len(raw) == 32:
            return cls(raw)
        data = _read(Path(text), "public key")
        try:
            key = serialization.load_pem_public_key(data)
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PublicKey):
            raise ConfigError(f"{text} holds no Ed25519 public key as PEM")
        return cls(key.public_bytes_raw())

    def __str__(self) -> str:
        return base64.b64encode(self.raw).decode()

    @property
    def id(self) -> str:
        """16 hexadecimal digits that name it: the beginning of its SHA-256."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    @property
    def pem(self) -> str:
        """The key as PEM."""
        key = Ed25519PublicKey.from_public_bytes(self.raw)
        encoded = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return encoded.decode()


@dataclass(frozen=True, slots=True, repr=False)
class PrivateKey:
    """A key that signatures are made with. Never printed."""

    key: Ed25519PrivateKey

    @classmethod
    def create(cls, file: Path) -> Self:
        """Makes a key, in a new PEM file that only its owner may read.

        Raises:
            ConfigError: The file exists, or cannot be written.
        """
        key = Ed25519PrivateKey.generate()
        encoded = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
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
    def load(cls, file: Path) -> Self:
        """Reads a key.

        Raises:
            ConfigError: The file cannot be read, or holds no Ed25519 private key without a password.
        """
        data = _read(file, "private key")
        try:
            key = serialization.load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"{file} holds no Ed25519 private key as PEM without a password") from None
        return cls(key)

    @property
    def public(self) -> PublicKey:
        """What its signatures are checked with."""
        return PublicKey(self.key.public_key().public_bytes_raw())

    def sign(self, digest: str) -> "DigestSignature":
        """Signs a version's digest."""
        return DigestSignature(self.public, digest, self.key.sign(_message(digest)))


class Signer(Protocol):
    """Signs versions' digests: holds a key, or brings a signature along."""

    def sign(self, digest: str) -> "DigestSignature":
        """Returns a signature over `digest`."""


@dataclass(frozen=True, slots=True)
class DigestSignature:
    """Somebody's word on a version.

    Attributes:
        key: What it is to be checked with; whether that is to be trusted is another matter.
        digest: Of the version.
        value: 64 bytes.
    """

    key: PublicKey
    digest: str
    value: bytes

    def fits(self, digest: str) -> bool:
        """Tells whether the key's owner signed `digest` with it."""
        if digest != self.digest:
            return False
        try:
            Ed25519PublicKey.from_public_bytes(self.key.raw).verify(self.value, _message(digest))
        except (InvalidSignature, ValueError):
            return False
        return True

    def to_bytes(self) -> bytes:
        """Returns what is kept of it: JSON."""
        body = {
            "schema": _SCHEMA,
            "algorithm": "ed25519",
            "key_id": self.key.id,
            "public_key": str(self.key),
            "digest": self.digest,
            "signature": base64.b64encode(self.value).decode(),
        }
        return json.dumps(body, indent=2).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Reads what `to_bytes` wrote.

        Raises:
            ValueError: It did not write that.
        """
        try:
            body = json.loads(data)
            if (body["schema"], body["algorithm"]) != (_SCHEMA, "ed25519"):
                raise ValueError("not of this schema or algorithm")
            key = PublicKey(base64.b64decode(body["public_key"], validate=True))
            value = base64.b64decode(body["signature"], validate=True)
            if len(key.raw) != 32 or not isinstance(body["digest"], str):
                raise ValueError("a field is not what it should be")
            return cls(key, body["digest"], value)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError("no signature") from error


@dataclass(frozen=True, slots=True)
class Detached:
    """A signature that was made elsewhere, where the key is.

    Attributes:
        signature: What was brought along; fits the digest that it names.
    """

    signature: DigestSignature

    def __post_init__(self) -> None:
        if not self.signature.fits(self.signature.digest):
            raise InvalidRequest.at("signature", "does not fit the digest that it names")

    def sign(self, digest: str) -> DigestSignature:
        """Returns the signature, if it is one over `digest`.

        Raises:
            Conflict: It is one over another digest.
        """
        if digest != self.signature.digest:
            raise Conflict(f"what is signed is {self.signature.digest}, and the version would be {digest}; look again")
        return self.signature


def _message(digest: str) -> bytes:
    return f"turnout.v1 version {digest}\n".encode()


def _read(file: Path, what: str) -> bytes:
    try:
        data = read_small(file, _MAX_KEY_BYTES)
    except (OSError, ValueError) as error:
        reason = explain(error) if isinstance(error, OSError) else "is no path"
        raise ConfigError(f"the {what} {str(file)[:200]!r} {reason}") from None
    if len(data) > _MAX_KEY_BYTES:
        raise ConfigError(f"{file} is too large to be a {what}")
    return data
