"""Yanks, signs and tags versions, after checking that they exist."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

from semver import Version

from turnout.errors import ChangeRefused, InvalidRequest
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
    """A signed version.

    Attributes:
        key: Id of the signing key.
        changed: Whether the signature is new; False if it was already recorded.
    """

    published: Published
    key: str
    changed: bool


@dataclass(frozen=True, slots=True)
class RollbackTarget:
    """The versions that a model's traffic can be rolled back to, and the facts that determine them.

    Attributes:
        history: Versions that have answered plain requests, in order, with the current one last.
        present: Versions that exist in the repository.
    """

    history: tuple[Version, ...]
    statuses: Mapping[Version, ReleaseStatus]
    present: tuple[Version, ...]

    @property
    def targets(self) -> tuple[Version, ...]:
        """Versions that a rollback can go back to, nearest first."""
        return rollback_targets(self.history, self.statuses, self.present)

    def yank_warning(self, model: str, version: Version) -> str:
        """Returns a warning if the yank of `version` has changed where a rollback goes back to; else ""."""
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
    """Changes the release state in the state store. Blocking and thread-safe.

    Every method raises UnavailableError if the state store does not answer, and ModelNotFound or VersionNotFound if a
    version that is named does not exist.
    """

    def __init__(self, repository: Repository, store: StateStore) -> None:
        self._repository = repository
        self._store = store

    async def in_thread(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs one of this object's methods in a thread of the repository, which the methods access first."""
        return await self._repository.in_thread(call, *args, **kwargs)

    def sign(self, model: str, version: Version, signer: Signer, *, actor: str, reason: str) -> SignedVersion:
        """Signs a version after verifying all its files, and stores the signature with it.

        Raises:
            DigestMismatch: The version's files differ from the published ones.
            Conflict: The signature was made elsewhere and covers different content.
            Exhausted, ConfigError: The repository is full or cannot be written to.
        """
        known = self._store.published().get((model, str(version)))
        published = self._repository.verify(model, version, expected=known)
        exact, bundle, key = published.manifest.version, signer.sign(published), signer.key.id
        with storage_errors():
            keep(self._repository, model, exact, key, bundle)
        changed = self._store.record_signed(model, exact, published.digest, key, actor=actor, reason=reason)
        return SignedVersion(published, key, changed)

    def yank(self, model: str, version: Version, *, actor: str, reason: str) -> ReleaseStatus:
        """Yanks a version: ranges and the empty selector skip it; pins are rejected or answered with a warning.

        Returns:
            The previous release status. If it is yanked, nothing was changed.

        Raises:
            ChangeRefused: The policy in force, a rollout or a tag needs the version. The message says what to do first.
            InvalidRequest: No reason was given.
        """
        exact = self._repository.find(model, version).manifest.version

        def refuse(uses: VersionUses) -> None:
            if holders := holding(model, exact, uses):
                raise ChangeRefused(f"{exact} of {model} is not yanked: {'; '.join(holders)}")

        return self._store.yank(model, exact, actor=actor, reason=reason, refuse=refuse)

    def rollback_target(self, model: str) -> RollbackTarget:
        """Returns the versions that the model's traffic can be rolled back to, taking yanked versions into account.

        Raises:
            OSError: The repository cannot be read.
        """
        entries: list[HistoryEntry] = []
        for event in self._store.answer_history(model):
            if event.kind == EventKind.POLICY_CHANGED:
                with suppress(ValueError):  # written by a later release of Turnout
                    document = event.payload["document"]
                    baseline = PolicyState.from_json(document).baseline if document else None
                    entries.append(HistoryEntry(event.id, True, baseline))
            else:
                status = _STATUS.get(event.kind, ReleaseStatus.CANDIDATE)
                version = Version.parse(event.payload["version"])
                entries.append(HistoryEntry(event.id, False, version=version, status=status))
        present = [p.manifest.version for p in self._repository.scan().versions(model)]
        return RollbackTarget(answered(entries), self._store.release_state().of(model).release_statuses, tuple(present))

    def unyank(self, model: str, version: Version, *, actor: str, reason: str, i_know_why: bool) -> bool:
        """Reverts a yank: the version becomes a candidate again. Returns False if it was not yanked.

        Raises:
            InvalidRequest: No reason was given, or the version is yanked and `i_know_why` is false.
        """
        exact = self._repository.find(model, version).manifest.version
        state = self._store.release_state().of(model)
        if not i_know_why and state.release_status(exact) is ReleaseStatus.YANKED:
            why = f" ({state.reasons[exact]})" if state.reasons.get(exact) else ""
            raise InvalidRequest.at("i_know_why", f"{model} {exact} was yanked for a reason{why}")
        return self._store.unyank(model, exact, actor=actor, reason=reason)

    def set_tag(
        self, model: str, tag: str, version: Version, *, actor: str, reason: str, expect: str | None = None
    ) -> Version | None:
        """Points a tag to a version. Returns the version that the tag pointed to before; None if it did not exist.

        `expect` is the exact version that the tag must point to before the change; "" if the tag must not exist; None
        for no check.

        Raises:
            InvalidRequest: The tag's name is invalid or reserved, or can be read as a version or a range.
            Conflict: The tag does not point to the expected version.
        """
        name, exact = tag_name(tag), self._repository.find(model, version).manifest.version
        return self._store.set_tag(model, name, exact, actor=actor, reason=reason, expect=expect)

    def delete_tag(self, model: str, tag: str, *, actor: str, reason: str, expect: str | None = None) -> Version:
        """Removes a tag. `expect` is as for `set_tag`. Returns the version that the tag pointed to.

        Raises:
            TagNotFound: The model has no such tag.
            Conflict: The tag does not point to the expected version.
        """
        return self._store.delete_tag(model, tag, actor=actor, reason=reason, expect=expect)


_STATUS: Mapping[str, ReleaseStatus] = {
    EventKind.RELEASED: ReleaseStatus.RELEASED,
    EventKind.YANKED: ReleaseStatus.YANKED,
}


def holding(model: str, version: Version, uses: VersionUses) -> list[str]:
    """Returns why a version cannot be yanked now and what to do first, as one clause for each holder."""
    return [hold.sentence for hold in holders(model, version, uses)]


def holders(model: str, version: Version, uses: VersionUses) -> list[Hold]:
    """Returns everything that needs a version: rollouts, the policy in force and tags."""
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
    """Returns the version in a field of a rollout's document; None if it is missing or invalid."""
    return Version.parse(text) if isinstance(text, str) and Version.is_valid(text) else None
