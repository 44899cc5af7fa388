"""Decides changes of which versions answer by the state store's contents, and records each in one transaction.

Blocking and thread-safe. A running server applies the changes as it does any change made elsewhere.
"""

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from semver import Version

from turnout.errors import ChangeRefused, Conflict, ModelNotFound, UnavailableError, Unsupported
from turnout.registry.manifest.signature import Signature
from turnout.registry.storage.repository import Repository
from turnout.rollout.changes.model_snapshot import ChangeOutcome, ModelSnapshot, RollbackOrigin
from turnout.rollout.changes.release import release, withdraw
from turnout.rollout.changes.rollback import rollback
from turnout.rollout.machine.attempt import Moved
from turnout.rollout.machine.records import UnreadableRollout, split_records
from turnout.routing.default_answers import RoutingTable
from turnout.routing.policy import PolicyState, readable
from turnout.routing.rollback import HistoryEntry, answered
from turnout.routing.slots import ORDER_BYTES
from turnout.state.model_changes import ModelChange, StoredModel
from turnout.state.rollouts import Note, RolloutRecord, RolloutWrite
from turnout.state.store import StateStore

P = ParamSpec("P")
T = TypeVar("T")

Trouble = Callable[[Version], str]
"""Returns why a version cannot answer; "" if it can, or if that is not known here."""


@dataclass(frozen=True, slots=True)
class ChangeResult:
    """The effect of a recorded change.

    Attributes:
        sentence: Description of the change for display.
        answers: The versions that answer each selector from now on.
        baseline: The version that answers plain requests from now on, apart from canaries; None if there is none.
        epoch: Present epoch of the policy; 0 if there never was one.
    """

    sentence: str
    changed: bool
    answers: RoutingTable
    baseline: Version | None
    epoch: int
    endings: tuple[Moved, ...] = ()


