"""Versions that exist and that no event tells of: a publisher died between the rename and the event, or is an older
release of Turnout.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from semver import Version

from turnout.errors import TurnoutError, UnavailableError
from turnout.registry.storage.listing import Published
from turnout.registry.storage.repository import Repository
from turnout.registry.storage.staging import LOCK_TIMEOUT, STAGING, locked
from turnout.state.release_status import ReleaseStatus
from turnout.state.store import StateStore

FOUND = "found in the repository; its publisher left no event"


def unrecorded(repository: Repository, store: StateStore) -> list[Published]:
    """Returns the versions that no event tells of.

    Raises:
        OSError: The repository cannot be read.
        UnavailableError: The state store does not answer.
    """
    return _unrecorded(repository.published(), store)


def adopt(
    repository: Repository,
    store: StateStore,
    *,
    actor: str,
    timeout: float = LOCK_TIMEOUT,
    surely: Published | None = None,
) -> list[Published]:
    """Records the publication of every version that no event tells of.

    Under the repository's lock, which a publisher holds from its rename to its event: what is unrecorded then has no
    publisher that will record it. Publishers on other machines, to a repository that lives elsewhere, get a minute.

    Args:
        repository: The versions on disk.
        store: Keeps the log.
        actor: Who looked.
        timeout: Seconds to wait for the lock.
        surely: A version that is recorded however new it is.

    Returns:
        Those that were recorded.

    Raises:
        OSError: The repository cannot be read or written to.
        UnavailableError: The lock was not to be had, or the state store does not answer.
    """
    if not unrecorded(repository, store):
        return []
    (repository.root / STAGING).mkdir(parents=True, exist_ok=True)
    with locked(repository.root, timeout):
        found = [one for one in unrecorded(repository, store) if one == surely or not repository.being_published(one)]
        for one in found:
            manifest = one.manifest
            store.record_published(manifest.model, manifest.version, one.digest, actor=actor, reason=FOUND, found=True)
    return found


@dataclass(frozen=True, slots=True)
class AdoptionStore:
    """What a publisher needs of the state store.

    Attributes:
        repository: The versions on disk.
        store: Keeps the log.
        actor: Who publishes.
        reason: Why.
    """

    repository: Repository
    store: StateStore
    actor: str
    reason: str

    def yanked(self, model: str) -> list[Version]:
        """Returns the versions of a model whose numbers are never used again."""
        release_statuses = self.store.release_state().of(model).release_statuses
        return [
            version for version, release_status in release_statuses.items() if release_status is ReleaseStatus.YANKED
        ]

    def record(self, published: Published) -> None:
        """Records a version that has just come to exist.

        Raises:
            UnavailableError: The state store does not answer. The version exists.
        """
        manifest = published.manifest
        try:
            self.store.record_published(
                manifest.model, manifest.version, published.digest, actor=self.actor, reason=self.reason, found=False
            )
        except TurnoutError as error:
            raise UnavailableError(
                f"{manifest.model} {manifest.version} is published, but the log does not say so: {error.message}; "
                "`turnout verify` records it"
            ) from error

    def settle(self, created: bool, published: Published | None = None) -> None:
        """Makes sure that what exists is recorded, where somebody else, who may have died over it, published it."""
        if not created:
            adopt(self.repository, self.store, actor=self.actor, surely=published)


def _unrecorded(published: Sequence[Published], store: StateStore) -> list[Published]:
    known = store.published()
    return [one for one in published if (one.manifest.model, str(one.manifest.version)) not in known]
