"""Who signs a version: a key that is at hand, or one that is elsewhere and sent its signature."""

from dataclasses import dataclass
from typing import Protocol, Self

from turnout.errors import ConfigError, Conflict, InvalidRequest
from turnout.registry.manifest.manifest import MANIFEST_FILE
from turnout.registry.signing.bundle import Bundle, Statement, message
from turnout.registry.signing.certificates import SignerCertificate
from turnout.registry.signing.keys import PrivateKey, PublicKey
from turnout.registry.storage.listing import Published


class Signer(Protocol):
    """Signs versions: holds a key, or brings a signature along."""

    @property
    def key(self) -> PublicKey:
        """What its signatures are checked with."""

    def sign(self, published: Published) -> Bundle:
        """Returns a signature over every file of a version.

        Raises:
            Conflict: It was made elsewhere, over something else.
        """


@dataclass(frozen=True, slots=True)
class KeySigner:
    """Signs with a key that is at hand.

    Attributes:
        certificate: Says whose it is; None for a bare key.
    """

    private: PrivateKey
    certificate: SignerCertificate | None = None

    def __post_init__(self) -> None:
        if self.certificate is None:
            return
        if self.certificate.key != self.key:
            raise ConfigError("the certificate is that of another key")
        if fault := self.certificate.fault_now():
            raise ConfigError(fault)

    @property
    def key(self) -> PublicKey:
        """The public part."""
        return self.private.public

    def sign(self, published: Published) -> Bundle:
        """Signs a version as its manifest describes it; whether its bytes are those is for the caller to know."""
        payload = Statement.of(published).payload()
        signature = self.private.sign(message(payload))
        if self.certificate is None:
            return Bundle(payload, signature, hint=self.key.hint)
        return Bundle(payload, signature, certificates=self.certificate.der)


@dataclass(frozen=True, slots=True)
class MadeElsewhere:
    """A signature that was made where the key is, and was found to be the key's."""

    key: PublicKey
    bundle: Bundle

    @classmethod
    def read(cls, data: bytes, key: PublicKey | None, at: str = "model_signature.bundle") -> Self:
        """Reads a JSON bundle and verifies its signature with `key`, or with the certificate in the bundle, if any.

        `at` names the bundle in error messages.

        Raises:
            InvalidRequest: It is no such bundle, its key did not make it, or the key may not sign now.
        """
        try:
            bundle = Bundle.from_bytes(data)
            _ = bundle.statement
        except ValueError as error:
            raise InvalidRequest.at(at, f"expected an OpenSSF model signature, but {error}") from None
        if bundle.certificates:
            try:
                certificate = SignerCertificate.from_der(bundle.certificates)
            except ValueError as error:
                raise InvalidRequest.at(at, f"its certificate {error}") from None
            if fault := certificate.fault_now():
                raise InvalidRequest.at(at, fault)
            key = certificate.key
        if key is None:
            raise InvalidRequest.at("model_signature.public_key", "expected the key that the signature is checked with")
        if not made_by(key, bundle):
            raise InvalidRequest.at(at, f"was not made by the key {key.id}")
        return cls(key, bundle)

    def sign(self, published: Published) -> Bundle:
        """Returns the signature, if it is one over every file of the version.

        Raises:
            Conflict: It is not.
        """
        statement = self.bundle.statement
        if not statement.is_about(published):
            made = statement.files.get(MANIFEST_FILE, f"no version (it does not cover {MANIFEST_FILE})")
            raise Conflict(f"what is signed is {made}, and the version is {published.digest}; look again")
        if fault := statement.fault(published):
            raise Conflict(f"the signature does not cover the version as it is: {fault}")
        return self.bundle


def made_by(key: PublicKey, bundle: Bundle) -> bool:
    """Tells whether the key's owner made a signature with it, and the bundle does not name another."""
    return bundle.hint in ("", key.hint) and key.made(bundle.signature, bundle.message)
