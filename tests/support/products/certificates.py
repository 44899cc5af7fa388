"""Real certificates for tests: an authority, and certificates that it signs."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtensionOID, NameOID

LOCAL = ("localhost", "127.0.0.1")

UNREADABLE_NAMES = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, bytes.fromhex("3002a300"))
"""Names of which one is an X.400 address. Transports accept it, but `cryptography` raises an error for it."""


@dataclass(frozen=True)
class Certified:
    """A certificate and its key."""

    certificate: x509.Certificate
    private: Any
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def pem(self) -> bytes:
        """The certificate, followed by those between it and its authority."""
        return b"".join(one.public_bytes(Encoding.PEM) for one in (self.certificate, *self.chain))

    @property
    def key(self) -> bytes:
        return self._key(NoEncryption())

    @property
    def encrypted_key(self) -> bytes:
        return self._key(BestAvailableEncryption(b"a passphrase"))

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Writes `name`.pem and `name`.key, each atomically; returns their paths."""
        return put(directory / f"{name}.pem", self.pem), put(directory / f"{name}.key", self.key)

    def _key(self, encryption: KeySerializationEncryption) -> bytes:
        pem: bytes = self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
        return pem


@dataclass(frozen=True)
class Authority(Certified):
    """A certificate that signs others."""

    @classmethod
    def make(cls, name: str = "an authority", **more: Any) -> Self:
        """Creates a self-signed authority."""
        made = _sign(name, None, authority=True, **more)
        return cls(made.certificate, made.private)

    def issue(self, name: str = "a server", hosts: tuple[str, ...] = LOCAL, **more: Any) -> Certified:
        """Signs a certificate for `hosts`. It is valid for `days`, which may be negative; `private` is its key."""
        return _sign(name, self, hosts=hosts, **more)

    def intermediate(self, name: str = "an intermediate") -> "Authority":
        """Signs an intermediate authority. Certificates that it signs include it in their chain."""
        made = _sign(name, self, authority=True)
        return Authority(made.certificate, made.private, (made.certificate,))


def put(path: Path, data: bytes) -> Path:
    """Writes a file atomically, like tools that renew certificates."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(data)
    os.replace(beside, path)
    return path


def _sign(
    name: str,
    issuer: Authority | None,
    *,
    hosts: tuple[str, ...] = (),
    san: tuple[x509.GeneralName, ...] = (),
    authority: bool = False,
    days: float = 30,
    starts: float = -60,
    private: Any = None,
    extensions: tuple[x509.ExtensionType, ...] = (),
) -> Certified:
    key = private or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=starts))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
    )
    if hosts or san:
        names = [x509.IPAddress(ip_address(h)) if h[0].isdigit() else x509.DNSName(h) for h in hosts]
        names += san
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    kinds = {type(extension) for extension in extensions}
    usual = _usual_extensions(key.public_key(), issuer, authority)
    for extension in (*extensions, *(one for one in usual if type(one) not in kinds)):
        builder = builder.add_extension(extension, critical=False)
    signed = builder.sign(issuer.private if issuer else key, hashes.SHA256())
    return Certified(signed, key, issuer.chain if issuer else ())


def _usual_extensions(key: Any, issuer: Authority | None, authority: bool) -> Iterator[x509.ExtensionType]:
    """Yields the extensions that RFC 5280 requires, as does Python from 3.13 on (`ssl.VERIFY_X509_STRICT`)."""
    yield x509.SubjectKeyIdentifier.from_public_key(key)
    yield x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.certificate.public_key() if issuer else key)
    if authority:
        yield x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
