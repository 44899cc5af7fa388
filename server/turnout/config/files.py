"""Files that settings name: certificates, secrets, policies, keys. Read with bounds, and watched for changes."""

import os
import stat
from typing import BinaryIO

from turnout.errors import ConfigError

Stamp = tuple[int, ...]
"""What shows that a file changed."""


class NoRegularFileError(OSError):
    """A directory, a pipe or a device."""

    def __init__(self) -> None:
        super().__init__(0, "it is no regular file")


def open_regular(path: str) -> BinaryIO:
    """Opens a regular file to read. A pipe without a writer does not hold the caller up.

    Raises:
        NoRegularFileError: It is no regular file.
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
        raise ConfigError(f"{setting}: {path} is no regular file") from None
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
