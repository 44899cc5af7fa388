"""Declares versions released or yanked and moves tags, once it is sure that what they name exists."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

from semver import Version

from turnout.errors import ChangeRefused
from turnout.registry.signing.signer import Signer
from turnout.registry.signing.trust import keep
from turnout.registry.storage.files import storage_errors
from turnout.registry.storage.listing import Published
from turnout.registry.storage.repository import Repository
from turnout.routing.policy import PolicyState
from turnout.routing.policy_holds import policy_holds, rollout_holds, tag_hold
from turnout.routing.rollback import HistoryEntry, answered, rollback_targets
from turnout.routing.selection.selector import tag_name
from turnout.serving.versions.hold import Hold
from turnout.state.event_log.events import EventKind
from turnout.state.release_status import ReleaseStatus
from turnout.state.releases import VersionUses
from turnout.state.store import StateStore

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SignedVersion:
    """A version that somebody has signed.

    Attributes:
        key: The id of the key.
        changed: False where that was on record before.
    """

    published: Published
    key: str
    changed: bool


@dataclass(frozen=True, slots=True)
class RollbackTarget:
    """Where a model's traffic can be rolled back to.

    Attributes:
        history: The versions that answered plain requests, in order, the present one last.
        statuses: Release statuses now.
        present: Versions that exist.
    """

    history: tuple[Version, ...]
    statuses: Mapping[Version, ReleaseStatus]
    present: tuple[Version, ...]

    @property
    def targets(self) -> tuple[Version, ...]:
        """The versions that a rollback can go back to, the nearest first."""
        return rollback_targets(self.history, self.statuses, self.present)

    def yank_warning(self, model: str, version: Version) -> str:
        """Says what a yank of `version`, which was made, means for a rollback; "" where it means nothing."""
        if self.statuses.get(version) is not ReleaseStatus.YANKED:
            return ""
        before = rollback_targets(self.history, {**self.statuses, version: ReleaseStatus.RELEASED}, self.present)
        if not before or before[0] != version:
            return ""
        left = self.targets
        to = f"now it goes back to {left[0]}" if left else "now there is no version left to go back to"
        more = f" (then {', '.join(map(str, left[1:4]))})" if left[1:] else ""
        return f"a rollback of {model} would have gone back to {version}; {to}{more}"


class ReleaseStateWriter:
    """Records declarations in the state store. Blocking; safe to use from several threads.

    Every method raises UnavailableError while the state store does not answer.
    """

    def __init__(self, repository: Repository, store: StateStore) -> None:
        self._repository = repository
        self._store = store

    async def in_thread(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a call of this object's in one of the repository's threads: it looks there first."""
        return await self._repository.in_thread(call, *args, **kwargs)

    def release(self, model: str, version: Version, *, actor: str, reason: str) -> bool:
        """Declares a version fit for general traffic.

        Returns:
            False where it was released before.

        Raises:
            ModelNotFound, VersionNotFound: There is no such version.
            InvalidRequest: It was yanked.
        """
        found = self._repository.find(model, version)
        return self._store.release(model, found.manifest.version, actor=actor, reason=reason)

    def sign(self, model: str, version: Version, signer: Signer, *, actor: str, reason: str) -> SignedVersion:
        """Puts a signature beside a version, once every byte of it was read and is what was published.

        Raises:
            ModelNotFound, VersionNotFound: There is no such version.
            DigestMismatch: Its bytes changed.
            Conflict: The signature was made elsewhere, over other content.
            Exhausted, ConfigError: The repository has no room, or cannot be written to.
        """
        known = self._store.published().get((model, str(version)))
        published = self._repository.verify(model, version, expected=known)
        exact, bundle, key = published.manifest.version, signer.sign(published), signer.key.id
        with storage_errors():
            keep(self._repository, model, exact, key, bundle)
        changed = self._store.record_signed(model, exact, published.digest, key, actor=actor, reason=reason)
        return SignedVersion(published, key, changed)

    def yank(self, model: str, version: Version, *, actor: str, reason: str) -> ReleaseStatus:
        """Withdraws a version: ranges and the empty selector skip it, pins are refused or warned of.

        Returns:
            What it was before; where that is yanked, nothing changed.

        Raises:
            ModelNotFound, VersionNotFound: There is no such version.
            ChangeRefused: The policy in force, a rollout or a tag needs it; the message says what to do first.
            InvalidRequest: No reason was given.
        """
        found = self._repository.find(model, version)
        exact = found.manifest.version

        def refuse(uses: VersionUses) -> None:
            if holders := holding(model, exact, uses):
                raise ChangeRefused(f"{exact} of {model} is not yanked: {'; '.join(holders)}")

        return self._store.yank(model, exact, actor=actor, reason=reason, refuse=refuse)

    def rollback_target(self, model: str) -> RollbackTarget:
        """Returns what the model's traffic can be rolled back to, whatever was yanked.

        Raises:
            OSError: The repository cannot be read.
        """
        entries: list[HistoryEntry] = []
        for event in self._store.answer_history(model):
            if event.kind == EventKind.POLICY_CHANGED:
                with suppress(ValueError):  # a later release of Turnout wrote it
                    document = event.payload["document"]
                    policy = PolicyState.from_json(document).policy if document else None
                    entries.append(HistoryEntry.of_policy(event.id, policy))
            else:
                status = _STATUS.get(event.kind, ReleaseStatus.CANDIDATE)
                version = Version.parse(event.payload["version"])
                entries.append(HistoryEntry.of_status(event.id, version, status))
        present = [p.manifest.version for p in self._repository.scan().versions(model)]
        return RollbackTarget(answered(entries), self._store.release_state().of(model).release_statuses, tuple(present))

    def unyank(self, model: str, version: Version, *, actor: str, reason: str) -> bool:
        """Takes a withdrawal back: the version is a candidate again.

        Returns:
            False where it was not yanked.

        Raises:
            ModelNotFound, VersionNotFound: There is no such version.
            InvalidRequest: No reason was given.
        """
        found = self._repository.find(model, version)
        return self._store.unyank(model, found.manifest.version, actor=actor, reason=reason)

    def set_tag(
        self, model: str, tag: str, version: Version, *, actor: str, reason: str, expect: str | None = None
    ) -> Version | None:
        """Makes a tag name a version.

        Args:
            model: Its model.
            tag: Its name.
            version: What it shall name.
            actor: Who asks.
            reason: Why.
            expect: The exact version that it has to name before; "" for no tag of that name; None for any.

        Returns:
            The version that it named before, or None.

        Raises:
            InvalidRequest: The tag reads as a version or a range, is reserved, or is not a tag at all.
            ModelNotFound, VersionNotFound: There is no such version.
            Conflict: It names another version than is expected.
        """
        name = tag_name(tag)
        found = self._repository.find(model, version)
        exact = found.manifest.version
        return self._store.set_tag(model, name, exact, actor=actor, reason=reason, expect=expect)

    def delete_tag(self, model: str, tag: str, *, actor: str, reason: str, expect: str | None = None) -> Version:
        """Removes a tag.

        Returns:
            The version that it named.

        Raises:
            TagNotFound: The model has no such tag.
            Conflict: It names another version than is expected.
        """
        return self._store.delete_tag(model, tag, actor=actor, reason=reason, expect=expect)


