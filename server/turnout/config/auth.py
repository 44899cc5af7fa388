"""The table `[auth]`: who is believed, and what says what they may do."""

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
    raise ValueError("expected a file, or an https URL: whoever sits between could put keys of their own into another")


class JwtIssuer(Section):
    """An issuer whose JWTs are accepted, such as an OpenID Connect provider.

    Attributes:
        issuer: The value that `iss` has to have.
        audience: Values, one of which `aud` has to hold.
        jwks: The public keys: a file, or an https URL.
        jwks_ca: PEM file with the authorities to trust for that URL; "" for the system's.
        algorithms: Signature algorithms that are accepted. Symmetric ones and `none` never are.
        subject_claim: Claim that names the caller, as `jwt:NAME/...`.
        groups_claim: Claim that holds groups, which grants may name as `group:NAME/...`; "" for none.
        leeway_s: How far clocks may differ.
        refresh_s: How often the keys are fetched again. If that fails, the earlier ones stay in force.
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
    # The bound is no part of the patterns: all that \w stands for, 128 times over, took 80 ms of each start to compile.
    subject_claim: Annotated[str, Field(max_length=128, pattern=r"^[\w.:/-]+$")] = "sub"
    groups_claim: Annotated[str, Field(max_length=128, pattern=r"^[\w.:/-]*$")] = ""
    leeway_s: Annotated[Duration, Field(le=300)] = 30.0
    refresh_s: Annotated[Duration, Field(ge=1, le=86_400)] = 300.0


class Auth(Section):
    """Who may do what. If it is not enabled, listeners accept everybody who reaches them.

    Attributes:
        enabled: Each call has to prove who makes it: by a token (`turnout token create`), a JWT, or a client
            certificate (`tls.client_certificates`).
        policy: The file that grants roles to identities, and limits them; "": only tokens grant anything.
            It is read again when it changes.
        loopback: Callers over loopback without a credential are `local`, and may do everything. Turn this off behind a
            proxy on this machine: everything that it forwards comes over loopback.
        anonymous_metrics: Let anybody read `/metrics`, which names every model.
        poll_interval_s: How often the files are checked for changes, and streams of callers whose credential has
            expired are ended.
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
            if asked:  # whoever sets one of them expects that it holds
                raise ValueError(f"expected auth.enabled to be true, since auth.{asked[0]} is set")
        issuers = [one.issuer for one in self.jwt.values()]
        if len(set(issuers)) < len(issuers):
            raise ValueError("expected each auth.jwt to have an issuer of its own")
        return self
