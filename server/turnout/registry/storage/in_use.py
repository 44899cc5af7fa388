"""Locks versions that are in memory, and removes versions that are not.

A server keeps a shared lock (flock) on the manifest of each version that it has loaded. Removing a version requires the
exclusive lock, so that no version is removed while a server uses it. The locks of a killed server are released.
"""

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from semver import Version

from turnout.cancellation import checkpoint
from turnout.errors import NotLoaded, UnavailableError
from turnout.host import files
from turnout.registry.manifest.manifest import MANIFEST_FILE
from turnout.registry.storage.files import sync_directory
from turnout.registry.storage.repository import Repository
from turnout.registry.storage.staging import locked, staged

_POLL = 0.05
_HOLDS = 20
"""Number of attempts to fetch a version that another process removes from the cache at the same time."""


def hold(repository: Repository, model: str, version: Version) -> int | None:
    """Fetches a version's files if necessary, and locks the version as in memory.

    Returns:
        A descriptor to pass to `let_go`; None if the file system has no locks.

    Raises:
        NotLoaded: The version is being removed.
        TurnoutError: As for `Repository.fetch`.
    """
    for _ in range(_HOLDS):
        manifest = repository.fetch(model, version) / MANIFEST_FILE
        try:
            descriptor = os.open(manifest, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            if repository.remote:
                continue  # another process made room in the cache at the same time
            return None  # the load will fail with a better error
        try:
            if files.try_lock(descriptor, shared=True) and _is(descriptor, manifest):  # else it was just removed
                return descriptor
        except OSError:  # a file system without locks
            os.close(descriptor)
            return None
        os.close(descriptor)
        if not repository.remote:
            break
        checkpoint()
        time.sleep(_POLL)
    raise NotLoaded(f"{model} {version} is being pruned")


def _is(descriptor: int, path: Path) -> bool:
    """Returns whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def let_go(held: int | None) -> None:
    """Releases the lock of a `hold`."""
    if held is not None:
        os.close(held)


def remove(repository: Repository, model: str, version: Version, timeout: float) -> None:
    """Removes a version's directory, atomically for readers, once no server has the version in memory.

    Servers have `timeout` seconds to unload it. The caller must have recorded that it must not be loaded any more.

    Raises:
        UnavailableError: The version is still in memory, or the repository is busy. Nothing was removed.
        OSError: The repository cannot be written to.
    """
    repository.check_writable()
    directory = repository.directory(model, version)
    if not directory.is_dir():
        repository.withdraw(model, version)
        return
    held = _claim(directory, model, version, timeout)
    try:
        with staged(repository.root) as trash:
            repository.withdraw(model, version)
            with locked(repository.root), suppress(FileNotFoundError):  # another prune has removed it
                directory.rename(trash)  # replaces the empty directory
                sync_directory(directory.parent)
                with suppress(OSError):
                    directory.parent.rmdir()  # the model's last version; under the lock, since a publish relies on it
            for path in [trash, *(found for found in trash.rglob("*") if found.is_dir())]:
                path.chmod(0o755)
            shutil.rmtree(trash)
            trash.mkdir()  # for `staged`, which removes it
    finally:
        let_go(held)


def _claim(directory: Path, model: str, version: Version, timeout: float) -> int | None:
    """Returns a descriptor with the exclusive lock; None if there is no manifest, or there are no locks."""
    try:
        descriptor = os.open(directory / MANIFEST_FILE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    until = time.monotonic() + timeout
    while True:
        try:
            if files.try_lock(descriptor):
                return descriptor
        except OSError:
            os.close(descriptor)
            return None
        if time.monotonic() >= until:
            os.close(descriptor)
            raise UnavailableError(
                f"{model} {version} is still in a server's memory after {timeout:g} s; its files stay until a later "
                "`turnout prune`"
            )
        time.sleep(_POLL)
