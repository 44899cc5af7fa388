"""Checks a listener's certificate, key and client authorities before any transport uses them. No I/O.

Transports reject unusable files only at the first connection, with "handshake failed". Here, each fault results in an
error message that explains it.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from turnout.certificate_errors import UNREADABLE
from turnout.config import ClientCertificates
from turnout.errors import ConfigError

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_LEAST_RSA_BITS = 2048
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


@dataclass(frozen=True, slots=True)
class PemFile:
    """The contents of a PEM file.

    Attributes:
        setting: Dotted key of the setting with the file's path.
        data: Contents of the file, left out of the repr because they may be secret.
    """

    setting: str
    path: str
    data: bytes = field(repr=False)

    def __str__(self) -> str:
        return f"{self.setting} ({self.path})"

    def labels(self) -> list[str]:
        """Returns the labels of the PEM blocks, in order."""
        return [match[1].decode() for match in _BLOCK.finditer(self.data)]


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """The identity that a listener presents to clients, and what it requires of them.

    Attributes:
        certificate: The server's own certificate, followed by the intermediate certificates, as PEM.
        key: Private key as PEM, PKCS #8, not encrypted.
        client_ca: Authorities that may sign client certificates, as PEM; b"" if clients are not asked for one.
        client_certificates: Whether clients are asked for a certificate, and whether one is required.
        subject: Subject of the server's own certificate, in the format of RFC 4514.
        begins: When the last of the certificates becomes valid, in seconds since 1970.
        expires: When the first of the certificates expires, in seconds since 1970.
        warnings: Problems that do not prevent the identity from being used.
    """

    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)
    client_ca: bytes = field(repr=False)
    client_certificates: ClientCertificates
    subject: str
    begins: float
    expires: float
    warnings: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[bytes, bytes, bytes]:
        """The contents that came from files. Two identities with equal contents are the same."""
        return self.certificate, self.key, self.client_ca

    def is_valid_at(self, now: float) -> bool:
        """Returns whether all certificates are within their validity period at `now`, in seconds since 1970."""
        return self.begins <= now <= self.expires


IdentitySource: TypeAlias = Callable[[], ServerIdentity]
"""Returns the identity to present. Called at each handshake, from any thread."""


def check_identity(
    cert: PemFile, key: PemFile, client_ca: PemFile | None, mode: ClientCertificates, now: float
) -> ServerIdentity:
    """Checks the files and returns the identity in them.

    Args:
        cert: The server's certificate, followed by the intermediate certificates.
        key: The certificate's private key.
        client_ca: Authorities that may sign client certificates; None if clients are not asked for one.
        mode: Whether clients are asked for a certificate.
        now: Current time in seconds since 1970.

    Raises:
        ConfigError: A file has unexpected contents, or the files do not belong together.
    """
    try:
        chain = _certificates(cert, "the server's certificate")
        private = _private_key(key)
        _check_pair(chain, cert, private, key)
        authorities = (
            [] if client_ca is None else _certificates(client_ca, "authorities that sign clients' certificates")
        )
        warnings = [*_out_of_time(chain, cert, now)]
        if client_ca is not None and all(end < now for _, end in map(_times, authorities)):
            warnings.append(f"{client_ca}: every authority has expired, so no client's certificate is accepted")
        if not _names_a_host(chain[0]):
            warnings.append(f"{cert}: {_subject(chain[0])} names no host (subjectAltName), so clients will refuse it")
        return ServerIdentity(
            certificate=b"".join(one.public_bytes(Encoding.PEM) for one in chain),
            key=private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            client_ca=b"".join(one.public_bytes(Encoding.PEM) for one in authorities),
            client_certificates=mode,
            subject=_subject(chain[0]),
            begins=max(begin for begin, _ in map(_times, chain)),
            expires=min(end for _, end in map(_times, chain)),
            warnings=tuple(warnings),
        )
    except UNREADABLE as error:
        files = ", ".join(map(str, filter(None, (cert, client_ca))))
        raise ConfigError(f"a certificate in {files} cannot be read: {error}") from None


def utc_text(seconds: float) -> str:
    """Formats a time in seconds since 1970, such as `2026-12-24 18:00 UTC`."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


_PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def _certificates(file: PemFile, what: str) -> list[x509.Certificate]:
    if "CERTIFICATE" not in file.labels():
        raise ConfigError(f"{file} holds no PEM certificate, expected {what}{_held_instead(file)}")
    try:
        return x509.load_pem_x509_certificates(file.data)
    except UNREADABLE as error:
        raise ConfigError(f"{file} holds a certificate that cannot be read: {error}") from None


def _private_key(file: PemFile) -> _PrivateKey:
    blocks = [match for match in _BLOCK.finditer(file.data) if match[1].endswith(b"PRIVATE KEY")]
    if not blocks:
        raise ConfigError(f"{file} holds no PEM private key{_held_instead(file)}")
    block = blocks[0]
    if block[1] == b"ENCRYPTED PRIVATE KEY" or b"ENCRYPTED" in block[0].partition(b"\n\n")[0]:
        raise ConfigError(
            f"{file} is encrypted, and the server cannot ask for its passphrase when it starts: "
            "store it without one (openssl pkey -in FILE -out NEW), readable by the server's user alone"
        )
    try:
        key = load_pem_private_key(block[0] + b"\n", None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(
            f"{file} holds a private key that cannot be read"
        ) from None  # the original error may quote the key
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < _LEAST_RSA_BITS:
            raise ConfigError(f"{file} is an RSA key of {key.key_size} bits, expected {_LEAST_RSA_BITS} or more")
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey):
        if not isinstance(key.curve, _CURVES):
            raise ConfigError(f"{file} is a key on the curve {key.curve.name}, expected P-256, P-384 or P-521")
        return key
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    raise ConfigError(f"{file} is a key of another kind than RSA, ECDSA or Ed25519")


def _check_pair(chain: Sequence[x509.Certificate], cert: PemFile, private: _PrivateKey, key: PemFile) -> None:
    own = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    owners = [
        place
        for place, one in enumerate(chain, 1)
        if one.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == own
    ]
    if not owners:
        raise ConfigError(f"{key} does not belong to the certificate in {cert}, {_subject(chain[0])}")
    if 1 not in owners:
        raise ConfigError(
            f"{cert} has to begin with the server's own certificate; the key belongs to number {owners[0]} in it"
        )


def _out_of_time(chain: Sequence[x509.Certificate], file: PemFile, now: float) -> Iterator[str]:
    for one in chain:
        begin, end = _times(one)
        if end < now:
            yield f"{file}: {_subject(one)} expired on {utc_text(end)}, so clients will refuse it"
        elif begin > now:
            yield f"{file}: {_subject(one)} is not valid before {utc_text(begin)}, so clients will refuse it"


def _times(one: x509.Certificate) -> tuple[float, float]:
    return one.not_valid_before_utc.timestamp(), one.not_valid_after_utc.timestamp()


def _names_a_host(one: x509.Certificate) -> bool:
    try:
        names = one.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    return bool(names.get_values_for_type(x509.DNSName) or names.get_values_for_type(x509.IPAddress))


def _subject(one: x509.Certificate) -> str:
    return one.subject.rfc4514_string() or f"the certificate of serial number {one.serial_number:x}"


def _held_instead(file: PemFile) -> str:
    """Describes the contents of a file that does not contain what was expected."""
    labels = file.labels()
    if labels:
        return f"; it holds {', '.join(label.lower() for label in labels)}"
    if not file.data.strip():
        return "; it is empty"
    if file.data.startswith(b"\x30"):
        return "; it looks like DER (openssl x509 and openssl pkey convert that with -inform der)"
    return ""
