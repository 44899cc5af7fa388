"""Decides changes of who answers by what the state store holds, and records each in one transaction.

Blocking; safe to use from several threads. A running server follows as it follows any change made elsewhere.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from semver import Version

from turnout.errors import ChangeRefused, Conflict, ModelNotFound, UnavailableError, Unsupported
from turnout.registry.manifest.signature import Signature
from turnout.registry.storage.listing import Listing
from turnout.registry.storage.repository import Repository
from turnout.rollout.changes.model_snapshot import ChangeOutcome, Ending, ModelSnapshot, RollbackOrigin
from turnout.rollout.changes.release import release, withdraw
from turnout.rollout.changes.rollback import rollback
from turnout.rollout.machine.records import UnreadableRollout, split_records
from turnout.routing.default_answers import RoutingTable
from turnout.routing.policy import PolicyState, readable
from turnout.routing.rollback import HistoryEntry, answered
from turnout.routing.slots import ORDER_BYTES
from turnout.state.model_changes import ModelChange, StoredModel
from turnout.state.rollouts import Note, RolloutRecord, RolloutWrite
from turnout.state.store import StateStore

Trouble = Callable[[Version], str]
"""Says why a version cannot answer; "" if it can, or if nobody knows here."""


@dataclass(frozen=True, slots=True)
class ChangeResult:
    """What a recorded change did.

    Attributes:
        sentence: What was done, for people.
        changed: Whether anything was.
        answers: Who answers what from now on.
        baseline: The version that plain requests get from now on, canaries aside; None if there is none.
        epoch: Of the policy from now on; 0 if there never was one.
        endings: Rollouts that ended by it.
    """

    sentence: str
    changed: bool
    answers: RoutingTable
    baseline: Version | None
    epoch: int
    endings: tuple[Ending, ...] = ()


class Operations:
    """Releases, withdraws, rolls back, and ends what cannot be read.

    Every method raises UnavailableError while the state store does not answer.
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
    ) -> ChangeResult:
        """Declares a version fit for general traffic, and has it answer plain requests if it is higher than what does.

        Args:
            model: Its model.
            version: Which.
            actor: Who asks.
            reason: Why.
            traffic: It may come to answer plain requests; else it answers ranges and `latest` alone.
            supersede: Rollouts that are in the way end.
            trouble: Says why the version cannot answer.

        Raises:
            ModelNotFound, VersionNotFound: There is no such version.
            ChangeRefused: Something is in the way; the message says what, and the ways out.
            InvalidRequest: It is yanked.
        """
        exact = self._repository.find(model, version).manifest.version
        order = secrets.token_bytes(ORDER_BYTES)

        def decide(snapshot: ModelSnapshot, epoch: int) -> ChangeOutcome:
            return release(snapshot, exact, order, traffic=traffic, supersede=supersede, actor=actor, reason=reason)

        return self._decide(model, decide, actor, reason, trouble, strict=True)

    def release_published(self, model: str, version: Version, *, actor: str, reason: str) -> ChangeResult:
        """Releases what was just published. Raises as `release`; the message says that the version exists."""
        try:
            return self.release(model, version, actor=actor, reason=reason)
        except ChangeRefused as error:
            raise ChangeRefused(f"{model} {version} is published; {error.message}") from error

    def withdraw(self, model: str, version: Version, *, actor: str, reason: str) -> ChangeResult:
        """Takes a release back: the version is a candidate again. Raises as `release`."""
        exact = self._repository.find(model, version).manifest.version
        return self._decide(model, lambda snapshot, _: withdraw(snapshot, exact), actor, reason, strict=True)

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
        """Gives all of a model's traffic back to a version that had it before, and ends its rollouts.

        Args:
            model: Its model.
            to: The version; None for what a rollout goes back to, or the nearest that answered before.
            actor: Who asks.
            reason: Why.
            keep_released: What is gone back from stays released.
            expected_epoch: That the operator looked at: of the one rollout that runs, or else of the traffic.
            since: What the rollback was decided on, if that was before; refused if somebody has changed it since.
            trouble: Says why a version cannot answer.
            signatures: Of the versions that are served, so that a repository that is away hinders nothing; None: those
                that are in the repository.

        Raises:
            ModelNotFound: There is no such model.
            ChangeRefused: There is nothing to go back to, or it cannot answer.
            Conflict: It has moved since the operator looked at it.
        """
        order = secrets.token_bytes(ORDER_BYTES)

        def decide(snapshot: ModelSnapshot, epoch: int) -> ChangeOutcome:
            _refuse_stale(snapshot, epoch, expected_epoch)
            if since is not None and since.overruled(epoch, snapshot.actor, snapshot.state.policy, snapshot.answering):
                raise Conflict(
                    f"who answers {model} was changed since: {snapshot.actor or 'somebody'} decided otherwise"
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
        """Ends rollouts that cannot be read, and keeps their documents as they are.

        Args:
            model: Their model.
            attempt: Which; 0 for each of them.
            actor: Who asks.
            reason: Why.
            signatures: As of `rollback`.

        Raises:
            ChangeRefused: There is no such unreadable rollout.
        """

        def decide(snapshot: ModelSnapshot, _: int) -> ChangeOutcome:
            found = tuple(u for u in snapshot.unreadable if attempt in (0, u.record.attempt))
            if not found:
                which = f"{attempt} " if attempt else ""
                raise ChangeRefused(f"no rollout {which}of {model} that runs is unreadable: abort it without --discard")
            which = ", ".join(str(one.record.attempt) for one in found)
            return ChangeOutcome(f"attempt {which} of {model} is discarded; its traffic stays as it is", discards=found)

        return self._decide(model, decide, actor, reason, signatures=signatures)

    def answers(self, model: str) -> RoutingTable:
        """Returns who answers what, by what the state store holds; empty if there is no such model."""
        return self._look(model, self._found(model)).answers

    def _look(self, model: str, signatures: Mapping[Version, Signature]) -> ModelSnapshot:
        seen: list[ModelSnapshot] = []

        def look(view: StoredModel) -> ModelChange:
            seen.append(_model_snapshot(view, signatures, lambda _: "")[0])
            return ModelChange()

        self._store.decide(model, look, actor="", reason="")
        return seen[0]

    def _found(self, model: str) -> dict[Version, Signature]:
        return {one.manifest.version: one.manifest.signature for one in self._listing().versions(model)}

    def _signatures(self, model: str) -> dict[Version, Signature]:
        if not (found := self._found(model)):
            raise ModelNotFound.named(model, self._listing().models)
        return found

    def _listing(self) -> Listing:
        try:
            return self._repository.scan()
        except OSError as error:
            raise UnavailableError(f"the model repository cannot be read now: {error.strerror}") from error

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
        signatures = self._signatures(model) if signatures is None else signatures
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
    """Returns a model as it is, and its policy's epoch."""
    epochs = view.epochs()
    states = [(record, state) for record in epochs if (state := readable(record.document)) is not None]
    rollouts, unreadable = split_records(view.running())
    exact = {v: v for v in signatures}  # with the build metadata that they were published with
    history = [HistoryEntry.of_policy(record.revision, state.policy) for record, state in states]
    history += [HistoryEntry.of_status(c.revision, c.version, c.status) for c in view.status_changes()]
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


def _change(outcome: ChangeOutcome, records: dict[int, RolloutRecord], actor: str, reason: str) -> ModelChange:
    """Returns what is to be recorded."""
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
    notes = [Note("discarded", text, actor), Note("failed", "nobody could judge by its record", "")]
    return RolloutWrite(record.attempt, record.number, "failed", True, None, record.driver, 0.0, notes)


def _refuse_stale(snapshot: ModelSnapshot, epoch: int, expected: int | None) -> None:
    """Refuses a change that was decided on an earlier epoch of the running rollout, or of the policy."""
    if expected is None:
        return
    for rollout in snapshot.rollouts:
        refuse_stale(rollout.candidate, rollout.epoch, str(rollout.state), expected)
    if not snapshot.rollouts and epoch != expected:
        raise Conflict(f"the policy of {snapshot.model} is at epoch {epoch} by now, not {expected}; look again")


def refuse_stale(candidate: Version, epoch: int, state: str, expected: int | None) -> None:
    """Refuses a change that was decided on another epoch of the rollout than the current one."""
    if expected not in (None, epoch):
        raise Conflict(f"the rollout of {candidate} is at epoch {epoch} by now ({state}), not {expected}; look again")
