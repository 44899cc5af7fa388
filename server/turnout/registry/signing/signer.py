"""Signs versions, with a key or with a signature made elsewhere."""

from dataclasses import dataclass
from typing import Protocol, Self

from turnout.errors import ConfigError, Conflict, InvalidRequest
from turnout.registry.manifest.manifest import MANIFEST_FILE
from turnout.registry.signing.bundle import Bundle, Statement, message
from turnout.registry.signing.certificates import SignerCertificate
from turnout.registry.signing.keys import PrivateKey, PublicKey
from turnout.registry.storage.listing import Published


class Signer(Protocol):
    """Signs versions: has a key, or a signature that was made elsewhere."""

    @property
    def key(self) -> PublicKey:
        """The public key for checking its signatures."""

    def sign(self, published: Published) -> Bundle:
        """Returns a signature over all files of a version.

        Raises:
            Conflict: The signature was made elsewhere, over something else.
        """


@dataclass(frozen=True, slots=True)
class KeySigner:
    """Signs with a private key.

    Attributes:
        certificate: Certificate of the key; None for a bare key.
    """

    private: PrivateKey
    certificate: SignerCertificate | None = None

    def __post_init__(self) -> None:
        if self.certificate is None:
            return
        if self.certificate.key != self.key:
            raise ConfigError("the certificate is for another key")
        if fault := self.certificate.fault_now():
            raise ConfigError(fault)

    @property
    def key(self) -> PublicKey:
        """The public key."""
        return self.private.public

    def sign(self, published: Published) -> Bundle:
        """Signs a version as its manifest describes it. The caller must have checked that its files match."""
        payload = Statement.of(published).payload()
        signature = self.private.sign(message(payload))
        if self.certificate is None:
            return Bundle(payload, signature, hint=self.key.hint)
        return Bundle(payload, signature, certificates=self.certificate.der)


@dataclass(frozen=True, slots=True)
class MadeElsewhere:
    """A signature that was made elsewhere, and checked to be by its key."""

    key: PublicKey
    bundle: Bundle

    @classmethod
    def read(cls, data: bytes, key: PublicKey | None, at: str = "model_signature.bundle") -> Self:
        """Reads a bundle in JSON, called `at` in errors, and checks its signature by `key`, which is ignored if the
        bundle has a certificate.

        Raises:
            InvalidRequest: It is not a model signature, its key did not make it, or the key must not sign now.
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
            raise InvalidRequest.at("model_signature.public_key", "expected the key to check the signature with")
        if not made_by(key, bundle):
            raise InvalidRequest.at(at, f"was not made by the key {key.id}")
        return cls(key, bundle)

    def sign(self, published: Published) -> Bundle:
        """Returns the signature if it covers all files of the version. Raises Conflict if it does not."""
        statement = self.bundle.statement
        if not statement.is_about(published):
            made = statement.files.get(MANIFEST_FILE, f"no version (it does not cover {MANIFEST_FILE})")
            raise Conflict(f"what is signed is {made}, but the version is {published.digest}; look again")
        if fault := statement.fault(published):
            raise Conflict(f"the signature does not cover the version as it is: {fault}")
        return self.bundle


def made_by(key: PublicKey, bundle: Bundle) -> bool:
    """Returns whether the key made the signature in the bundle, and the bundle does not name another key."""
    return bundle.hint in ("", key.hint) and key.made(bundle.signature, bundle.message)
