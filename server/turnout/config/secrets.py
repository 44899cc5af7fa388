"""Secrets that lie in files: containers get them so, and nobody sees them in a list of processes or an environment."""

from pydantic import SecretStr

from turnout.config.files import NoRegularFileError, open_regular
from turnout.config.values import LEAST_TOKEN
from turnout.errors import ConfigError

_MOST_BYTES = 64 << 10


def secret_of(setting: str, value: SecretStr, file: str, *, least: int = 1) -> str:
    """Returns a secret; "" where neither it nor a file of it is set.

    Args:
        setting: Its dotted key; that of its file ends in `_file`.
        value: As it is set.
        file: Where it lies, instead; white space around it is no part of it.
        least: Characters that it has at least.

    Raises:
        ConfigError: Both are set, or the file cannot be used. The message holds nothing of what is in it.
    """
    if not file:
        return value.get_secret_value()
    if value.get_secret_value():
        raise ConfigError(f"{setting} and {setting}_file: expected one of them, and both are set")
    text = read_secret(f"{setting}_file", file)
    if len(text) < least:
        raise ConfigError(f"{setting}_file: expected at least {least} characters in {file}")
    return text


def console_token(token: SecretStr, file: str) -> str:
    """Returns the console's token. Raises as `secret_of`."""
    return secret_of("console.token", token, file, least=LEAST_TOKEN)


def read_secret(setting: str, file: str) -> str:
    """Returns what a file holds, without white space around it.

    Raises:
        ConfigError: It cannot be read, is no text, or is too large to be a secret.
    """
    try:
        with open_regular(file) as opened:
            data = opened.read(_MOST_BYTES + 1)
    except NoRegularFileError:
        raise ConfigError(f"{setting}: {file} is no regular file") from None
    except OSError as error:
        raise ConfigError(f"{setting}: {file} cannot be read: {error.strerror}") from None
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        raise ConfigError(f"{setting}: {file} holds no text") from None
    if not text or len(data) > _MOST_BYTES:
        raise ConfigError(f"{setting}: expected a secret of at most {_MOST_BYTES >> 10} KiB in {file}")
    return text
