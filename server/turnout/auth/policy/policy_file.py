"""Reads the policy file, at startup and whenever it changes."""

from pathlib import Path

from turnout.auth.policy.parser import read_policy
from turnout.auth.policy.policy import AccessPolicy
from turnout.config.files import read_setting_file
from turnout.errors import ConfigError

_MOST_MIB = 4


def load_policy(path: str, share: int = 1) -> AccessPolicy:
    """Reads a policy file; "" for a policy without grants. Blocking. `share` as in `read_policy`.

    Raises:
        ConfigError: The file cannot be read, or is not a valid policy.
    """
    if not path:
        return AccessPolicy()
    data = read_setting_file("auth.policy", path, _MOST_MIB)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"auth.policy: {path} is not text in UTF-8") from None
    if not text.strip():  # as while it is written, or after the disk was full: nobody would have any role
        raise ConfigError(f"auth.policy: {path} is empty, expected tables [[grant]], or a comment if nobody has a role")
    return read_policy(text, f"auth.policy: {Path(path).name}", share)
