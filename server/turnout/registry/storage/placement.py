"""How a staged version comes to stand in a directory: whole, and over nothing that stood there."""

import errno
import os
from pathlib import Path

from turnout.errors import AlreadyExistsError
from turnout.registry.manifest.digest import stream_digest
from turnout.registry.manifest.manifest import MANIFEST_FILE, Manifest
from turnout.registry.storage.files import open_inside, seal, sync_directory, sync_tree, walk


def move_in_place(staged: Path, target: Path) -> None:
    """Renames a staged version to where it stands from then on.

    Raises:
        AlreadyExistsError: Something stands there.
        OSError: The directory cannot be written to.
    """
    # rename(2) puts a directory over an empty one only, and a version is never empty: so it overwrites nothing, in one
    # step, on every POSIX system, where renameat2(RENAME_NOREPLACE) is Linux's alone and not in Python. The lock makes
    # two publishes take turns; this holds even against one that does not take it.
    try:
        staged.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise AlreadyExistsError(
            f"{target.parent.name} {target.name}: something that is not a version stands in its place; move it away, or"
            " leave nothing there but the files that are to be published"
        ) from error


def adopt_in_place(staged: Path, target: Path) -> None:
    """Makes a version of a directory that someone filled by hand: it lacks nothing but the manifest.

    The files stay where they are, so that a crash loses nothing that was only there; link(2) overwrites nothing.

    Raises:
        AlreadyExistsError: Somebody else just did.
        OSError: The directory cannot be written to.
    """
    for found in walk(target):
        with open_inside(target, found.path) as file:
            seal(file.fileno())
    sync_tree(target)
    try:
        os.link(staged / MANIFEST_FILE, target / MANIFEST_FILE, follow_symlinks=False)
    except FileExistsError as error:
        raise AlreadyExistsError(f"{target.parent.name} {target.name} was published in this moment") from error
    sync_directory(target)


def holds_same_files(target: Path, manifest: Manifest) -> bool:
    """Says whether a directory that is no version holds exactly what is to be published."""
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
