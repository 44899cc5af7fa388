"""The step that makes a staged version exist, for everyone at once or not at all.

A version number is used once: not for other content, not for content that differs in build metadata alone, and not
after it was yanked.
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
"""Returns the versions of the model at hand that were yanked."""


Recorded = Callable[[Published], None]
"""Told of a version that has just come to exist, while nobody else can publish or look for unrecorded ones."""


def unrecorded(_: Published) -> None:
    """Records nothing."""


def check_number(repository: Repository, model: str, version: Version, yanked: Collection[Version]) -> None:
    """Checks that a version number may be used, or was used for the very same version.

    Raises:
        AlreadyExistsError: It was yanked, or a version that differs in build metadata alone exists, or a model
            whose name differs in case alone.
    """
    repository.check_case(model)
    taken = repository.numbers(model)
    # Versions compare by precedence, which build metadata has no part in.
    if version in list(yanked):
        raise AlreadyExistsError(f"{model} {version} was yanked; publish under another version")
    for other in taken:
        if other == version and str(other) != str(version):
            raise AlreadyExistsError(
                f"{model} {version} differs from the published {other} in build metadata alone: both have the same"
                " precedence, so that no range could choose between them"
            )


def is_published(repository: Repository, manifest: Manifest, digest: str) -> bool:
    """Says whether the very same version exists already, every byte of it; False if its place is free.

    Raises:
        AlreadyExistsError: Other content stands there.
        DigestMismatch: The same version exists, and its bytes changed.
    """
    try:
        found = repository.find(manifest.model, manifest.version)
    except (ModelNotFound, VersionNotFound):
        return False
    except DigestMismatch as error:
        raise AlreadyExistsError(f"a version that cannot be read stands there: {error.message}") from error
    if found.digest != digest:
        raise AlreadyExistsError(
            f"{manifest.model} {manifest.version} exists with other content: published {found.digest}, offered {digest}"
        )
    repository.verify_stored(manifest.model, manifest.version, expected=digest)
    return True


def commit(repository: Repository, candidate: Candidate, yanked: Yanked, recorded: Recorded = unrecorded) -> bool:
    """Makes a staged version, with its manifest in it, exist.

    What `recorded` raises is raised, and the version exists then all the same.

    Returns:
        True if it was made to exist, False if the very same version existed already.

    Raises:
        AlreadyExistsError: The number is taken.
        DigestMismatch: The same version exists, and its bytes changed.
        UnavailableError: The repository's lock could not be had.
        OSError: The repository could not be written to.
    """
    manifest = candidate.manifest
    published = Published(manifest, candidate.digest)
    make_exist = repository.prepare(candidate.directory, published)
    with locked(repository.root):
        check_number(repository, manifest.model, manifest.version, yanked())
        if is_published(repository, manifest, candidate.digest):
            return False
        if not make_exist():
            return False
        recorded(published)
    return True
