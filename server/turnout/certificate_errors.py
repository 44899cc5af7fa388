"""The exceptions that `cryptography` raises for malformed certificates. Pure."""

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

UNREADABLE = (
    ValueError, TypeError, UnsupportedAlgorithm,
    x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType,
)  # fmt: skip
"""They have no common base class. Parts of a certificate, such as its extensions, are only parsed on access."""
