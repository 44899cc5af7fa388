"""Opens, copies and lists the files of a version, and makes them durable, without ever following a link.

Paths are relative to the version's directory, and each component is opened separately. So replacing a directory with a
link between a check and its use has no effect.
"""

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from turnout.errors import ConfigError, Exhausted, InvalidModel, StoreUnavailable
from turnout.registry.manifest.digest import Progress, stream_digest
from turnout.registry.manifest.manifest import FileEntry
from turnout.registry.storage.faults import StoreFault

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, opening a FIFO would wait for a writer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_KINDS = {
    stat.S_IFDIR: "directory",
    stat.S_IFIFO: "FIFO",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFSOCK: "socket",
}
_EXPECTED = ", expected a regular file"
UNFINISHED = re.compile(r"\.[0-9a-f]{32}")
"""Name under which `replace_file` writes a file before it replaces another."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of the errors of a disk or a quota that is full."""


FileStamp = tuple[int, int, int, int]
"""Values that change whenever a file does. They include the change time, which programs cannot set: some tools set the
modification time back."""


def file_stamp(status: os.stat_result) -> FileStamp:
    """Returns the stamp of a file with this status."""
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@contextmanager
def open_inside(directory: Path, path: str) -> Iterator[BinaryIO]:
    """Opens a regular file for reading.

    Args:
        directory: Directory to start from. Links in its path are followed.
        path: Relative path with forward slashes, without `.` and `..`.

    Raises:
        OSError: The file does not exist or cannot be read. The error number is ELOOP if a component of the path is a
            link, or the file is not a regular file. `explain` describes the error.
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
    """Opens a regular file named by a person, following links, which that person chose.

    Raises:
        OSError: The file does not exist or cannot be read. The error number is ELOOP if it is not a regular file.
    """
    with _plain(os.open(path, _FILE & ~os.O_NOFOLLOW)) as file:
        yield file


def read_small(path: Path, most: int) -> bytes:
    """Reads a regular file named by a person, following links. Reads at most one byte more than `most`, which shows
    that the file is too large.

    Raises:
        OSError: As for `open_outside`.
    """
    with open_outside(path) as file:
        return file.read(most + 1)


def read_named(path: Path, what: str, most: int = 64 << 10) -> bytes:
    """Reads a regular file named by a person, following links. Errors call it `what`.

    Raises:
        ConfigError: The file cannot be read, or is larger than `most` bytes.
    """
    try:
        data = read_small(path, most)
    except (OSError, ValueError) as error:
        reason = explain(error) if isinstance(error, OSError) else "is not a path"
        raise ConfigError(f"the {what} {str(path)[:200]!r} {reason}") from None
    if len(data) > most:
        raise ConfigError(f"the {what} {path} has more than {most >> 10} KiB")
    return data


def copy_file(source: BinaryIO, directory: Path, path: str, progress: Progress | None = None) -> FileEntry:
    """Copies `source` to its end to a new read-only file, durably. Missing parent directories are created.

    Returns:
        The path, size and digest of the new file.

    Raises:
        OSError: Reading or writing failed, or the file exists.
        InvalidModel: The source grew meanwhile. Copying a file that keeps growing would never end.
    """
    size, target = os.fstat(source.fileno()).st_size, directory / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if size > shutil.disk_usage(target.parent).free:
        # A sparse file may claim terabytes. Filling the disk would also stop the state store, which is often beside it.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with target.open("xb") as file:
        digest = stream_digest(source, copy_to=file, progress=progress, most=size)
        if source.read(1):
            raise InvalidModel(f"{path} grew while it was copied")
        file.flush()
        seal(file.fileno())
        size = file.tell()
    return FileEntry(path, size, digest)


def write_file(target: Path, data: bytes) -> None:
    """Writes a new read-only file, durably."""
    with target.open("xb") as file:
        try:
            file.write(data)
            file.flush()
            seal(file.fileno())
        except BaseException:
            target.unlink(missing_ok=True)  # a part of it, as on a full disk
            raise


def replace_file(target: Path, data: bytes, *, durable: bool = True) -> None:
    """Writes a file like `write_file`, atomically replacing an existing one. Creates its directory if necessary.

    If `durable` is false, it does not wait for the disk, and the file stays writable.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.parent / f".{uuid4().hex}"
    try:
        (write_file if durable else Path.write_bytes)(fresh, data)
        os.replace(fresh, target)
    finally:
        fresh.unlink(missing_ok=True)


def seal(descriptor: int) -> None:
    """Makes a file read-only, and waits until it is on disk."""
    os.fchmod(descriptor, 0o444)
    os.fsync(descriptor)


def walk(directory: Path) -> Iterator[tuple[str, bool]]:
    """Yields everything below `directory` that is not a directory, in no particular order.

    Each is a path relative to the directory, with forward slashes, and whether it is a regular file, not a link, a
    device or the like.

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
                    yield path, entry.is_file(follow_symlinks=False)


def visible(directory: Path) -> "list[os.DirEntry[str]]":
    """Returns the entries of a directory that are not hidden, sorted by name. Raises OSError if it cannot be read."""
    with os.scandir(directory) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def sync_tree(directory: Path) -> None:
    """Waits until the entries of `directory` and of all directories below it are on disk."""
    for path, _, _ in os.walk(directory, topdown=False):
        sync_directory(Path(path))


def sync_directory(directory: Path) -> None:
    """Waits until the entries of `directory` are on disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def explain(error: OSError) -> str:
    """Returns what is wrong with a file, as a phrase without a path that follows the file's name."""
    match error.errno:
        case errno.ENOENT:
            return "is missing"
        case errno.ELOOP:
            message = error.strerror or ""
            return message if message.endswith(_EXPECTED) else "is a link, or no regular file"
        case errno.ENXIO:  # raised when opening a socket
            return f"is a socket{_EXPECTED}"
        case _:
            return f"cannot be read ({error.strerror or type(error).__name__})"


def _plain(descriptor: int) -> BinaryIO:
    """Returns a file for a descriptor. Closes it and raises OSError if it is not a regular file."""
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
        # Linux reports ENOTDIR, not ELOOP, if O_DIRECTORY is used on a link, and ENXIO for a socket.
        if error.errno in (errno.ENOTDIR, errno.ENXIO):
            raise OSError(errno.ELOOP, "no regular file", name) from error
        raise


@contextmanager
def storage_errors() -> Iterator[None]:
    """Converts errors of the disk, and of a store of remote versions, to Turnout's errors.

    Raises:
        Exhausted: There is no space left.
        StoreUnavailable: The store does not answer, or refuses a request.
        ConfigError: The repository cannot be used.
    """
    try:
        yield
    except StoreFault as error:
        raise StoreUnavailable(f"the store of the repository {error.strerror}", retry_after=5.0) from error
    except OSError as error:
        if error.errno in NO_ROOM:
            raise Exhausted("the repository has no room left for this version") from error
        raise ConfigError(f"the repository cannot be used: {error.strerror or type(error).__name__}") from error
