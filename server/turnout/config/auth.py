"""The table `[auth]`: which credentials are accepted, and where permissions are defined."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode

from turnout.address import is_loopback
from turnout.config.sections import Section
from turnout.config.values import Duration, FilePath, listed

JwtAlgorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]  # fmt: skip

_ISSUER_NAME = r"^[a-z0-9][a-z0-9_-]{0,31}$"


def _jwks(value: str) -> str:
    if "://" not in value:
        return value
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018 - raises if it is not a port
    except ValueError:
        raise ValueError("expected a file, or an https URL") from None
    if "@" in parts.netloc or parts.fragment:
        raise ValueError("expected a URL without a user, password and fragment")
    if parts.scheme == "https" and parts.hostname:
        return value
    if parts.scheme == "http" and is_loopback(parts.hostname or ""):
        return value
    raise ValueError("expected a file, or an https URL: with plain HTTP, keys could be replaced on the way")


class JwtIssuer(Section):
    """An issuer whose JWTs are accepted, such as an OpenID Connect provider.

    Attributes:
        issuer: Required value of the claim `iss`.
        audience: Accepted audiences. The claim `aud` must contain at least one of them.
        jwks: The issuer's public keys, as a JWK set: path of a file, or an https URL.
        jwks_ca: PEM file with the authorities to trust for that URL; "" for the system's.
        algorithms: Accepted signature algorithms. Symmetric algorithms and `none` are never accepted.
        subject_claim: Claim with the caller's name. Its identity is `jwt:NAME/...`.
        groups_claim: Claim with the caller's groups, which grants can refer to as `group:NAME/...`; "" for none.
        leeway_s: Maximum difference between clocks.
        refresh_s: How often the keys are fetched again. If that fails, the previous keys stay in use.
    """

    issuer: Annotated[str, Field(min_length=1, max_length=1024)]
    audience: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=1024)], ...],
        NoDecode,
        BeforeValidator(listed),
        Field(min_length=1),
    ]
    jwks: Annotated[FilePath, AfterValidator(_jwks), Field(min_length=1)]
    jwks_ca: FilePath = ""
    algorithms: Annotated[tuple[JwtAlgorithm, ...], NoDecode, BeforeValidator(listed), Field(min_length=1)] = (
        "RS256",
        "ES256",
    )
    # The length limit is not part of the patterns: compiling \w{1,128} took 80 ms at each start.
    subject_claim: Annotated[str, Field(max_length=128, pattern=r"^[\w.:/-]+$")] = "sub"
    groups_claim: Annotated[str, Field(max_length=128, pattern=r"^[\w.:/-]*$")] = ""
    leeway_s: Annotated[Duration, Field(le=300)] = 30.0
    refresh_s: Annotated[Duration, Field(ge=1, le=86_400)] = 300.0


class Auth(Section):
    """Authentication and authorization. If this is not enabled, the listeners accept every caller.

    Attributes:
        enabled: Require every caller to authenticate: with a token (`turnout token create`), a JWT, or a client
            certificate (`tls.client_certificates`).
        policy: Path of the policy file, which grants roles to identities and sets their limits; "" if only tokens grant
            permissions. The file is read again when it changes.
        loopback: Treat callers on loopback without a credential as the identity `local`, which may do everything. Turn
            this off if a proxy runs on this machine, since all requests that it forwards come over loopback.
        anonymous_metrics: Allow reading `/metrics`, which has the name of every model, without authentication.
        poll_interval_s: How often the files are checked for changes, and how often the streams of callers whose
            credential has expired are ended.
        jwt: Issuers of JWTs, by a name that you choose.
    """

    enabled: bool = False
    policy: FilePath = ""
    loopback: bool = False
    anonymous_metrics: bool = False
    poll_interval_s: Annotated[Duration, Field(ge=0.01, le=60)] = 1.0
    jwt: Mapping[Annotated[str, Field(pattern=_ISSUER_NAME)], JwtIssuer] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_in_force(self) -> Self:
        if not self.enabled:
            asked = [name for name in ("policy", "loopback", "anonymous_metrics", "jwt") if getattr(self, name)]
            if asked:  # they have no effect unless authentication is enabled
                raise ValueError(f"expected auth.enabled to be true, since auth.{asked[0]} is set")
        issuers = [one.issuer for one in self.jwt.values()]
        if len(set(issuers)) < len(issuers):
            raise ValueError("expected each auth.jwt to have an issuer of its own")
        return self
