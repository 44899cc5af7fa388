"""The public keys of an issuer of JWTs: fetched, checked, kept, and fetched again.

If the set cannot be fetched or read, the previous keys stay in force. A key that has left the set is no longer accepted
after the next fetch.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from turnout.config import JwtIssuer
from turnout.config.files import open_regular
from turnout.errors import ConfigError
from turnout.outbound import ask

_MOST_BYTES = 1 << 20
_MOST_KEYS = 100
_FETCH_SECONDS = 5.0
_LEAST_BETWEEN = 10.0
"""Seconds between two fetches for an unknown key: anybody can make up a `kid`."""
_LEAST_RSA_BITS = 2048
_KEY_TYPES = {"RSA", "EC", "OKP"}


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """One key.

    Attributes:
        algorithm: The one that it is for; "" if the set does not say.
        text: The JWK; two keys are compared by it.
    """

    key: jwt.PyJWK = field(compare=False)
    algorithm: str
    text: str


class KeySet:
    """The keys of one issuer. `fetch` blocks, all else is for the event loop.

    Attributes:
        failure: Why they could not be fetched the last time; "" if they could.
    """

    def __init__(self, name: str, settings: JwtIssuer, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepares; nothing is fetched.

        Args:
            name: Of the issuer in the settings.
            settings: Of the issuer.
            clock: Seconds.
        """
        self._name = name
        self._settings = settings
        self._clock = clock
        self._keys: Mapping[str, VerificationKey] = {}
        self._fetched = self._tried = -1e9
        self.failure = ""

    def find(self, kid: str) -> tuple[str, VerificationKey] | None:
        """Returns the key with this id, and the id; without an id, the only key of the set."""
        if not kid:
            return next(iter(self._keys.items())) if len(self._keys) == 1 else None
        key = self._keys.get(kid)
        return None if key is None else (kid, key)

    @property
    def due(self) -> bool:
        """Whether it is time to fetch the keys again."""
        now = self._clock()
        wait = self._settings.refresh_s if not self.failure else min(self._settings.refresh_s, _LEAST_BETWEEN)
        return now - self._tried >= wait

    @property
    def may_look(self) -> bool:
        """Whether the keys may be fetched again now to look for an unknown one."""
        return self._clock() - self._tried >= _LEAST_BETWEEN

    def tried(self) -> None:
        """Notes that the keys are being fetched."""
        self._tried = self._clock()

    def fetch(self) -> Mapping[str, VerificationKey]:
        """Fetches the keys and returns them.

        Raises:
            ConfigError: They cannot be fetched, or the answer is not a key set.
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

    def put(self, keys: Mapping[str, VerificationKey]) -> set[str]:
        """Puts keys that were fetched into force; returns the ids of keys that changed or are gone."""
        before, self._keys, self.failure = self._keys, keys, ""
        return {kid for kid, key in before.items() if keys.get(kid) != key}

    def _download(self, url: str) -> bytes:
        answer = ask(
            "GET", url, headers={"accept": "application/json"}, timeout_s=_FETCH_SECONDS, most_bytes=_MOST_BYTES + 1,
            ca_file=self._settings.jwks_ca,
        )  # fmt: skip
        if 300 <= answer.status < 400:  # a redirect may lead to a host that nobody configured
            raise ValueError(f"it answers {answer.status}, and redirects are not followed")
        if not 200 <= answer.status < 300:
            raise ValueError(f"it answers {answer.status}")
        return answer.body


def read_keys(data: bytes, where: str) -> Mapping[str, VerificationKey]:
    """Returns the keys of a JSON Web Key Set that can verify signatures; others are left out.

    Args:
        data: The document.
        where: The file or URL that it came from, for messages.

    Raises:
        ConfigError: It is not a key set, or has no usable key.
    """
    try:
        document = json.loads(data)
        listed = document["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError(f"{where} is not a JSON Web Key Set") from None
    if not isinstance(listed, list) or len(listed) > _MOST_KEYS:
        raise ConfigError(f"{where}: expected at most {_MOST_KEYS} keys")
    found: dict[str, VerificationKey] = {}
    for number, one in enumerate(listed):
        if (key := _key(one)) is not None:
            found[str(one.get("kid") or f"#{number}")] = key
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
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if isinstance(key.key, RSAPublicKey) and key.key.key_size < _LEAST_RSA_BITS:
        return None
    return VerificationKey(key, str(one.get("alg", "")), json.dumps(one, sort_keys=True))


def _read(path: str) -> bytes:
    with open_regular(path) as file:
        return file.read(_MOST_BYTES + 1)
