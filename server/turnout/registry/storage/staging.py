"""Directories in which publishes are built, invisible to readers: `<root>/.staging/<uuid>/version/`.

Each staging directory contains a lock file that its builder keeps locked (flock). So the kernel knows whether the
builder is alive: if it is killed, the lock is released, and the next builder or sweep removes the directory. A running
publish is never swept, however long it takes. The repository's lock serializes creating, sweeping and committing.
"""

import errno
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from turnout.errors import UnavailableError
from turnout.host import files
from turnout.registry.manifest.names import ATTESTATIONS
from turnout.registry.storage.files import UNFINISHED

STAGING = ".staging"

LOCK_TIMEOUT = 30.0
"""Seconds to wait for the repository's lock. It is held for a few renames and fsyncs."""

SWEEP_TIMEOUT = 1.0
"""Seconds that a sweep waits for the lock."""

_LOCK = ".lock"
_OWNER = "owner"
_VERSION = "version"
_UUID = re.compile(r"[0-9a-f]{32}")
_POLL = 0.02
_WRITTEN_SECONDS = 3600.0
"""Age of a record's beginning, in seconds, at which it is certain that nobody is still writing it."""


@contextmanager
def staged(root: Path) -> Iterator[Path]:
    """Creates an empty directory to build a version in. Whatever is left of it is removed at the end in any case, and
    what killed builders left is removed before.

    Yields:
        The directory, which may be renamed away.

    Raises:
        UnavailableError: The repository's lock could not be acquired.
        OSError: The repository cannot be written to.
    """
    (root / STAGING).mkdir(parents=True, exist_ok=True)
    home = root / STAGING / uuid4().hex
    owner = -1
    _sweep_builders(root, LOCK_TIMEOUT)  # before anything is written, since the disk may be full of it
    try:
        with locked(root):
            home.mkdir()
            owner = os.open(home / _OWNER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            files.lock(owner)
        (home / _VERSION).mkdir()
        yield home / _VERSION
    finally:
        shutil.rmtree(home, ignore_errors=True)
        if owner >= 0:
            os.close(owner)


@contextmanager
def locked(root: Path, timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
    """Holds the repository's lock, against other threads and other processes. Waits up to `timeout` seconds for it.

    Raises:
        UnavailableError: The lock could not be acquired in time.
        OSError: The repository cannot be written to.
    """
    descriptor = os.open(root / STAGING / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        until = time.monotonic() + timeout
        while not files.try_lock(descriptor):
            if time.monotonic() >= until:
                raise UnavailableError(
                    f"another process has held the repository's lock for {timeout:g} s", retry_after=1.0
                )
            time.sleep(_POLL)
        yield
    finally:
        os.close(descriptor)


def sweep(root: Path) -> tuple[str, ...]:
    """Removes the staging directories whose builder no longer exists, and returns their names.

    It does not delay its callers, such as a starting server: if the lock is held or the repository cannot be written
    to, nothing is swept, and a later sweep does it.

    Raises:
        OSError: The staging directory cannot be read.
    """
    if not (root / STAGING).is_dir():
        return ()
    swept: tuple[str, ...] = ()
    try:
        swept = _sweep_builders(root, SWEEP_TIMEOUT)
        _sweep_records(root)
    except UnavailableError:
        pass
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
    return swept


def _sweep_builders(root: Path, timeout: float) -> tuple[str, ...]:
    """Removes the staging directories whose builder no longer exists. Returns the names of those that are gone."""
    abandoned: list[Path] = []
    with ExitStack() as owners:
        with locked(root, timeout):
            # Builders lock their owner file while they hold the repository's lock, so an unlocked one has no builder.
            for home in sorted(home for home in (root / STAGING).iterdir() if _UUID.fullmatch(home.name)):
                if (owner := _claim(home)) is not None:
                    owners.callback(os.close, owner)
                    abandoned.append(home)
        for home in abandoned:
            shutil.rmtree(home, ignore_errors=True)
    return tuple(home.name for home in abandoned if not home.exists())


def _sweep_records(root: Path) -> None:
    """Removes the beginnings of records beside versions (`replace_file`) whose writers were killed."""
    before = time.time() - _WRITTEN_SECONDS
    for path in root.glob(f"*/{ATTESTATIONS}/*/.*"):
        with suppress(OSError):
            if UNFINISHED.fullmatch(path.name) and path.lstat().st_mtime < before:
                path.unlink()


def _claim(home: Path) -> int | None:
    """Locks a staging directory; returns None if its builder or another sweep has locked it."""
    with suppress(OSError):
        owner = os.open(home / _OWNER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if files.try_lock(owner):
            return owner
        os.close(owner)
    return None
