"""The identity that a caller has proved. Pure.

spiffe://example.org/ns/prod/sa/web     a certificate's URI, the first of its SPIFFE IDs
dns:web.example.org                     a certificate's DNS name, if it has no URI
token:ci                                a token made by `turnout token create ci`
jwt:corp/ann                            the subject `ann` of a JWT of the issuer [auth.jwt.corp]
group:corp/ml                           a group in that JWT: not an identity, but grants may name it
console                                 anyone signed in with the console's own token
local                                   a caller over loopback without a credential, if that is configured
anonymous                               a caller without a credential
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

ANONYMOUS_NAME = "anonymous"
KINDS = ("spiffe://", "dns:", "token:", "jwt:", "group:", "console", "local", ANONYMOUS_NAME, "*")
"""Prefixes of identities and of patterns for them."""

_ACTOR_BYTES = 200
_DIGEST = 12


@dataclass(frozen=True, slots=True)
class Identity:
    """A proved identity.

    Attributes:
    name: The name in the form above; it is the actor in the log.
    also: Other names that grants may use for the identity: groups, and further names in a certificate.
    """

    name: str
    also: tuple[str, ...] = ()

    @property
    def anonymous(self) -> bool:
        """Whether the caller has no credential."""
        return self.name == ANONYMOUS_NAME

    @property
    def actor(self) -> str:
        """The name, shortened to fit the log. A shortened name ends with a digest of the full name."""
        encoded = self.name.encode()
        if len(encoded) <= _ACTOR_BYTES:
            return self.name
        digest = hashlib.sha256(encoded).hexdigest()[:_DIGEST]
        return f"{encoded[: _ACTOR_BYTES - _DIGEST - 1].decode('utf-8', 'ignore')}~{digest}"


ANONYMOUS = Identity(ANONYMOUS_NAME)
LOCAL = Identity("local")
CONSOLE = Identity("console")


def of_certificate(uris: Sequence[str], dns_names: Sequence[str]) -> Identity | None:
    """Returns the identity in a certificate; None if it has no SPIFFE URI or DNS name. Common names are ignored."""
    names = [uri for uri in uris if uri.startswith("spiffe://") and uri.isprintable()]
    names += [f"dns:{name.lower()}" for name in dns_names if name.isprintable()]
    return Identity(names[0], tuple(names[1:])) if names else None
