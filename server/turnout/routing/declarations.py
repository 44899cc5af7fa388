"""Declares versions released or yanked and moves tags, once it is sure that what they name exists."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from semver import Version

from turnout.errors import ChangeRefused
from turnout.registry.listing import Published
from turnout.registry.publish import storage_errors
from turnout.registry.repository import Repository
from turnout.registry.signing import Signer
from turnout.registry.standing import Standing
from turnout.registry.trust import keep
from turnout.routing.holding import policy_holds, rollout_holds, tag_hold
from turnout.routing.policy import PolicyState
from turnout.routing.selector import tag_name
from turnout.state.declaring import Uses
from turnout.state.store import StateStore

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SignedVersion:
    """A version that somebody has signed.

    Attributes:
        published: The version.
        key: The id of the key.
        changed: False where that was on record before.
    """

    published: Published
    key: str
    changed: bool


class Declarer:
    """Records declarations in the state store. Blocking; safe to use from several threads."""

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
            ModelNotFound, VersionNotFound: It does not exist.
            InvalidRequest: It was yanked.
            Unavailable: The state store does not answer.
        """
        found = self._repository.find(model, version)
        return self._store.release(model, found.manifest.version, actor=actor, reason=reason)

    def sign(self, model: str, version: Version, signer: Signer, *, actor: str, reason: str) -> SignedVersion:
        """Puts a signature beside a version, once every byte of it was read and is what was published.

        Raises:
            ModelNotFound, VersionNotFound: It does not exist.
            DigestMismatch: Its bytes changed.
            Conflict: The signature was made elsewhere, over another digest.
            Exhausted, ConfigError: The repository has no room, or cannot be written to.
            Unavailable: The state store does not answer.
        """
        known = self._store.published().get((model, str(version)))
        published = self._repository.verify(model, version, expected=known)
        exact, signature = published.manifest.version, signer.sign(published.digest)
        with storage_errors():
            keep(self._repository, model, exact, signature)
        key = signature.key.id
        changed = self._store.record_signed(model, exact, published.digest, key, actor=actor, reason=reason)
        return SignedVersion(published, key, changed)

    def yank(self, model: str, version: Version, *, actor: str, reason: str) -> Standing:
        """Withdraws a version: ranges and the empty selector skip it, pins are refused or warned of.

        Returns:
            What it was before; where that is yanked, nothing changed.

        Raises:
            ModelNotFound, VersionNotFound: It does not exist.
            ChangeRefused: The policy in force, a rollout or a tag needs it; the message says what to do first.
            InvalidRequest: No reason was given.
            Unavailable: The state store does not answer.
        """
        found = self._repository.find(model, version)
        exact = found.manifest.version

        def refuse(uses: Uses) -> None:
            if holders := holding(model, exact, uses):
                raise ChangeRefused(f"{exact} of {model} is not yanked: {'; '.join(holders)}")

        return self._store.yank(model, exact, actor=actor, reason=reason, refuse=refuse)

    def unyank(self, model: str, version: Version, *, actor: str, reason: str) -> bool:
        """Takes a withdrawal back: the version is a candidate again.

        Returns:
            False where it was not yanked.

        Raises:
            ModelNotFound, VersionNotFound: It does not exist.
            InvalidRequest: No reason was given.
            Unavailable: The state store does not answer.
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
            InvalidRequest: The tag reads as a version or a range, is reserved, or is no tag at all.
            ModelNotFound, VersionNotFound: The version does not exist.
            Conflict: It names another version than is expected.
            Unavailable: The state store does not answer.
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
            Unavailable: The state store does not answer.
        """
        return self._store.delete_tag(model, tag, actor=actor, reason=reason, expect=expect)


def holding(model: str, version: Version, uses: Uses) -> list[str]:
    """Returns why a version cannot be withdrawn now and what to do first, a clause for each holder."""
    sentences: list[str] = []
    for rollout in uses.rollouts:
        candidate, previous = (_named(rollout.document.get(part)) for part in ("candidate", "previous"))
        if candidate is None or previous is None:
            sentences.append(
                f"rollout {rollout.attempt} cannot be read and may need it; `turnout rollout abort {model} --discard` "
                "ends it"
            )
        elif version in (candidate, previous):
            sentences.append(rollout_holds(model, rollout.attempt, candidate, previous)[version].sentence)
    if uses.policy is not None and uses.policy.document:
        try:
            held = policy_holds(model, PolicyState.from_json(uses.policy.document), uses.policy.epoch)
        except ValueError:
            sentences.append(
                f"the policy in force (epoch {uses.policy.epoch}) cannot be read and may need it; `turnout traffic set "
                f"{model} --baseline VERSION` replaces it"
            )
        else:
            sentences += [held[version].sentence] if version in held else []
    return sentences + [tag_hold(model, tag).sentence for tag in uses.tags]


def _named(text: object) -> Version | None:
    """Returns the version that a rollout's document names; None where it names none."""
    return Version.parse(text) if isinstance(text, str) and Version.is_valid(text) else None
