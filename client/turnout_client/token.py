"""The authentication token of a client, and the check that it is not sent unencrypted to another machine."""

import os
import re
import stat
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from turnout_client.config import Metadata, file_stamp, is_local

Token = str | Callable[[], str]
"""A token, or a function that returns the current one, such as a `TokenFile`."""

_HEADER = "authorization"
_MOST_BYTES = 64 << 10
_PRINTABLE = re.compile(r"[!-~]+")


class TokenFile:
    """A token that is read from a file, and read again when the file changes, so that it can be rotated.

    Client("turnout.example.org:8001", tls=Tls(ca="ca.pem"), token=TokenFile("/var/run/secrets/turnout/token"))
    """

    def __init__(self, path: str | Path) -> None:
        """Stores the path. The file is read when the token is first needed; white space around the token is ignored."""
        self._path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, ...] = ()
        self._token = ""

    def __call__(self) -> str:
        """Returns the current token. If the file has become unreadable, returns the last token that was read.

        Raises:
            ValueError: The file cannot be read or contains no valid token, and no token was read before.
        """
        with self._lock:
            try:
                stamp = file_stamp(self._path)
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
    """The token that a client sends with each call; None for none. It is not part of the repr."""

    token: Token | None = field(default=None, repr=False)

    def with_token(self, metadata: Metadata) -> tuple[tuple[str, str | bytes], ...]:
        """Returns `metadata` with the token added. Raises ValueError if the token cannot be read."""
        if self.token is None:
            return tuple(metadata)
        token = self.token if isinstance(self.token, str) else checked_token(self.token())
        return (*metadata, (_HEADER, f"Bearer {token}"))


def bearer_of(token: Token | None, target: str, metadata: Metadata, *, plain: bool, plaintext_token: bool) -> Bearer:
    """Returns the token to send with each call, after checking that it may be sent beside the client's other metadata.

    A token may be sent on a `plain` channel to this machine, and to other machines with `plaintext_token`.

    Raises:
        ValueError: The token would be sent unencrypted to another machine, is malformed, or `metadata` has an
            authorization header, too.
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
    """Returns the token from TURNOUT_TOKEN or, failing that, TURNOUT_TOKEN_FILE; None if neither is set.

    `environ` is the environment; None for that of the process.
    """
    environ = os.environ if environ is None else environ
    if token := environ.get("TURNOUT_TOKEN"):
        return token
    return TokenFile(file) if (file := environ.get("TURNOUT_TOKEN_FILE")) else None


def checked_token(token: str) -> str:
    """Returns `token` if it is valid in a header.

    Raises:
        ValueError: The token is not valid. The message does not contain it.
    """
    if not _PRINTABLE.fullmatch(token):
        raise ValueError("expected a token of printable ASCII without spaces")
    return token