_STATUS: Mapping[str, ReleaseStatus] = {
    EventKind.RELEASED: ReleaseStatus.RELEASED,
    EventKind.YANKED: ReleaseStatus.YANKED,
}


def holding(model: str, version: Version, uses: VersionUses) -> list[str]:
    """Returns why a version cannot be withdrawn now and what to do first, a clause for each holder."""
    return [hold.sentence for hold in holders(model, version, uses)]


def holders(model: str, version: Version, uses: VersionUses) -> list[Hold]:
    """Returns what holds on to a version."""
    holds: list[Hold] = []
    for rollout in uses.rollouts:
        candidate, previous = (_named(rollout.document.get(part)) for part in ("candidate", "previous"))
        if candidate is None or previous is None:
            advice = f"`turnout rollout abort {model} --discard` ends it"
            holds.append(Hold(f"what rollout {rollout.attempt}, which cannot be read, may need", advice))
        elif version in (candidate, previous):
            hold = rollout_holds(model, rollout.attempt, candidate, previous)[version]
            holds.append(replace(hold, advice=f"{hold.advice}, with --discard where it cannot be read"))
    if uses.policy is not None and uses.policy.document:
        epoch = uses.policy.epoch
        try:
            held = policy_holds(model, PolicyState.from_json(uses.policy.document), epoch)
        except ValueError:
            advice = f"`turnout traffic set {model} --baseline VERSION` replaces it"
            holds.append(Hold(f"what the policy in force (epoch {epoch}), which cannot be read, may need", advice))
        else:
            holds += [held[version]] if version in held else []
    return holds + [tag_hold(model, tag) for tag in uses.tags]


def _named(text: object) -> Version | None:
    """Returns the version that a rollout's document names; None where it names none."""
    return Version.parse(text) if isinstance(text, str) and Version.is_valid(text) else None
