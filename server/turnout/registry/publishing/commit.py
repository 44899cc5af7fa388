"""Commits a staged version, atomically for all readers.

A version number is used only once: not for other content, not for content that differs only in build metadata, and not
again after it was yanked.
"""

from collections.abc import Callable, Collection

from semver import Version

from turnout.errors import AlreadyExistsError, DigestMismatch, ModelNotFound, VersionNotFound
from turnout.registry.gates.gate import Candidate
from turnout.registry.manifest.manifest import Manifest
from turnout.registry.storage.listing import Published
from turnout.registry.storage.repository import Repository
from turnout.registry.storage.staging import locked

Yanked = Callable[[], Collection[Version]]
"""Returns the yanked versions of the model that is being published."""


Recorded = Callable[[Published], None]
"""Called with a version that was just committed, while no other process can publish or search for unrecorded ones."""


def unrecorded(_: Published) -> None:
    """Records nothing."""


def check_number(repository: Repository, model: str, version: Version, yanked: Collection[Version]) -> None:
    """Checks that a version number is free, or was used for the same version.

    Raises:
        AlreadyExistsError: The version was yanked, or there is a version that differs only in build metadata, or a
            model whose name differs only in case.
    """
    taken = repository.numbers(model)
    # Versions compare by precedence, which ignores build metadata.
    if version in list(yanked):
        raise AlreadyExistsError(f"{model} {version} was yanked; publish under another version")
    for other in taken:
        if other == version and str(other) != str(version):
            raise AlreadyExistsError(
                f"{model} {version} differs from the published {other} in build metadata alone: both have the same"
                " precedence, so that no range could choose between them"
            )


def with_number(repository: Repository, model: str, version: Version) -> Published | None:
    """Returns the version that has a number; None if the number is free.

    Raises:
        AlreadyExistsError: The version cannot be read.
    """
    try:
        return repository.find(model, version)
    except (ModelNotFound, VersionNotFound):
        return None
    except DigestMismatch as error:
        raise AlreadyExistsError(f"a version that cannot be read has this number: {error.message}") from error


def is_published(repository: Repository, manifest: Manifest, digest: str) -> bool:
    """Returns whether the same version already exists, after verifying all its bytes; False if its number is free.

    Raises:
        AlreadyExistsError: The number is used for other content.
        DigestMismatch: The same version exists, but its bytes have changed.
    """
    found = with_number(repository, manifest.model, manifest.version)
    if found is None:
        return False
    if found.digest != digest:
        raise AlreadyExistsError(
            f"{manifest.model} {manifest.version} exists with other content: published {found.digest}, "
            f"offered {digest}; a published version never changes, so publish this under another number"
        )
    repository.verify_stored(manifest.model, manifest.version, expected=digest)
    return True


def commit(repository: Repository, candidate: Candidate, yanked: Yanked, recorded: Recorded = unrecorded) -> bool:
    """Commits a staged version, whose directory contains its manifest.

    Errors from `recorded` are propagated, but the version exists nevertheless.

    Returns:
        True if the version was committed, False if the same version already existed.

    Raises:
        AlreadyExistsError: The number is taken.
        DigestMismatch: The same version exists, but its bytes have changed.
        UnavailableError: The repository's lock could not be acquired.
        OSError: The repository could not be written to.
    """
    manifest = candidate.manifest
    published = Published(manifest, candidate.digest)
    make_exist = repository.prepare(candidate.directory, published)
    with locked(repository.root):
        check_number(repository, manifest.model, manifest.version, yanked())
        if is_published(repository, manifest, candidate.digest):
            return False
        make_exist()
        recorded(published)
    return True
