"""Moves a staged version into its directory, complete and without overwriting anything."""

import errno
import os
from pathlib import Path

from turnout.errors import AlreadyExistsError
from turnout.registry.manifest.digest import stream_digest
from turnout.registry.manifest.manifest import MANIFEST_FILE, Manifest
from turnout.registry.storage.files import open_inside, seal, sync_directory, sync_tree, walk


def move_in_place(staged: Path, target: Path) -> None:
    """Renames a staged version to its final directory.

    Raises:
        AlreadyExistsError: Something else is in its place.
        OSError: The directory cannot be written to.
    """
    # rename(2) replaces only empty directories, and a version is never empty. So this overwrites nothing, atomically,
    # on every POSIX system; renameat2(RENAME_NOREPLACE) exists only on Linux and not in Python. The lock serializes
    # publishes, but this is safe even if a publisher does not take it.
    try:
        staged.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise AlreadyExistsError(
            f"{target.parent.name} {target.name}: something that is not a version is in its place; move it away, or"
            " leave only the files there that are to be published"
        ) from error


def adopt_in_place(staged: Path, target: Path) -> None:
    """Turns a directory that was filled by hand, and only lacks the manifest, into a version.

    The files stay in place, so that a crash loses nothing that exists only there. link(2) overwrites nothing.

    Raises:
        AlreadyExistsError: Another publisher has just done so.
        OSError: The directory cannot be written to.
    """
    for found in walk(target):
        with open_inside(target, found.path) as file:
            seal(file.fileno())
    sync_tree(target)
    try:
        os.link(staged / MANIFEST_FILE, target / MANIFEST_FILE, follow_symlinks=False)
    except FileExistsError as error:
        raise AlreadyExistsError(f"{target.parent.name} {target.name} was published at the same time") from error
    sync_directory(target)


def holds_same_files(target: Path, manifest: Manifest) -> bool:
    """Returns whether a directory that is not a version contains exactly the files to publish."""
    if target.is_symlink() or os.path.lexists(target / MANIFEST_FILE):
        return False
    try:
        if {found.path for found in walk(target)} != {entry.path for entry in manifest.files}:
            return False
        for entry in manifest.files:
            with open_inside(target, entry.path) as file:
                if stream_digest(file) != entry.digest:
                    return False
    except OSError:
        return False
    return True
