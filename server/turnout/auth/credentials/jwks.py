"""The public keys of a JWT issuer, which are fetched, checked, and fetched again.

If the set cannot be fetched or parsed, the previous keys stay in force. A key that is removed from the set is rejected
after the next fetch.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from turnout.config import JwtIssuer
from turnout.config.files import open_regular
from turnout.errors import ConfigError
from turnout.outbound import ask

_MOST_BYTES = 1 << 20
_MOST_KEYS = 100
_MOST_TRIED = 10
"""Maximum number of keys that are tried for a JWT that names none. Each takes some 0.1 ms, and anyone can send one."""
_FETCH_SECONDS = 5.0
_LEAST_BETWEEN = 10.0
"""Minimum time in seconds between two fetches for an unknown key, since any client can make up a `kid`."""
_LEAST_RSA_BITS = 2048
_KEY_TYPES = "RSA", "EC", "OKP"


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key that verifies signatures.

    Attributes:
        algorithm: The algorithm that the key is for; "" if the set does not say.
        text: The JWK as text, by which keys are compared.
    """

    key: jwt.PyJWK = field(compare=False)
    algorithm: str
    text: str


Keys: TypeAlias = Mapping[str, frozenset[VerificationKey]]
"""Keys by id. Several may share one, as RFC 7517 permits; one without an id gets one made from its contents."""


class KeySet:
    """The keys of one issuer. `fetch` blocks; the other methods are for the event loop.

    Attributes:
        failure: Why the last fetch failed; "" if it succeeded.
    """

    def __init__(self, name: str, settings: JwtIssuer) -> None:
        """Creates an empty set without fetching anything. `name` is the name of the issuer in the settings."""
        self._name = name
        self._settings = settings
        self._keys: Keys = {}
        self._fetched = self._tried = -1e9
        self.failure = ""

    def find(self, kid: str) -> Sequence[tuple[str, VerificationKey]]:
        """Returns the keys with this id, and the id; without an id, all keys, unless there are too many to try."""
        if kid:
            return [(kid, key) for key in self._keys.get(kid, ())]
        every = [(name, key) for name, keys in self._keys.items() for key in keys]
        return every if len(every) <= _MOST_TRIED else []

    @property
    def due(self) -> bool:
        """Whether it is time to fetch the keys again."""
        now = time.monotonic()
        wait = self._settings.refresh_s if not self.failure else min(self._settings.refresh_s, _LEAST_BETWEEN)
        return now - self._tried >= wait

    @property
    def may_look(self) -> bool:
        """Whether the keys may be fetched again now because of an unknown key."""
        return time.monotonic() - self._tried >= _LEAST_BETWEEN

    def tried(self) -> None:
        """Records that a fetch has started."""
        self._tried = time.monotonic()

    def fetch(self) -> Keys:
        """Fetches and returns the keys.

        Raises:
            ConfigError: The keys cannot be fetched, or the document is not a key set.
        """
        setting, source = f"auth.jwt.{self._name}.jwks", self._settings.jwks
        try:
            data = self._download(source) if "://" in source else _read(source)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"{setting}: {source} cannot be read: {reason}") from None
        if len(data) > _MOST_BYTES:
            raise ConfigError(f"{setting}: {source} is larger than {_MOST_BYTES >> 20} MiB")
        return read_keys(data, f"{setting}: {source}")

    def put(self, keys: Keys) -> set[str]:
        """Puts fetched keys into force. Returns the ids of keys that were changed or removed."""
        before, self._keys, self.failure = self._keys, keys, ""
        return {kid for kid, key in before.items() if keys.get(kid) != key}

    def _download(self, url: str) -> bytes:
        answer = ask(
            "GET", url, headers={"accept": "application/json"}, timeout_s=_FETCH_SECONDS, most_bytes=_MOST_BYTES + 1,
            ca_file=self._settings.jwks_ca,
        )  # fmt: skip
        if 300 <= answer.status < 400:  # a redirect could lead to a host that is not configured
            raise ValueError(f"it answers {answer.status}, and redirects are not followed")
        if not 200 <= answer.status < 300:
            raise ValueError(f"it answers {answer.status}")
        return answer.body


def read_keys(data: bytes, where: str) -> Keys:
    """Returns the keys of a JSON Web Key Set from a file or URL that can verify signatures; others are left out.

    Raises:
        ConfigError: The document is not a key set, or contains no usable key.
    """
    try:
        document = json.loads(data)
        listed = document["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError(f"{where} is not a JSON Web Key Set") from None
    if not isinstance(listed, list) or len(listed) > _MOST_KEYS:
        raise ConfigError(f"{where}: expected at most {_MOST_KEYS} keys")
    found: dict[str, frozenset[VerificationKey]] = {}
    for one in listed:
        if (key := _key(one)) is not None:
            kid = str(one.get("kid") or f"#{hashlib.sha256(key.text.encode()).hexdigest()[:16]}")
            found[kid] = found.get(kid, frozenset()) | {key}
    if not found:
        raise ConfigError(f"{where} has no public key that signatures can be verified by")
    return found


def _key(one: Any) -> VerificationKey | None:
    if not isinstance(one, dict) or one.get("kty") not in _KEY_TYPES or one.get("use", "sig") != "sig":
        return None
    if "d" in one:  # a private key, which does not belong here
        return None
    operations = one.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    try:
        key = jwt.PyJWK.from_dict(one)
    except Exception:  # noqa: BLE001 - PyJWT raises what its libraries do, such as NotImplementedError for `"alg": "none"`
        return None
    if isinstance(key.key, RSAPublicKey) and key.key.key_size < _LEAST_RSA_BITS:
        return None
    return VerificationKey(key, str(one.get("alg", "")), json.dumps(one, sort_keys=True))


def _read(path: str) -> bytes:
    with open_regular(path) as file:
        return file.read(_MOST_BYTES + 1)
