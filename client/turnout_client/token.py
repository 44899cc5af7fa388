"""The token that a client sends, and to which targets."""

import os
import re
import stat
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from turnout_client.config import Metadata, is_local

Token = str | Callable[[], str]
"""A token, or a function that returns the current one, such as a `TokenFile`."""

_HEADER = "authorization"
_MOST_BYTES = 64 << 10
_PRINTABLE = re.compile(r"[!-~]+")


class TokenFile:
    """The token in a file, read again when the file changes: those that hand out tokens replace them.

    Client("turnout.example.org:8001", tls=Tls(ca="ca.pem"), token=TokenFile("/var/run/secrets/turnout/token"))
    """

    def __init__(self, path: str | Path) -> None:
        """Prepares; the file is read at the first call.

        Args:
            path: Of the file. White space around the token is no part of it.
        """
        self._path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, ...] = ()
        self._token = ""

    def __call__(self) -> str:
        """Returns the token.

        Raises:
            ValueError: The file cannot be read or has no token, and no earlier one was read.
        """
        with self._lock:
            try:
                found = os.stat(self._path)
                stamp = found.st_ino, found.st_size, found.st_mtime_ns
                if stamp != self._stamp:
                    self._token, self._stamp = self._read(), stamp
            except (OSError, ValueError) as error:
                if not self._token:
                    reason = error.strerror if isinstance(error, OSError) else str(error)
                    raise ValueError(f"the token in {self._path} cannot be read: {reason}") from None
            return self._token

    def __repr__(self) -> str:
        return f"TokenFile({str(self._path)!r})"

    def _read(self) -> str:
        with open(self._path, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("it is not a regular file")
            data = file.read(_MOST_BYTES + 1)
        return checked_token(data.decode("ascii", "replace").strip())


@dataclass(frozen=True, slots=True)
class Bearer:
    """The token that a client sends with each call.

    Attributes:
        token: The token; None for none. It is never printed.
    """

    token: Token | None = field(default=None, repr=False)

    def with_token(self, metadata: Metadata) -> tuple[tuple[str, str | bytes], ...]:
        """Returns a call's metadata with the token in it.

        Raises:
            ValueError: No token can be read.
        """
        if self.token is None:
            return tuple(metadata)
        token = self.token if isinstance(self.token, str) else checked_token(self.token())
        return (*metadata, (_HEADER, f"Bearer {token}"))


def bearer_of(token: Token | None, target: str, metadata: Metadata, *, plain: bool, plaintext_token: bool) -> Bearer:
    """Returns the token of a client, if it may be sent.

    Args:
        token: The token; None for none.
        target: The target of calls.
        metadata: The client's other metadata.
        plain: Whether calls are not encrypted.
        plaintext_token: Whether the token may be sent unencrypted.

    Raises:
        ValueError: It would be sent unencrypted to another machine, is not a token, or `metadata` has another.
    """
    if token is None:
        return Bearer()
    if any(name.lower() == _HEADER for name, _ in metadata):
        raise ValueError("expected token or metadata authorization, got both")
    if isinstance(token, str):
        checked_token(token)
    if plain and not plaintext_token and not is_local(target):
        raise ValueError(
            f"the token would travel unencrypted to {target}, and whoever sees it could use it: "
            "give tls=Tls(...), or plaintext_token=True if the network is to be trusted"
        )
    return Bearer(token)


def token_from_environ(environ: Mapping[str, str] | None = None) -> Token | None:
    """Returns what TURNOUT_TOKEN, or else TURNOUT_TOKEN_FILE, says; None if neither is set.

    Args:
        environ: The environment; None for that of the process.
    """
    environ = os.environ if environ is None else environ
    if token := environ.get("TURNOUT_TOKEN"):
        return token
    return TokenFile(file) if (file := environ.get("TURNOUT_TOKEN_FILE")) else None


def checked_token(token: str) -> str:
    """Returns a token that a header can hold.

    Raises:
        ValueError: It cannot; the message does not hold it.
    """
    if not _PRINTABLE.fullmatch(token):
        raise ValueError("expected a token of printable ASCII without spaces")
    return token
