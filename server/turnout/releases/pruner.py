"""Removes versions that are no longer needed, and expired data in the state store.

The removal of a version is recorded first; then every server unloads it, and then its files are deleted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from semver import Version

from turnout.config import LoadSelectors, Retention, Settings
from turnout.errors import ChangeRefused, TurnoutError, UnavailableError
from turnout.registry.storage.in_use import remove
from turnout.registry.storage.listing import Published
from turnout.registry.storage.repository import Repository
from turnout.releases.prune_plan import Keep, PruningDecision, VersionFacts, prune_plan
from turnout.releases.release import ReleaseStateWriter, holders
from turnout.routing.selection.resolution import named
from turnout.state.releases import VersionUses
from turnout.state.store import StateStore


@dataclass(frozen=True, slots=True)
class Removal:
    """The result of removing one version.

    Attributes:
        freed_bytes: Size of the deleted files; 0 if they were not deleted.
        refused: Why the files were not deleted; "" if they were.
    """

    model: str
    version: Version
    freed_bytes: int
    refused: str = ""


class Pruner:
    """Removes versions that nothing needs. Blocking."""

    def __init__(self, repository: Repository, store: StateStore, settings: Settings) -> None:
        self._repository = repository
        self._store = store
        self._settings = settings

    def plan(self, model: str, keep: Keep, now: datetime) -> tuple[PruningDecision, ...]:
        """Decides which versions of a model to remove, without changing anything.

        Raises:
            OSError: The repository cannot be read.
            UnavailableError: The state store does not answer.
        """
        published = {p.manifest.version: p for p in self._repository.scan().versions(model)}
        model_releases, times = self._store.release_state().of(model), self._store.publish_times()
        pinned: set[Version | None] = set()
        load = self._settings.for_model(model).load
        if isinstance(load, LoadSelectors):
            pinned = {named(selector, list(published), model_releases) for selector in load.selectors}
        facts = {
            version: VersionFacts(
                found.manifest.size,
                times.get((model, str(version))),
                [hold.what for hold in holders(model, version, self._store.uses(model, version))],
                version in pinned,
            )
            for version, found in published.items()
        }
        targets = ReleaseStateWriter(self._repository, self._store).rollback_target(model).targets
        return prune_plan(facts, model_releases, targets, keep, now)

    def prune(
        self, model: str, decisions: Sequence[PruningDecision], keep: Keep, timeout: float, *, actor: str, reason: str
    ) -> list[Removal]:
        """Removes the versions that a plan selects, after checking that each can still be removed. Servers have
        `timeout` seconds to unload each.
        """
        published = {p.manifest.version: p for p in self._repository.scan().versions(model)}
        going = [decision for decision in decisions if decision.goes and decision.version in published]
        done: dict[Version, Removal] = {}
        for decision in going:  # record all before waiting for any, so that servers unload them in parallel
            try:
                self._record(model, published[decision.version], keep, actor, reason)
            except TurnoutError as error:
                done[decision.version] = Removal(model, decision.version, 0, error.message)
        for decision in going:
            if decision.version not in done:
                done[decision.version] = self._remove(model, decision, timeout)
        return [done[decision.version] for decision in going]

    def _record(self, model: str, published: Published, keep: Keep, actor: str, reason: str) -> None:
        version = published.manifest.version

        def refuse(uses: VersionUses) -> None:
            if held := holders(model, version, uses):
                raise ChangeRefused(f"by now {held[0].sentence}")
            # Plan again from the committed state: since the plan, a yank or a rollback may have changed what is needed.
            (again,) = [d for d in self.plan(model, keep, self._store.now()) if d.version == version]
            if not again.goes:
                raise ChangeRefused(f"it stays by now: {'; '.join(again.reasons)}")

        self._store.prune(
            model, version, published.digest, published.manifest.size, actor=actor, reason=reason, refuse=refuse
        )

    def _remove(self, model: str, decision: PruningDecision, timeout: float) -> Removal:
        try:
            remove(self._repository, model, decision.version, timeout)
        except UnavailableError as error:
            return Removal(model, decision.version, 0, error.message)
        except OSError as error:
            return Removal(model, decision.version, 0, f"its files cannot be removed ({error.strerror})")
        return Removal(model, decision.version, decision.size_bytes)


@dataclass(frozen=True, slots=True)
class Expired:
    """Numbers of expired records that were removed.

    Attributes:
        ticks: Number of ticks of ended rollouts.
        events: Number of events in the log.
    """

    ticks: int
    events: int


_GONE_SECONDS = 3600.0
"""Seconds after which a server that stopped reporting is no longer listed."""

_EVENTS_AT_ONCE = 1000
_TICKS_AT_ONCE = 5000
"""Number of ticks that one transaction removes. This blocks other changes for about 50 ms."""


def expire(store: StateStore, retention: Retention) -> Expired:
    """Removes expired records from the state store, in short transactions.

    Raises:
        UnavailableError: The state store does not answer.
    """
    store.expire_servers(_GONE_SECONDS)
    ticks = events = 0
    if retention.ticks_days:
        before, count = store.now() - timedelta(days=retention.ticks_days), _TICKS_AT_ONCE
        while count == _TICKS_AT_ONCE:
            count = store.expire_ticks(before, _TICKS_AT_ONCE)
            ticks += count
    if retention.events_days:
        before = store.now() - timedelta(days=retention.events_days)
        for model in store.logged_models():
            while count := store.remove_events(model, before, _EVENTS_AT_ONCE):
                events += count
    return Expired(ticks, events)
