"""The step that makes a staged version exist, for everyone at once or not at all.

A version number is used once: not for other content, not for content that differs in build metadata alone, and not
after it was yanked.
"""

import errno
import os
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from semver import Version

from turnout.errors import AlreadyExists, DigestMismatch, ModelNotFound, VersionNotFound
from turnout.registry.digest import stream_digest
from turnout.registry.files import open_inside, seal, sync_directory, sync_tree, walk
from turnout.registry.gates import Candidate
from turnout.registry.listing import Published
from turnout.registry.manifest import MANIFEST_FILE, Manifest
from turnout.registry.names import is_exact_version
from turnout.registry.repository import Repository
from turnout.registry.staging import locked

Yanked = Callable[[], Collection[Version]]
"""Returns the versions of the model at hand that were yanked."""


Recorded = Callable[[Published], None]
"""Told of a version that has just come to exist, while nobody else can publish or look for unrecorded ones."""


def unrecorded(_: Published) -> None:
    """Records nothing."""


def check_number(repository: Repository, model: str, version: Version, yanked: Collection[Version]) -> None:
    """Checks that a version number may be used, or was used for the very same version.

    Raises:
        AlreadyExists: It was yanked, or a version that differs in build metadata alone exists, or a model whose name
            differs in case alone.
    """
    repository.check_case(model)
    home = repository.directory(model, version).parent
    if home.is_symlink():
        raise AlreadyExists(f"a link stands where the versions of {model} go, and links are not followed")
    # Versions compare by precedence, which build metadata has no part in.
    if version in list(yanked):
        raise AlreadyExists(f"{model} {version} was yanked; publish under another version")
    for other in _published_numbers(home):
        if other == version and str(other) != str(version):
            raise AlreadyExists(
                f"{model} {version} differs from the published {other} in build metadata alone: both have the same"
                " precedence, so that no range could choose between them"
            )


def is_published(repository: Repository, manifest: Manifest, digest: str) -> bool:
    """Says whether the very same version exists already, every byte of it; False where its place is free.

    Raises:
        AlreadyExists: Other content stands there.
        DigestMismatch: The same version exists, and its bytes changed.
    """
    try:
        found = repository.find(manifest.model, manifest.version)
    except (ModelNotFound, VersionNotFound):
        return False
    except DigestMismatch as error:
        raise AlreadyExists(f"a version that cannot be read stands there: {error.message}") from error
    if found.digest != digest:
        raise AlreadyExists(
            f"{manifest.model} {manifest.version} exists with other content: published {found.digest}, offered {digest}"
        )
    repository.verify(manifest.model, manifest.version, expected=digest)
    return True


def commit(repository: Repository, candidate: Candidate, yanked: Yanked, recorded: Recorded = unrecorded) -> bool:
    """Makes a staged version, with its manifest in it, exist.

    What `recorded` raises is raised, and the version exists then all the same.

    Returns:
        True if it was made to exist, False if the very same version existed already.

    Raises:
        AlreadyExists: The number is taken.
        DigestMismatch: The same version exists, and its bytes changed.
        Unavailable: The repository's lock could not be had.
        OSError: The repository could not be written to.
    """
    manifest = candidate.manifest
    target = repository.directory(manifest.model, manifest.version)
    sync_tree(candidate.directory)
    in_place = _holds_same_files(target, manifest)
    with locked(repository.root):
        check_number(repository, manifest.model, manifest.version, yanked())
        if is_published(repository, manifest, candidate.digest):
            return False
        target.parent.mkdir(exist_ok=True)
        if in_place:
            _adopt(candidate.directory, target)
        else:
            _move(candidate.directory, target)
        sync_directory(target.parent)
        sync_directory(repository.root)
        recorded(Published(manifest, candidate.digest))
    return True


def _move(staged: Path, target: Path) -> None:
    # rename(2) puts a directory over an empty one only, and a version is never empty: so it overwrites nothing, in one
    # step, on every POSIX system, where renameat2(RENAME_NOREPLACE) is Linux's alone and not in Python. The lock makes
    # two publishes take turns; this holds even against one that does not take it.
    try:
        staged.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise AlreadyExists(
            f"{target.parent.name} {target.name}: something that is no version stands in its place; move it away, or"
            " leave nothing there but the files that are to be published"
        ) from error


def _adopt(staged: Path, target: Path) -> None:
    """Makes a version of a directory that someone filled by hand: it lacks nothing but the manifest.

    The files stay where they are, so that a crash loses nothing that was only there; link(2) overwrites nothing.
    """
    for found in walk(target):
        with open_inside(target, found.path) as file:
            seal(file.fileno())
    sync_tree(target)
    try:
        os.link(staged / MANIFEST_FILE, target / MANIFEST_FILE, follow_symlinks=False)
    except FileExistsError as error:
        raise AlreadyExists(f"{target.parent.name} {target.name} was published in this moment") from error
    sync_directory(target)


def _holds_same_files(target: Path, manifest: Manifest) -> bool:
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


def _published_numbers(model_directory: Path) -> list[Version]:
    with suppress(FileNotFoundError):
        return [
            Version.parse(entry.name)
            for entry in os.scandir(model_directory)
            if is_exact_version(entry.name) and os.path.lexists(model_directory / entry.name / MANIFEST_FILE)
        ]
    return []
