"""Bearer tokens: `turnout_ID_SECRET`. The store keeps only a hash. Pure except for the random bits.

A secret has 256 random bits and cannot be guessed, so a plain SHA-256 protects it as well as a slow hash would. The
prefix lets secret scanners find tokens in code. The id identifies the token, also in logs, but does not authenticate.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence

from turnout.auth.identity import Identity
from turnout.auth.roles import AccessRole, AccessScope, patterns
from turnout.errors import InvalidRequest
from turnout.state.tokens import TokenRecord

PREFIX = "turnout_"
_TOKEN = re.compile(r"turnout_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
_MODELS = re.compile(r"[A-Za-z0-9_.*-]{1,128}")
_MOST_MODELS = 32


def identity_of(record: TokenRecord) -> Identity:
    """Returns the identity that a token proves."""
    return Identity(f"token:{record.name}")


def scope_of(record: TokenRecord) -> AccessScope:
    """Returns the scope of a token. Roles that only a later version of Turnout knows grant nothing here."""
    known = frozenset(AccessRole(role) for role in record.roles if role in set(AccessRole))
    return AccessScope(known, patterns(record.models), f"token {record.name} ({record.id})")


def new_token() -> tuple[str, str, str]:
    """Returns a new token, its id and its digest."""
    token_id = secrets.token_hex(8)
    token = f"{PREFIX}{token_id}_{secrets.token_urlsafe(32)}"
    return token, token_id, digest_of(token)


def digest_of(token: str) -> str:
    """Returns the SHA-256 digest of a token in hex."""
    return hashlib.sha256(token.encode()).hexdigest()


def id_of(token: str) -> str | None:
    """Returns the id in a token; None if the text is not in a token's format."""
    match = _TOKEN.fullmatch(token)
    return match[1] if match else None


def proves(token: str, record: TokenRecord | None) -> bool:
    """Returns whether `token` matches `record`, in a time that does not depend on how much of the token is correct."""
    return (
        hmac.compare_digest(digest_of(token), record.digest if record is not None else "0" * 64) and record is not None
    )


def check_name(name: str) -> str:
    """Checks the name of a new token and returns it.

    Raises:
        InvalidRequest: The name is not valid for a token.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest.at("name", f"expected 1 to 63 of letters, digits, . _ @ and -, got {name[:64]!r}")
    return name


def check_scope(roles: Sequence[str], models: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Checks the scope of a new token and returns it.

    Raises:
        InvalidRequest: A role does not exist, or a model pattern is invalid.
    """
    known = {str(role) for role in AccessRole}
    for role in roles:
        if role not in known:
            raise InvalidRequest.at("role", f"expected one of {', '.join(AccessRole)}, got {role[:32]!r}")
    if not roles:
        raise InvalidRequest.at("role", f"expected at least one of {', '.join(AccessRole)}")
    if not 1 <= len(models) <= _MOST_MODELS:
        raise InvalidRequest.at("model", f"expected 1 to {_MOST_MODELS} patterns")
    for model in models:
        if not _MODELS.fullmatch(model):
            raise InvalidRequest.at(
                "model", f"expected a name, in which * stands for any characters, got {model[:64]!r}"
            )
    return tuple(str(role) for role in AccessRole if role in roles), tuple(dict.fromkeys(models))
