"""The files of one version: opened, copied, listed and made durable, without ever following a link.

Every path here is relative to the version's directory and every step of it is opened by itself, so that a link put in
place of a directory between a check and its use leads nowhere.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from turnout.errors import ConfigError, Exhausted, InvalidModel
from turnout.registry.manifest.digest import Progress, stream_digest
from turnout.registry.manifest.manifest import FileEntry

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, opening a FIFO waits for its writer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_KINDS = {
    stat.S_IFDIR: "directory",
    stat.S_IFIFO: "FIFO",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFSOCK: "socket",
}
_EXPECTED = ", expected a regular file"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class DirectoryContents:
    """What a walk through a version's directory met.

    Attributes:
        path: Relative to the directory, with forward slashes.
        plain: True for a regular file; False for a link, a device or the like.
    """

    path: str
    plain: bool


@contextmanager
def open_inside(directory: Path, path: str) -> Iterator[BinaryIO]:
    """Opens a regular file for reading.

    Args:
        directory: Where to start; may itself be reached over links.
        path: Relative, with forward slashes, without `.` and `..`.

    Raises:
        OSError: It is not there or cannot be read; or, with the number ELOOP, a link stands somewhere on the way or no
            regular file at its end. `explain` puts it into words.
    """
    *parents, name = path.split("/")
    here = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for parent in parents:
            below = _open_step(parent, _DIRECTORY, here)
            os.close(here)
            here = below
        handle = _open_step(name, _FILE, here)
    finally:
        os.close(here)
    with _plain(handle) as file:
        yield file


@contextmanager
def open_outside(path: Path) -> Iterator[BinaryIO]:
    """Opens a regular file that someone named, following links: where they lead was that person's choice.

    Raises:
        OSError: It is not there or cannot be read; or, with the number ELOOP, it is not a regular file.
    """
    with _plain(os.open(path, _FILE & ~os.O_NOFOLLOW)) as file:
        yield file


def read_small(path: Path, most: int) -> bytes:
    """Reads a regular file that someone named, following links: at most one byte more than `most`, which shows that it
    is too large.

    Raises:
        OSError: As `open_outside`.
    """
    with open_outside(path) as file:
        return file.read(most + 1)


def copy_file(source: BinaryIO, directory: Path, path: str, progress: Progress | None = None) -> FileEntry:
    """Copies `source` to a new file that nobody may write to, and waits until it is on the disk.

    Args:
        source: Read to its end.
        directory: The version's directory.
        path: Of the new file in it; missing directories on the way are made.
        progress: Told of each block.

    Returns:
        Its path, size and digest.

    Raises:
        OSError: Reading or writing failed, or the file exists.
        InvalidModel: The source grew meanwhile: whoever writes to it without end would be copied without end.
    """
    size = os.fstat(source.fileno()).st_size
    target = directory / path
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        digest = stream_digest(source, copy_to=file, progress=progress, most=size)
        if source.read(1):
            raise InvalidModel(f"{path} grew while it was copied")
        file.flush()
        seal(file.fileno())
        size = file.tell()
    return FileEntry(path, size, digest)


def write_file(target: Path, data: bytes) -> None:
    """Writes a new file that nobody may write to, and waits until it is on the disk."""
    with target.open("xb") as file:
        file.write(data)
        file.flush()
        seal(file.fileno())


def replace_file(target: Path, data: bytes) -> None:
    """Puts a file in its place, whole or not at all, as `write_file` writes it; makes its directory if need be."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.parent / f".{uuid4().hex}"
    try:
        write_file(fresh, data)
        os.replace(fresh, target)
    finally:
        fresh.unlink(missing_ok=True)


def seal(descriptor: int) -> None:
    """Takes the right to write from a file, and waits until the file is on the disk."""
    os.fchmod(descriptor, 0o444)
    os.fsync(descriptor)


def walk(directory: Path) -> Iterator[DirectoryContents]:
    """Goes through everything below `directory` that is not itself a directory, in no particular order.

    Raises:
        OSError: A directory cannot be read.
    """
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(directory / prefix) as entries:
            for entry in entries:
                path = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append(f"{path}/")
                else:
                    yield DirectoryContents(path, entry.is_file(follow_symlinks=False))


def sync_tree(directory: Path) -> None:
    """Waits until the entries of `directory` and of all directories below it are on the disk."""
    for path, _, _ in os.walk(directory, topdown=False):
        sync_directory(Path(path))


def sync_directory(directory: Path) -> None:
    """Waits until the entries of `directory` are on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def explain(error: OSError) -> str:
    """Says what is wrong with a file, in half a sentence without a path."""
    match error.errno:
        case errno.ENOENT:
            return "is missing"
        case errno.ELOOP:
            message = error.strerror or ""
            return message if message.endswith(_EXPECTED) else "is a link, or no regular file"
        case errno.ENXIO:  # what opening says of it
            return f"is a socket{_EXPECTED}"
        case _:
            return f"cannot be read ({error.strerror or type(error).__name__})"


def _plain(descriptor: int) -> BinaryIO:
    """Makes a file of a descriptor, which is closed if there is a directory or a device at its end."""
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.ELOOP, f"is a {_KINDS.get(stat.S_IFMT(mode), 'special file')}{_EXPECTED}")
        return os.fdopen(descriptor, "rb")
    except OSError:
        os.close(descriptor)
        raise


def _open_step(name: str, flags: int, directory: int) -> int:
    try:
        return os.open(name, flags, dir_fd=directory)
    except OSError as error:
        # Linux says ENOTDIR, not ELOOP, where O_DIRECTORY meets a link, and ENXIO of a socket.
        if error.errno in (errno.ENOTDIR, errno.ENXIO):
            raise OSError(errno.ELOOP, "no regular file", name) from error
        raise


@contextmanager
def storage_errors() -> Iterator[None]:
    """Puts what the disk says into words.

    Raises:
        Exhausted: It has no room.
        ConfigError: It cannot be used.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise Exhausted("the repository has no room left for this version") from error
        raise ConfigError(f"the repository cannot be used: {error.strerror or type(error).__name__}") from error
