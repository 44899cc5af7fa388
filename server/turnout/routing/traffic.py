"""Changes policies: decides by `turnout.routing.policy`, records in the state store, then applies.

a change here:        look at what is known -> pure decision -> state store (compare-and-swap) -> swap -> answer
a change elsewhere:   the state store's revision moved -> refresh -> swap
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from semver import Version
from structlog.typing import FilteringBoundLogger

from turnout.errors import ChangeRefused, Conflict, FieldViolation, InvalidRequest, VersionNotFound
from turnout.routing.active_policies import AppliedPolicy, Policies
from turnout.routing.policy import (
    Canary,
    Policy,
    PolicyFact,
    PolicyState,
    malformed,
    readable,
    takes_back,
    unfit,
)
from turnout.routing.rollback import HistoryEntry, answered, default_version, rollback_targets
from turnout.routing.slots import ORDER_BYTES, SLOTS, Owners
from turnout.serving.counting.keyed_outcomes import BySlot
from turnout.serving.data_plane.inference import AnswerObserver
from turnout.serving.versions.catalog import Catalog, ModelEntry
from turnout.serving.versions.lifecycle import LifecycleState
from turnout.serving.versions.load_policy import Fallbacks
from turnout.state.model_changes import StatusChange
from turnout.state.policies import PolicyRecord
from turnout.state.release_status import ReleaseStatus
from turnout.state.store import StateStore

_ATTEMPTS = 5
"""How often a change that named no epoch is decided again when another one came first."""

_HISTORY_FOR_BASELINES = 1000

_HISTORY_FOR_FALLBACK = 100
"""Epochs in which the baseline before this one is looked for, to keep it loaded. A rollout makes about ten."""

Observe = Callable[[str, Policy | None, int], AnswerObserver | None]
"""Told of each policy that comes into force, and of its epoch; returns who wants to see the baseline's answers."""

Decide = Callable[[PolicyState], PolicyState]


@dataclass(frozen=True, slots=True)
class ChangeOrigin:
    """Who changes traffic, why, and which epoch they saw.

    Attributes:
        reason: Why.
        expected_epoch: That the change was decided on; None for whatever is in force.
        force: Take it although a signature does not fit the baseline's clients.
    """

    actor: str
    reason: str
    expected_epoch: int | None = None
    force: bool = False


