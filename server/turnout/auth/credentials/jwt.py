"""Verifies JWTs: the signature by the issuer's key, the audience, and the expiry."""

import contextlib
from collections.abc import Mapping
from typing import Any

import jwt

from turnout.auth.credentials.jwks import KeySet
from turnout.auth.identity import Identity
from turnout.config import JwtIssuer
from turnout.errors import UnauthenticatedError

_MOST_CHARACTERS = 16 << 10
_MOST_NAME = 512
_MOST_GROUPS = 200


class UnknownKey(UnauthenticatedError):
    """Raised when no known key has signed the token. Fetching the keys again might find it."""

    def __init__(self, issuer: str, message: str) -> None:
        super().__init__(message)
        self.issuer = issuer


class _WrongKey(UnauthenticatedError):
    """Raised when a key has not signed a token."""


class JwtVerifier:
    """Verifies JWTs of all configured issuers.

    Attributes:
        keys: Key set of each issuer, by the issuer's name in the settings.
    """

    def __init__(self, issuers: Mapping[str, JwtIssuer]) -> None:
        self._issuers = issuers
        self._names = {one.issuer: name for name, one in issuers.items()}
        self.keys = {name: KeySet(name, one) for name, one in issuers.items()}

    def verify(self, token: str) -> tuple[Identity, float, str]:
        """Returns the identity in a token, its expiry in seconds since 1970, and the credential name of its key.

        Raises:
            UnknownKey: The token's key is unknown, and may have been added or replaced since the last fetch.
            UnauthenticatedError: The token is invalid.
        """
        if len(token) > _MOST_CHARACTERS:
            raise UnauthenticatedError("the JWT is too long")
        try:
            header = jwt.get_unverified_header(token)
            claimed = jwt.decode(token, options={"verify_signature": False})
        except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError):
            raise UnauthenticatedError("the credential is neither a token of this server nor a JWT") from None
        issuer = claimed.get("iss")
        name = self._names.get(issuer) if isinstance(issuer, str) else None
        if name is None:
            raise UnauthenticatedError("the issuer of the JWT is not trusted here")
        settings, algorithm, kid = self._issuers[name], header.get("alg"), header.get("kid", "")
        if algorithm not in settings.algorithms:
            raise UnauthenticatedError("the signature algorithm of the JWT is not accepted")
        if "crit" in header or not isinstance(kid, str):
            raise UnauthenticatedError("the header of the JWT is not supported")
        known = self.keys[name].find(kid)
        if not known:
            raise UnknownKey(name, "no key of the issuer has the id that the JWT names")
        fitting = [(its_id, key) for its_id, key in known if key.algorithm in ("", algorithm)]
        if not fitting:
            raise UnauthenticatedError("the signature algorithm of the JWT is not the one that its key is for")
        for its_id, key in fitting:
            with contextlib.suppress(_WrongKey):
                return (*self._verified(token, name, settings, key.key), credential_of(name, its_id))
        raise UnknownKey(name, "the JWT is not signed by a key of its issuer")

    def _verified(self, token: str, name: str, settings: JwtIssuer, key: jwt.PyJWK) -> tuple[Identity, float]:
        try:
            claims: dict[str, Any] = jwt.decode(
                token, key.key, algorithms=list(settings.algorithms), audience=list(settings.audience),
                issuer=settings.issuer, leeway=settings.leeway_s, options={"require": ["exp", "iss", "aud"]},
            )  # fmt: skip
            expires = float(claims["exp"]) + settings.leeway_s
        except jwt.ExpiredSignatureError:
            raise UnauthenticatedError("the JWT has expired") from None
        except jwt.ImmatureSignatureError:
            raise UnauthenticatedError("the JWT is not valid yet") from None
        except jwt.InvalidAudienceError:
            raise UnauthenticatedError("the JWT is for another audience") from None
        except (jwt.InvalidSignatureError, jwt.InvalidKeyError, TypeError):  # the last for a key of another type
            raise _WrongKey("the JWT is not signed by this key") from None
        except (jwt.PyJWTError, ValueError, ArithmeticError, RecursionError):
            raise UnauthenticatedError("the JWT lacks a claim, or has one that cannot be read") from None
        subject = claims.get(settings.subject_claim)
        if not isinstance(subject, str) or not subject or len(subject) > _MOST_NAME or not subject.isprintable():
            raise UnauthenticatedError(f"the JWT has no valid subject in {settings.subject_claim}")
        groups = claims.get(settings.groups_claim, ()) if settings.groups_claim else ()
        groups = [groups] if isinstance(groups, str) else groups
        named = [one for one in groups if isinstance(one, str) and one] if isinstance(groups, list | tuple) else []
        if len(named) > _MOST_GROUPS:
            raise UnauthenticatedError(f"the JWT names more than {_MOST_GROUPS} groups")
        identity = Identity(f"jwt:{name}/{subject}", tuple(f"group:{name}/{group}" for group in named))
        return identity, expires


def credential_of(issuer: str, kid: str) -> str:
    """Returns the credential name of callers with a JWT signed by this key, who are revoked if it is removed."""
    return f"jwt of {issuer}, key {kid[:_MOST_NAME]}"