class Operations:
    """Releases, withdraws and rolls back versions, and ends unreadable rollouts.

    Every method raises UnavailableError while the state store does not respond.
    """

    def __init__(self, repository: Repository, store: StateStore) -> None:
        self._repository = repository
        self._store = store

    def release(
        self,
        model: str,
        version: Version,
        *,
        actor: str,
        reason: str,
        traffic: bool = True,
        supersede: bool = False,
        trouble: Trouble = lambda _: "",
        signatures: Mapping[Version, Signature] | None = None,
    ) -> ChangeResult:
        """Declares a version fit for general traffic. If it is higher than the present one, it answers plain requests.

        Without `traffic`, only ranges and `latest` reach it. With `supersede`, rollouts that would prevent the release
        end. `trouble` returns why the version cannot answer. `signatures` are those that `signatures` returns, if it
        was called already.

        Raises:
            ModelNotFound, VersionNotFound: The version does not exist.
            ChangeRefused: Something prevents the release; the message says what, and what can be done.
            InvalidRequest: The version is yanked.
        """
        signatures = self.signatures(model, version) if signatures is None else signatures
        exact = _exact(signatures)[version]
        order = secrets.token_bytes(ORDER_BYTES)

        def decide(snapshot: ModelSnapshot, epoch: int) -> ChangeOutcome:
            return release(snapshot, exact, order, traffic=traffic, supersede=supersede, actor=actor, reason=reason)

        return self._decide(model, decide, actor, reason, trouble, strict=True, signatures=signatures)

    def release_published(self, model: str, version: Version, *, actor: str, reason: str) -> ChangeResult:
        """Releases a version that was just published. Raises as `release`, with a message that the version exists."""
        try:
            return self.release(model, version, actor=actor, reason=reason)
        except ChangeRefused as error:
            raise ChangeRefused(f"{model} {version} is published; {error.message}") from error

    def withdraw(
        self,
        model: str,
        version: Version,
        *,
        actor: str,
        reason: str,
        signatures: Mapping[Version, Signature] | None = None,
    ) -> ChangeResult:
        """Withdraws a release, so that the version is a candidate again. Raises as `release`."""
        signatures = self.signatures(model, version) if signatures is None else signatures
        exact = _exact(signatures)[version]

        def decide(snapshot: ModelSnapshot, _: int) -> ChangeOutcome:
            return withdraw(snapshot, exact)

        return self._decide(model, decide, actor, reason, strict=True, signatures=signatures)

    def rollback(
        self,
        model: str,
        to: Version | None,
        *,
        actor: str,
        reason: str,
        keep_released: bool = False,
        expected_epoch: int | None = None,
        since: RollbackOrigin | None = None,
        trouble: Trouble = lambda _: "",
        signatures: Mapping[Version, Signature] | None = None,
    ) -> ChangeResult:
        """Moves all of a model's traffic back to an earlier version, and ends its rollouts.

        Args:
            model: Name of the model.
            to: The version; None for the one that a rollout goes back to, or the nearest that answered before.
            actor: Who makes the change.
            reason: Why.
            keep_released: Whether the versions that are rolled back stay released.
            expected_epoch: Epoch that the operator's decision was based on: of the running rollout, or otherwise of the
                policy.
            since: State that the rollback was based on if it was decided earlier. It is refused if that has changed.
            trouble: Returns why a version cannot answer.
            signatures: Signatures of the served versions, so that an unavailable repository does not prevent the
                rollback; None to read them from the repository.

        Raises:
            ModelNotFound: The model does not exist.
            ChangeRefused: There is no version to go back to, or it cannot answer.
            Conflict: The rollout or policy has changed since the operator's decision.
        """
        order = secrets.token_bytes(ORDER_BYTES)

        def decide(snapshot: ModelSnapshot, epoch: int) -> ChangeOutcome:
            _refuse_stale(snapshot, epoch, expected_epoch)
            if since is not None and since.overruled(epoch, snapshot.actor, snapshot.state.policy, snapshot.answering):
                raise Conflict(
                    f"the version that answers {model} was changed since, by {snapshot.actor or 'someone else'}"
                )
            return rollback(snapshot, to, order, keep_released=keep_released, actor=actor, reason=reason)

        return self._decide(model, decide, actor, reason, trouble, signatures=signatures)

    def discard(
        self,
        model: str,
        attempt: int,
        *,
        actor: str,
        reason: str,
        signatures: Mapping[Version, Signature] | None = None,
    ) -> ChangeResult:
        """Ends rollouts that cannot be read, `attempt` or for 0 all of a model, without changing their documents.

        Raises:
            ChangeRefused: There is no such unreadable rollout.
        """

        def decide(snapshot: ModelSnapshot, _: int) -> ChangeOutcome:
            found = tuple(u for u in snapshot.unreadable if attempt in (0, u.record.attempt))
            if not found:
                which = f"{attempt} " if attempt else ""
                raise ChangeRefused(f"no active rollout {which}of {model} is unreadable: abort it without --discard")
            which = ", ".join(str(one.record.attempt) for one in found)
            return ChangeOutcome(f"attempt {which} of {model} is discarded; its traffic stays as it is", discards=found)

        return self._decide(model, decide, actor, reason, signatures=signatures)

    def answers(self, model: str) -> RoutingTable:
        """Returns the versions that answer each selector, by the state store; empty if the model does not exist."""
        signatures, seen = self._signatures(model), []

        def look(view: StoredModel) -> ModelChange:
            seen.append(_model_snapshot(view, signatures, lambda _: "")[0].answers)
            return ModelChange()

        self._store.decide(model, look, actor="", reason="")
        return seen[0]

    async def in_thread(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a method that only reads the repository in one of the repository's threads."""
        return await self._repository.in_thread(call, *args, **kwargs)

    def signatures(self, model: str, version: Version) -> Mapping[Version, Signature]:
        """Reads the signatures of a model's versions from the repository. `version` is one of them.

        Raises:
            ModelNotFound, VersionNotFound: The version does not exist.
            DigestMismatch: The version exists, but its manifest is invalid.
            UnavailableError: The repository cannot be read.
        """
        found = self._repository.find(model, version).manifest
        return {**self._signatures(model), found.version: found.signature}

    def _signatures(self, model: str, *, needed: bool = False) -> dict[Version, Signature]:
        try:
            listing = self._repository.scan()
        except OSError as error:
            raise UnavailableError(f"the model repository cannot be read now: {error.strerror}") from error
        found = {one.manifest.version: one.manifest.signature for one in listing.versions(model)}
        if needed and not found:
            raise ModelNotFound.named(model, listing.models)
        return found

    def _decide(
        self,
        model: str,
        decide: Callable[[ModelSnapshot, int], ChangeOutcome],
        actor: str,
        reason: str,
        trouble: Trouble = lambda _: "",
        *,
        strict: bool = False,
        signatures: Mapping[Version, Signature] | None = None,
    ) -> ChangeResult:
        signatures = self._signatures(model, needed=True) if signatures is None else signatures
        made: list[tuple[ModelSnapshot, int, ChangeOutcome]] = []

        def make(view: StoredModel) -> ModelChange:
            last = view.policy()
            if strict and last is not None and readable(last.document) is None:
                raise Unsupported(
                    f"epoch {last.epoch} of the policy of {model} cannot be read by this release of Turnout: "
                    f"`turnout traffic set {model} --baseline VERSION` or `turnout rollback {model}` replaces it"
                )
            snapshot, epoch = _model_snapshot(view, signatures, trouble)
            outcome = decide(snapshot, epoch)
            made.append((snapshot, epoch, outcome))
            return _change(outcome, {record.attempt: record for record in view.running()}, actor, reason)

        policy, _ = self._store.decide(model, make, actor=actor, reason=reason)
        snapshot, epoch, outcome = made[-1]
        after = snapshot.after(outcome)
        return ChangeResult(
            outcome.sentence,
            outcome.changes,
            after.answers,
            after.answering,
            epoch if policy is None else policy.epoch,
            outcome.endings,
        )


def _model_snapshot(
    view: StoredModel, signatures: Mapping[Version, Signature], trouble: Trouble
) -> tuple[ModelSnapshot, int]:
    epochs = view.epochs()
    states = [(record, state) for record in epochs if (state := readable(record.document)) is not None]
    rollouts, unreadable = split_records(view.running())
    exact = _exact(signatures)
    history = [HistoryEntry(record.revision, True, state.baseline) for record, state in states]
    history += [HistoryEntry(c.revision, False, version=c.version, status=c.status) for c in view.status_changes()]
    snapshot = ModelSnapshot(
        view.model,
        signatures,
        {exact[v]: status for v, status in view.statuses().items() if v in exact},
        states[0][1] if states else PolicyState(),
        tuple(sorted(rollouts, key=lambda r: r.attempt)),
        tuple(unreadable),
        answered(history),
        trouble,
        epochs[0].actor if epochs else "",
    )
    return snapshot, epochs[0].epoch if epochs else 0


def _exact(versions: Iterable[Version]) -> Mapping[Version, Version]:
    """Returns each version with the build metadata that it was published with, by the version with or without it."""
    return {version: version for version in versions}


def _change(outcome: ChangeOutcome, records: dict[int, RolloutRecord], actor: str, reason: str) -> ModelChange:
    writes = [
        RolloutWrite(
            rollout.attempt, records[rollout.attempt].number, str(rollout.state), True, rollout.to_json(),
            records[rollout.attempt].driver, 0.0, [Note(e.kind, e.text, e.actor) for e in entries],
        )
        for rollout, entries in outcome.endings
    ]  # fmt: skip
    writes += [_discarded(one, actor, reason) for one in outcome.discards]
    document = None if outcome.state is None else outcome.state.to_json()
    return ModelChange(document, outcome.action, outcome.statuses, writes)


def _discarded(one: UnreadableRollout, actor: str, reason: str) -> RolloutWrite:
    record = one.record
    text = f"ended unread{f': {reason}' if reason else ''}; its document is kept as it is ({one.fault})"
    notes = [Note("discarded", text, actor), Note("failed", "its record could not be read", "")]
    return RolloutWrite(record.attempt, record.number, "failed", True, None, record.driver, 0.0, notes)


def _refuse_stale(snapshot: ModelSnapshot, epoch: int, expected: int | None) -> None:
    """Raises Conflict if `expected` is not the epoch of the running rollout, or otherwise of the policy."""
    if expected is None:
        return
    for rollout in snapshot.rollouts:
        refuse_stale(rollout.candidate, rollout.epoch, str(rollout.state), expected)
    if not snapshot.rollouts and epoch != expected:
        raise Conflict(f"the policy of {snapshot.model} is at epoch {epoch} by now, not {expected}; look again")


def refuse_stale(candidate: Version, epoch: int, state: str, expected: int | None) -> None:
    """Raises Conflict if the rollout's epoch is not `expected`, on which the change was based."""
    if expected not in (None, epoch):
        raise Conflict(f"the rollout of {candidate} is at epoch {epoch} by now ({state}), not {expected}; look again")