class Traffic:
    """The policies of one server. Used on the event loop only.

    Every method raises UnavailableError while the state store does not answer.
    """

    def __init__(
        self, store: StateStore, catalog: Catalog, policies: Policies, observe: Observe, log: FilteringBoundLogger
    ) -> None:
        """Prepares; nothing is read before the first `refresh`.

        Args:
            store: Keeps the policies.
            catalog: What is served.
            policies: Where what is in force goes.
            observe: Told of each policy that comes into force.
            log: Where changes are logged.
        """
        self._store = store
        self._catalog = catalog
        self._policies = policies
        self._observe = observe
        self._log = log
        self._changing = asyncio.Lock()
        self._unreadable: dict[str, int] = {}
        self._fallback_epochs: dict[str, int] = {}
        self._statuses: dict[str, list[StatusChange]] = {}
        self._status_revision = 0

    async def refresh(self) -> None:
        """Puts in force what the state store holds.

        Raises:
            UnavailableError: The state store does not answer; what was in force stays so.
        """
        async with self._changing:
            self._take_in(await self._store.in_thread(self._store.policies))
            await self._find_fallbacks()

    async def put(
        self,
        model: str,
        policy: Policy,
        change: ChangeOrigin,
        *,
        statuses: Mapping[Version, ReleaseStatus] | None = None,
        rollout: tuple[int, int] | None = None,
    ) -> AppliedPolicy:
        """Puts `policy` in place of the one in force.

        Args:
            model: Its model.
            policy: The whole policy.
            change: Who and why.
            statuses: Versions that are released, or are candidates again, in the same transaction.
            rollout: Attempt and number of the rollout that asks; it must not have been written since.

        Raises:
            InvalidRequest: No policy can be so.
            ModelNotFound, VersionNotFound: A name in it names nothing.
            ChangeRefused: It cannot be in force now, or changes are frozen.
            Conflict: Another change came first.
        """
        known = self._catalog.snapshot.model(model)
        exact = replace(
            policy,
            baseline=_find(known, policy.baseline),
            canaries=tuple(replace(c, version=_find(known, c.version)) for c in policy.canaries),
            shadows=tuple(replace(s, version=_find(known, s.version)) for s in policy.shadows),
        )
        order = secrets.token_bytes(ORDER_BYTES)
        beside = _Beside(statuses or {}, rollout)
        traffic = self._keyed_traffic(model, exact)
        return await self._change(model, change, "set", lambda state: state.with_policy(exact, order, traffic), beside)

    async def redraw_twin(self, model: str, change: ChangeOrigin) -> AppliedPolicy:
        """Gives the twin slots that carry about as much keyed traffic as the canary's, if there are any.

        Which they are follows from the traffic alone, and no request meets another version. Raises as `put`.
        """

        def decide(state: PolicyState) -> PolicyState:
            known = None if state.policy is None else self._keyed_traffic(model, state.policy)
            return state if known is None else state.with_twin_redrawn(known)

        return await self._change(model, change, "redraw", decide)

    async def ramp(self, model: str, canary: Canary, change: ChangeOrigin) -> AppliedPolicy:
        """Gives one canary another weight; a version that is not a canary yet becomes one. Raises as `put`."""
        exact = replace(canary, version=_find(self._catalog.snapshot.model(model), canary.version))
        order = secrets.token_bytes(ORDER_BYTES)

        def decide(state: PolicyState) -> PolicyState:
            if state.policy is None:
                raise ChangeRefused(f"{model} has no policy to ramp in: set one with a baseline first")
            return state.with_canary(exact, order)

        return await self._change(model, change, "ramp", decide)

    async def clear(self, model: str, change: ChangeOrigin) -> AppliedPolicy:
        """Ends the policy. Raises as `put`."""
        return await self._change(model, change, "clear", PolicyState.cleared)

    async def freeze(self, model: str, frozen: bool, change: ChangeOrigin) -> AppliedPolicy:
        """Refuses changes from now on, or accepts them again. Raises as `put`."""
        action = "freeze" if frozen else "unfreeze"
        return await self._change(model, change, action, lambda state: state.with_frozen(frozen))

    async def revert(self, model: str, epoch: int, change: ChangeOrigin) -> AppliedPolicy:
        """Puts an earlier epoch's policy, and its very keys, in force again.

        Raises:
            NotFoundError: There was no such epoch.
        """
        self._catalog.snapshot.model(model)
        record = await self._store.in_thread(self._store.policy_at, model, epoch)
        earlier = PolicyState.from_json(record.document)
        return await self._change(model, change, "revert", lambda state: state.reverted(earlier))

    async def history(self, model: str, limit: int) -> list[tuple[PolicyRecord, PolicyState]]:
        """Returns the model's epochs, the latest first.

        Raises:
            ModelNotFound: There is no such model.
        """
        self._catalog.snapshot.model(model)
        records = await self._store.in_thread(self._store.policy_history, model, limit)
        return [(record, PolicyState.from_json(record.document)) for record in records]

    async def _change(
        self, model: str, change: ChangeOrigin, action: str, decide: Decide, beside: "_Beside | None" = None
    ) -> AppliedPolicy:
        self._catalog.snapshot.model(model)
        for attempt in range(_ATTEMPTS):
            async with self._changing:
                try:
                    return await self._attempt(model, change, action, decide, beside or _Beside())
                except Conflict:
                    self._take_in(await self._store.in_thread(self._store.policies))
                    if change.expected_epoch is not None or attempt == _ATTEMPTS - 1:
                        raise
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(
        self, model: str, change: ChangeOrigin, action: str, decide: Decide, beside: "_Beside"
    ) -> AppliedPolicy:
        applied = self._policies.current.get(model)
        # One that cannot be read is not in force here; yet what is put in its place has to follow it.
        epoch = max(applied.epoch if applied else 0, self._unreadable.get(model, 0))
        before = applied.state if applied else PolicyState()
        if change.expected_epoch not in (None, epoch):
            by = f" (by {applied.actor or 'nobody named'}: {applied.reason or applied.action})" if applied else ""
            raise Conflict(
                f"the policy of {model} is at epoch {epoch} by now, not {change.expected_epoch}{by}; look again"
            )
        after = decide(before)
        if after == before:
            if applied is None:
                raise ChangeRefused(f"{model} has no policy; nothing was changed")
            return applied
        if action not in ("freeze", "unfreeze"):
            await self._check(model, before, after, change, beside.statuses)
        record = await self._store.in_thread(
            self._store.put_policy,
            model,
            after.to_json(),
            expected_epoch=epoch,
            action=action,
            actor=change.actor,
            reason=change.reason,
            needs=() if after.policy is None else after.policy.versions,
            statuses=beside.statuses,
            rollout=beside.rollout,
        )
        self._take_in({model: record})
        if before.policy is not None and (after.policy is None or after.policy.baseline != before.policy.baseline):
            # For what happens before the next look; that one knows which way back is left.
            rollback_target = Fallbacks(needed=(before.policy.baseline,), nearest=before.policy.baseline)
            self._policies.fallbacks = {**self._policies.fallbacks, model: rollback_target}
        self._log.info(
            "traffic changed", model=model, epoch=record.epoch, action=action, actor=change.actor, reason=change.reason,
            policy=None if after.policy is None else after.policy.to_json(),
        )  # fmt: skip
        return self._policies.current[model]

    async def _check(
        self,
        model: str,
        before: PolicyState,
        after: PolicyState,
        change: ChangeOrigin,
        statuses: Mapping[Version, ReleaseStatus],
    ) -> None:
        """Refuses a change that is not allowed."""
        if before.frozen and not takes_back(before, after, await self._earlier_baselines(model)):
            applied = self._policies.current[model]
            raise ChangeRefused(
                f"traffic of {model} is frozen (epoch {applied.epoch}): until it is unfrozen, only changes are "
                "accepted that take traffic back from a canary or a shadow, or go back to an earlier baseline"
            )
        policy = after.policy
        if policy is None:
            return
        if problems := malformed(policy):
            raise InvalidRequest(
                "; ".join(f"{field}: {what}" for field, what in problems),
                violations=[FieldViolation(f"policy.{field}", what) for field, what in problems],
            )
        known = self._catalog.snapshot.model(model)
        for version in policy.versions:
            _find(known, version)  # a policy of an earlier epoch may name what is gone
        facts = {
            version: PolicyFact(
                statuses.get(version, entry.release_status),
                entry.state is LifecycleState.READY,
                entry.manifest.signature,
            )
            for version, entry in known.versions.items()
        }
        if reasons := unfit(policy, facts, force=change.force):
            raise ChangeRefused("; ".join(reasons))

    def _keyed_traffic(self, model: str, policy: Policy) -> BySlot | None:
        """Returns the requests by slot of the last half hour, as this server saw them, for a twin to be drawn by.

        None if no request had a key, or the policy has no twin to draw.
        """
        if not (policy.twin and policy.canaries):
            return None
        versions = self._catalog.snapshot.model(model).versions
        total = np.zeros(SLOTS, np.int64)
        for version in policy.versions:
            entry = versions.get(version)
            if entry is not None and entry.handle is not None:
                total += entry.handle.history.window().entries.count()
        return total if total.any() else None

    async def _earlier_baselines(self, model: str) -> set[Version]:
        records = await self._store.in_thread(self._store.policy_history, model, _HISTORY_FOR_BASELINES)
        states = (readable(record.document) for record in records)
        return {state.policy.baseline for state in states if state is not None and state.policy is not None}

    async def _find_fallbacks(self) -> None:
        """Notes which versions models could go back to, if something changed that decides it."""
        new = await self._store.in_thread(self._store.status_changes, self._status_revision)
        for model, changes in new.items():
            self._statuses.setdefault(model, []).extend(changes)
            self._status_revision = max(self._status_revision, changes[-1].revision)
        moved = {m: a.epoch for m, a in self._policies.current.items() if self._fallback_epochs.get(m) != a.epoch}
        found = {model: await self._fallbacks(model) for model in {*new, *moved}}
        self._policies.fallbacks = {**self._policies.fallbacks, **found}
        self._fallback_epochs.update(moved)

    async def _fallbacks(self, model: str) -> Fallbacks:
        """Returns what a rollback of a model goes back to."""
        changes = self._statuses.get(model, [])
        entries = [HistoryEntry.of_status(c.revision, c.version, c.status) for c in changes]
        statuses = {change.version: change.status for change in changes}
        applied = self._policies.current.get(model)
        if applied is not None:
            records = await self._store.in_thread(self._store.policy_history, model, _HISTORY_FOR_FALLBACK)
            states = ((record.revision, readable(record.document)) for record in records)
            entries += [
                HistoryEntry.of_policy(revision, state.policy) for revision, state in states if state is not None
            ]
        # Whether they are there is for who loads them to say.
        found = rollback_targets(answered(entries), statuses, statuses.keys())[:1]
        nearest = found[0] if found else None
        if applied is not None and applied.state.policy is not None:
            return Fallbacks(needed=found, nearest=nearest)
        return Fallbacks(spare=found, nearest=nearest)

    def _take_in(self, records: Mapping[str, PolicyRecord]) -> None:
        """Puts in force what is new in `records`, in one swap."""
        current = dict(self._policies.current)
        for model, record in records.items():
            known = current.get(model)
            if known is not None and known.epoch >= record.epoch:
                continue
            try:
                state = PolicyState.from_json(record.document)
            except ValueError as error:
                if self._unreadable.get(model) != record.epoch:
                    self._unreadable[model] = record.epoch
                    self._log.error(
                        "a policy cannot be read; the one before it stays in force, `turnout traffic set` replaces it",
                        model=model, epoch=record.epoch, reason=str(error),
                    )  # fmt: skip
                continue
            self._unreadable.pop(model, None)
            current[model] = AppliedPolicy(
                epoch=record.epoch,
                state=state,
                owners=Owners.of(state.table),
                tally=[0] * (len(state.table.claims) + 1),
                observer=self._observe(model, state.policy, record.epoch),
                stand_in=self._stand_in(model, state.policy, known),
                changed_at=record.time,
                actor=record.actor,
                reason=record.reason,
                action=record.action,
            )
        self._policies.current = current

    def _stand_in(self, model: str, policy: Policy | None, known: AppliedPolicy | None) -> Version | None:
        """Returns what answers until a new baseline is ready here: what did before, if that is ready.

        A release moves the policy wherever servers share the state store, and each of them loads in its own time.
        """
        entries = self._catalog.snapshot.models.get(model)
        if policy is None or entries is None:
            return None
        ready = {v: e.release_status for v, e in entries.versions.items() if e.state is LifecycleState.READY}
        if policy.baseline in ready:
            return None
        before = known.state.policy.baseline if known is not None and known.state.policy is not None else None
        choices = (before, known.stand_in if known is not None else None, default_version(ready))
        return next((v for v in choices if v is not None and v in ready), None)


@dataclass(frozen=True, slots=True)
class _Beside:
    """What is recorded and checked in one transaction with a policy; as of `Traffic.put`."""

    statuses: Mapping[Version, ReleaseStatus] = field(default_factory=dict)
    rollout: tuple[int, int] | None = None


def _find(known: ModelEntry, wanted: Version) -> Version:
    """Returns the published version that `wanted` names, with its own build metadata.

    Raises:
        VersionNotFound: There is no such version.
    """
    for version in known.versions:
        if version == wanted and wanted.build in (None, version.build):
            return version
    raise VersionNotFound.of(known.name, str(wanted), [str(version) for version in known.versions])
