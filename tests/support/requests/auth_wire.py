"""Creates credentials of every kind for a server under test, in files and in its state store."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from turnout.auth.credentials.tokens import new_token
from turnout.config import Settings
from turnout.state.store import StateStore
from turnout.state.tokens import TokenRecord

AUTH = {"enabled": True, "poll_interval_s": 0.05}
"""Settings of a server that requires authentication."""


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """Returns metadata, or headers, with a token; () for ""."""
    return (("authorization", f"Bearer {token}"),) if token else ()


def make_token(
    models: Path,
    name: str = "ci",
    roles: Sequence[str] = ("admin",),
    patterns: Sequence[str] = ("*",),
    *,
    ends_in: timedelta | None = None,
) -> str:
    """Creates a token in the state store of a repository, which a server may have open."""
    with StateStore.open(Settings(models=models).state_url) as store:
        return put_token(store, name, roles, patterns, ends_in=ends_in)


def put_token(
    store: StateStore, name: str, roles: Sequence[str], patterns: Sequence[str], *, ends_in: timedelta | None = None
) -> str:
    """Creates a token in an open store."""
    text, token_id, digest = new_token()
    now = datetime.now(UTC)
    ends = None if ends_in is None else now + ends_in
    record = TokenRecord(token_id, name, digest, tuple(roles), tuple(patterns), now, ends)
    store.create_token(record, actor="test", reason="")
    return text


def revoke_token(models: Path, name: str) -> None:
    with StateStore.open(Settings(models=models).state_url) as store:
        store.revoke_token(name, actor="test", reason="")


def write_policy(path: Path, *tables: str) -> str:
    """Writes a policy file atomically, and returns its path."""
    beside = path.with_suffix(".new")
    beside.write_text("\n".join(tables))
    beside.replace(path)
    return str(path)


def grant(identities: Sequence[str], roles: Sequence[str], patterns: Sequence[str] = ("*",)) -> str:
    lists = {"identities": identities, "roles": roles, "models": patterns}
    return "\n".join(["[[grant]]", *(f"{key} = {json.dumps(list(value))}" for key, value in lists.items())])


@dataclass
class Issuer:
    """Signs JWTs, and publishes its public keys."""

    name: str = "https://login.example.org"
    kid: str = "k1"
    algorithm: str = "ES256"

    def __post_init__(self) -> None:
        elliptic = self.algorithm.startswith("ES")
        self.key: Any = ec.generate_private_key(ec.SECP256R1()) if elliptic else rsa.generate_private_key(65537, 2048)

    @property
    def public(self) -> dict[str, Any]:
        """The public key as a JWK."""
        kind = jwt.algorithms.ECAlgorithm if self.algorithm.startswith("ES") else jwt.algorithms.RSAAlgorithm
        return {**json.loads(kind.to_jwk(self.key.public_key())), "kid": self.kid, "use": "sig", "alg": self.algorithm}

    def sign(self, subject: str = "ann", *, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """Signs a token of this issuer for the audience `turnout`. Claims that are None are left out."""
        now = datetime.now(UTC)
        body = {"iss": self.name, "aud": "turnout", "sub": subject, "exp": now + timedelta(minutes=5)} | claims
        kept = {key: value for key, value in body.items() if value is not None}
        return jwt.encode(kept, self.key, self.algorithm, {"kid": self.kid} | (headers or {}))


def write_keys(path: Path, *issuers: Issuer) -> str:
    """Writes a JSON Web Key Set atomically, and returns its path."""
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps({"keys": [one.public for one in issuers]}))
    beside.replace(path)
    return str(path)


@contextmanager
def serving_keys(answer: Callable[[str], tuple[int, Sequence[Issuer]]]) -> Iterator[str]:
    """A web server of keys. Yields its address; `answer` returns the status, and whose keys, for a request's path."""

    class Keys(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, issuers = answer(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps({"keys": [one.public for one in issuers]}).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Keys) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{serving.server_port}"
        finally:
            serving.shutdown()
            thread.join()
