"""Files that settings name: certificates, secrets, policies, keys. Read with bounds, and watched for changes.

Secrets may lie in files: containers get them so, and nobody sees them in a list of processes or an environment.
"""

import os
import stat
from typing import BinaryIO

from pydantic import SecretStr

from turnout.config.values import LEAST_TOKEN
from turnout.errors import ConfigError

_MOST_SECRET_BYTES = 64 << 10

Stamp = tuple[int, ...]
"""What shows that a file changed."""


class NoRegularFileError(OSError):
    """A directory, a pipe or a device."""

    def __init__(self) -> None:
        super().__init__(0, "it is not a regular file")


def open_regular(path: str) -> BinaryIO:
    """Opens a regular file to read. A pipe without a writer does not hold the caller up.

    Raises:
        NoRegularFileError: It is not a regular file.
        OSError: It cannot be opened.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise NoRegularFileError
    return file


def read_setting_file(setting: str, path: str, most: int, too_large: str = "") -> bytes:
    """Returns what the file of a setting holds.

    Args:
        setting: Its dotted key, for messages.
        path: Of the file.
        most: MiB that it has at most.
        too_large: What a message adds where it has more.

    Raises:
        ConfigError: It cannot be read, or is too large.
    """
    try:
        with open_regular(path) as file:
            data = file.read((most << 20) + 1)
    except FileNotFoundError:
        raise ConfigError(f"{setting}: there is no file {path}") from None
    except NoRegularFileError:
        raise ConfigError(f"{setting}: {path} is not a regular file") from None
    except OSError as error:
        raise ConfigError(f"{setting}: {path} cannot be read: {error.strerror}") from None
    if len(data) > most << 20:
        raise ConfigError(f"{setting}: {path} is larger than {most} MiB{too_large}")
    return data


def stamp_of(path: str) -> Stamp | None:
    """Returns the stamp of a file, or of what a link leads to now; None where there is nothing. Blocking."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


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
        ConfigError: It cannot be read, is not text, or is too large to be a secret.
    """
    try:
        with open_regular(file) as opened:
            data = opened.read(_MOST_SECRET_BYTES + 1)
    except NoRegularFileError:
        raise ConfigError(f"{setting}: {file} is not a regular file") from None
    except OSError as error:
        raise ConfigError(f"{setting}: {file} cannot be read: {error.strerror}") from None
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        raise ConfigError(f"{setting}: {file} holds no text") from None
    if not text or len(data) > _MOST_SECRET_BYTES:
        raise ConfigError(f"{setting}: expected a secret of at most {_MOST_SECRET_BYTES >> 10} KiB in {file}")
    return text
