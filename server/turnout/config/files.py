"""Reads the files that settings refer to (certificates, secrets, policies, keys), and detects when they change.

Secrets can be given as files because containers receive them that way, and because a file does not show up in the
process list or the environment. All reads are limited in size.
"""

import os
import stat
from typing import BinaryIO

from pydantic import SecretStr

from turnout.errors import ConfigError

_MOST_SECRET_BYTES = 64 << 10

Stamp = tuple[int, ...]
"""A file's identity, size and times. A different stamp means that the file has changed."""


class NoRegularFileError(OSError):
    """Raised when a path is a directory, a pipe or a device."""

    def __init__(self) -> None:
        super().__init__(0, "it is not a regular file")


def open_regular(path: str) -> BinaryIO:
    """Opens a regular file for reading. Does not block on a pipe that has no writer.

    Raises:
        NoRegularFileError: The path is not a regular file.
        OSError: The file cannot be opened.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise NoRegularFileError
    return file


def read_setting_file(setting: str, path: str, most: int, too_large: str = "") -> bytes:
    """Returns the content of the file that a setting refers to.

    Args:
        setting: Dotted key of the setting, for error messages.
        path: Path of the file.
        most: Maximum size, in MiB.
        too_large: Text to append to the error message if the file is larger.

    Raises:
        ConfigError: The file cannot be read, or is too large.
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
    """Returns the stamp of a file, or of a link's current target; None if it does not exist. Blocking."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def secret_of(setting: str, value: SecretStr, file: str, *, least: int = 1) -> str:
    """Returns a secret from its setting or its file; "" if neither is set.

    Args:
        setting: Dotted key of the secret. The key of its file is the same with `_file` appended.
        value: Value of the setting.
        file: Path of the file; "" for none. White space around the secret in the file is ignored.
        least: Minimum length of a secret in a file, in characters.

    Raises:
        ConfigError: Both are set, or the file cannot be used. The message does not contain the secret.
    """
    if not file:
        return value.get_secret_value()
    if value.get_secret_value():
        raise ConfigError(f"{setting} and {setting}_file: expected one of them, and both are set")
    text = read_secret(f"{setting}_file", file)
    if len(text) < least:
        raise ConfigError(f"{setting}_file: expected at least {least} characters in {file}")
    return text


def read_secret(setting: str, file: str) -> str:
    """Returns the secret in a file, without surrounding white space.

    Raises:
        ConfigError: The file cannot be read, is empty, is not text, or is larger than 64 KiB.
    """
    data = read_setting_file(setting, file, 1)
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        raise ConfigError(f"{setting}: {file} holds no text") from None
    if not text or len(data) > _MOST_SECRET_BYTES:
        raise ConfigError(f"{setting}: expected a secret of at most {_MOST_SECRET_BYTES >> 10} KiB in {file}")
    return text
