"""Certificates for signatures: the signer's own, and the authorities that issued it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from turnout.certificate_errors import UNREADABLE
from turnout.errors import ConfigError
from turnout.registry.signing.keys import PublicKey, UnfitKeyError
from turnout.registry.storage.files import read_named

_DAY = "%Y-%m-%d"


@dataclass(frozen=True, slots=True)
class SignerCertificate:
    """A signer's certificate, which binds a key to an identity.

    Attributes:
        chain: The signer's certificate, followed by those between it and an authority.
    """

    chain: tuple[x509.Certificate, ...]
    key: PublicKey

    @classmethod
    def from_der(cls, chain: Iterable[bytes]) -> Self:
        """Reads the certificates of a bundle, the signer's first.

        Raises:
            ValueError: One of them is not a certificate, or the first one is not for a key that can sign models.
        """
        try:
            return cls._of(tuple(map(x509.load_der_x509_certificate, chain)))
        except UNREADABLE as error:
            raise ValueError(_half(error, "is not a valid certificate")) from None

    @classmethod
    def load(cls, file: Path) -> Self:
        """Reads a PEM file with the signer's certificate first, then those between it and an authority.

        Raises:
            ConfigError: The file cannot be read, or does not contain a signer's certificate.
        """
        try:
            return cls._of(tuple(x509.load_pem_x509_certificates(read_named(file, "certificate"))))
        except UNREADABLE as error:
            raise ConfigError(f"{file} {_half(error, 'contains no certificate as PEM')}") from None

    @classmethod
    def _of(cls, chain: tuple[x509.Certificate, ...]) -> Self:
        return cls(chain, PublicKey.of(chain[0].public_key()))

    @property
    def der(self) -> tuple[bytes, ...]:
        """All certificates as DER, as in a bundle."""
        return tuple(one.public_bytes(Encoding.DER) for one in self.chain)

    def fault_now(self) -> str:
        """Returns why the certificate cannot be used to sign now; "" if it can."""
        own, now = self.chain[0], datetime.now(UTC)
        if now > own.not_valid_after_utc:
            return f"the signer's certificate expired on {own.not_valid_after_utc.strftime(_DAY)}"
        if now < own.not_valid_before_utc:
            return f"the signer's certificate is not valid before {own.not_valid_before_utc.strftime(_DAY)}"
        return usage_fault(own)


@dataclass(frozen=True, slots=True)
class Authorities:
    """The trusted certificate authorities."""

    roots: tuple[x509.Certificate, ...] = ()

    @classmethod
    def load(cls, files: Iterable[str]) -> Self:
        """Reads PEM files, each with one or more certificates.

        Raises:
            ConfigError: A file cannot be read, or contains no certificate.
        """
        roots: list[x509.Certificate] = []
        for file in files:
            try:
                roots += x509.load_pem_x509_certificates(read_named(Path(file), "certificate of an authority"))
            except UNREADABLE:
                raise ConfigError(f"{file} contains no certificate as PEM") from None
        return cls(tuple(roots))

    def fault(self, signer: SignerCertificate) -> str:
        """Returns why the authorities do not vouch for a signer; "" if they do.

        Like `model_signing`, this checks the chain as of the beginning of the signer's certificate, so that versions
        signed while it was valid can still be served after it expired. `SignerCertificate.fault_now` checks whether it
        can be used to sign now.
        """
        if not self.roots:
            return "no authority is trusted (signing.trusted_authorities)"
        own, *between = signer.chain
        policy = (
            verification.PolicyBuilder()
            .store(verification.Store(list(self.roots)))
            .time(own.not_valid_before_utc)
            .extension_policies(ca_policy=_AUTHORITY, ee_policy=verification.ExtensionPolicy.permit_all())
        )
        try:
            policy.build_client_verifier().verify(own, between)
        except (verification.VerificationError, *UNREADABLE):
            return "its certificate was not issued by a trusted authority (signing.trusted_authorities)"
        return usage_fault(own)


def _half(error: Exception, otherwise: str) -> str:
    """Returns the phrase about a key that `PublicKey.of` raised, or `otherwise`."""
    return str(error) if isinstance(error, UnfitKeyError) else otherwise


def usage_fault(certificate: x509.Certificate) -> str:
    """Returns why a certificate cannot be used to sign models; "" if it can.

    It must allow this explicitly, by its key usage (digital signature) or its extended key usage (code signing), and
    neither may be for something else. A TLS server's certificate has this key usage too, but an extended key usage that
    names only the server.
    """
    try:
        extensions = certificate.extensions
    except UNREADABLE:
        return "its certificate has extensions that cannot be read"
    says = False
    for extension in extensions:
        match extension.value:
            case x509.BasicConstraints(ca=True):
                return "its certificate is that of an authority, which signs certificates"
            case x509.KeyUsage() as usage:
                if not usage.digital_signature:
                    return "its certificate is not for signing (key usage)"
                says = True
            case x509.ExtendedKeyUsage() as usages:
                if ExtendedKeyUsageOID.CODE_SIGNING not in usages:
                    return "its certificate is for something else than signing code (extended key usage)"
                says = True
    return "" if says else "its certificate does not say that it is for signing (key usage, or code signing)"


def _is_authority(_: verification.Policy, __: x509.Certificate, constraints: x509.BasicConstraints) -> None:
    if not constraints.ca:
        raise ValueError("not that of an authority")


def _may_certify(_: verification.Policy, __: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("not for signing certificates")


_EITHER = verification.Criticality.AGNOSTIC
_AUTHORITY = (
    verification.ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, _EITHER, _is_authority)
    .may_be_present(x509.KeyUsage, _EITHER, _may_certify)
)
