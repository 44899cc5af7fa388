"""The policy file: read at the start, and again whenever it changes. One that is wrong changes nothing."""

import os
import stat
from pathlib import Path

from turnout.auth.document import read_policy
from turnout.auth.policy import Policy
from turnout.errors import ConfigError

_MOST_BYTES = 4 << 20

Stamp = tuple[int, ...]


def load_policy(path: str, share: int = 1) -> Policy:
    """Returns the policy in a file; "" for one that grants nothing. Blocking.

    Args:
        path: Of the file.
        share: As of `read_policy`.

    Raises:
        ConfigError: It cannot be read, or is no policy.
    """
    if not path:
        return Policy()
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError(f"auth.policy: {path} is no regular file")
            data = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"auth.policy: there is no file {path}") from None
    except OSError as error:
        raise ConfigError(f"auth.policy: {path} cannot be read: {error.strerror}") from None
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"auth.policy: {path} is larger than {_MOST_BYTES >> 20} MiB")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"auth.policy: {path} is no text in UTF-8") from None
    return read_policy(text, f"auth.policy: {Path(path).name}", share)


def stamp_of(path: str) -> Stamp | None:
    """Returns what shows that a file changed; None where there is none. Blocking."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
