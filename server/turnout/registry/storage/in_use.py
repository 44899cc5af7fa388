"""Which versions are in memory somewhere, by a lock on each one's manifest, and their removal once none is.

A server keeps a shared lock (flock) on the manifest of each version that it has loaded. Whoever removes a version needs
the exclusive one, so no version is removed under a server, and a server that is killed holds on to nothing.
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
"""Times that a version is brought here again which another process takes out of the cache just then."""


def hold(repository: Repository, model: str, version: Version) -> int | None:
    """Brings a version's files here if need be, and marks it as in memory.

    Returns:
        What `let_go` takes; None if locks do not work there.

    Raises:
        NotLoaded: It is being removed.
        TurnoutError: As `Repository.fetch`.
    """
    for _ in range(_HOLDS):
        manifest = repository.fetch(model, version) / MANIFEST_FILE
        try:
            descriptor = os.open(manifest, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            if repository.remote:
                continue  # another process made room in the cache in this moment
            return None  # the load finds out, and says more
        try:
            if files.try_lock(descriptor, shared=True) and (not repository.remote or _is(descriptor, manifest)):
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
    """Tells whether an open file is the one that stands at `path` still."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def let_go(held: int | None) -> None:
    """Ends a `hold`."""
    if held is not None:
        os.close(held)


def remove(repository: Repository, model: str, version: Version, timeout: float) -> None:
    """Removes a version's directory: at once for whoever looks, once nobody has the version in memory.

    Waits up to `timeout` seconds for servers to unload it. The caller must have recorded that it may not be loaded.

    Raises:
        UnavailableError: It is in memory still, or the repository is busy; nothing was removed.
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
            with locked(repository.root):
                directory.rename(trash)  # an empty directory: rename(2) takes its place
                sync_directory(directory.parent)
            for path in [trash, *(found for found in trash.rglob("*") if found.is_dir())]:
                path.chmod(0o755)
            shutil.rmtree(trash)
            trash.mkdir()  # what `staged` sweeps
    finally:
        let_go(held)
    with suppress(OSError):
        directory.parent.rmdir()  # the model's last version


def _claim(directory: Path, model: str, version: Version, timeout: float) -> int | None:
    """Returns a descriptor that holds the exclusive lock; None if there is no manifest, or no locks."""
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
                f"{model} {version} is in memory of a server after {timeout:g} s; its files stay until a later "
                "`turnout prune`"
            )
        time.sleep(_POLL)
