"""Finds and records versions that exist without an event in the log.

This happens if a publisher dies between renaming the version into place and recording the event, or if it is an older
release of Turnout.
"""

from dataclasses import dataclass

from turnout.errors import TurnoutError, UnavailableError
from turnout.registry.storage.listing import Published
from turnout.registry.storage.repository import Repository
from turnout.registry.storage.staging import LOCK_TIMEOUT, STAGING, locked
from turnout.state.store import StateStore

FOUND = "found in the repository; its publisher left no event"


def unrecorded(repository: Repository, store: StateStore) -> list[Published]:
    """Returns the versions in the repository that have no event in the log.

    Raises:
        OSError: The repository cannot be read.
        UnavailableError: The state store does not answer.
    """
    published, known = repository.published(), store.published()
    return [one for one in published if (one.manifest.model, str(one.manifest.version)) not in known]


def adopt(
    repository: Repository,
    store: StateStore,
    *,
    actor: str,
    timeout: float = LOCK_TIMEOUT,
    surely: Published | None = None,
) -> list[Published]:
    """Records the publication of every version that has no event in the log. Returns the versions that were recorded.

    It takes the repository's lock, which a publisher holds from the rename until the event is recorded. So a version
    that is unrecorded under the lock has no publisher that will still record it. Publishers to a remote repository may
    run on other machines; they have a minute to record the event, except for the version `surely`.

    Raises:
        OSError: The repository cannot be read or written to.
        UnavailableError: The lock could not be acquired in `timeout` seconds, or the state store does not answer.
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
    """The part of the state store that a publisher uses."""

    repository: Repository
    store: StateStore
    actor: str
    reason: str

    def record(self, published: Published) -> None:
        """Records the publication of a version that was just created.

        Raises:
            UnavailableError: The state store does not answer. The version exists nevertheless.
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
        """Records existing versions without an event if `created` is false: their publisher may have died before."""
        if not created:
            adopt(self.repository, self.store, actor=self.actor, surely=published)
