"""Reads the identity in a client certificate, whose signature the transport has already verified."""

from cryptography import x509

from turnout.auth.identity import Identity, of_certificate
from turnout.certificate_errors import UNREADABLE
from turnout.errors import UnauthenticatedError


def identity_of_certificate(pem: str) -> tuple[Identity, float]:
    """Returns the identity in a certificate, and when the certificate expires, in seconds since 1970.

    Raises:
        UnauthenticatedError: The certificate contains no identity.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        found = of_certificate(uris, names.get_values_for_type(x509.DNSName))
    except (x509.ExtensionNotFound, *UNREADABLE):
        found = None
    if found is None:
        raise UnauthenticatedError("the client's certificate has no identity: no SPIFFE URI and no DNS name")
    return found, certificate.not_valid_after_utc.timestamp()
