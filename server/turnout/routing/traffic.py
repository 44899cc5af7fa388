"""Changes policies: decides by `turnout.routing.policy`, records in the state store, and then applies.

a change here:        state store -> pure decision -> state store (compare-and-swap) -> swap -> respond
a change elsewhere:   the state store's revision changed -> refresh -> swap
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np
from semver import Version
from structlog.typing import FilteringBoundLogger

from turnout.errors import ChangeRefused, Conflict, FieldViolation, InvalidRequest, VersionNotFound
from turnout.routing.active_policies import NEVER_SET, AppliedPolicy, Policies
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
from turnout.serving.versions.follow import VersionFinder
from turnout.serving.versions.load_policy import Fallbacks
from turnout.state.model_changes import StatusChange
from turnout.state.policies import PolicyRecord
from turnout.state.release_status import ReleaseStatus
from turnout.state.store import StateStore

_ATTEMPTS = 5
"""Number of attempts for a change without an expected epoch, if other changes come first."""

_HISTORY_FOR_BASELINES = 1000

_HISTORY_FOR_FALLBACK = 100
"""Number of epochs searched for the previous baseline, to keep it loaded. A rollout makes about ten epochs."""

Observe = Callable[[str, Policy | None, int], AnswerObserver | None]
"""Called with each model's new policy and its epoch. Returns the observer of the baseline's answers, if any."""

Decide = Callable[[PolicyState], PolicyState]


@dataclass(frozen=True, slots=True)
class ChangeOrigin:
    """Who changes traffic, why, based on what, and what is recorded in the same transaction.

    Attributes:
        expected_epoch: Epoch that the change was based on; None for any.
        force: Whether to accept the change even if a signature does not fit the baseline's clients.
        statuses: Versions to release, or to make candidates again, in the same transaction.
        rollout: Attempt and number of the rollout that makes the change; it must not have been written since.
    """

    actor: str
    reason: str
    expected_epoch: int | None = None
    force: bool = False
    statuses: Mapping[Version, ReleaseStatus] = field(default_factory=dict)
    rollout: tuple[int, int] | None = None


@dataclass(eq=False, repr=False)
class Traffic:
    """The traffic policies of one server. Used only on the event loop.

    Every method raises UnavailableError while the state store does not respond.
    """

    _store: StateStore
    _catalog: Catalog
    _finder: VersionFinder
    _policies: Policies
    _observe: Observe
    _log: FilteringBoundLogger
    _changing: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)
    _unreadable: dict[str, int] = field(init=False, default_factory=dict)
    _known_fallbacks: dict[str, tuple[int, datetime]] = field(init=False, default_factory=dict)
    _statuses: dict[str, list[StatusChange]] = field(init=False, default_factory=dict)
    _status_revision: int = field(init=False, default=0)
    _lost: bool = field(init=False, default=False)

    async def refresh(self) -> None:
        """Puts the policies in the state store into force.

        Raises:
            UnavailableError: The state store does not respond. The policies in force do not change.
        """
        async with self._changing:
            records = await self._store.in_thread(self._store.policies)
            self._take_in({**dict.fromkeys(self._policies.current), **records})
            await self._find_fallbacks()

    async def put(self, model: str, policy: Policy, change: ChangeOrigin) -> AppliedPolicy:
        """Replaces the policy in force by `policy`.

        Raises:
            InvalidRequest: The policy is malformed.
            ModelNotFound, VersionNotFound: The model or a version does not exist.
            ChangeRefused: The policy cannot be put into force now, or changes are frozen.
            Conflict: Another change came first.
        """
        known = await self._finder.find(model, *policy.versions)
        exact = replace(
            policy,
            baseline=_find(known, policy.baseline),
            canaries=tuple(replace(c, version=_find(known, c.version)) for c in policy.canaries),
            shadows=tuple(replace(s, version=_find(known, s.version)) for s in policy.shadows),
        )
        order, traffic = secrets.token_bytes(ORDER_BYTES), self._keyed_traffic(model, exact)
        return await self._change(model, change, "set", lambda state: state.with_policy(exact, order, traffic))

    async def redraw_twin(self, model: str, change: ChangeOrigin) -> AppliedPolicy:
        """Gives the twin slots that carry about as much keyed traffic as the canary's, if such slots exist.

        The choice depends on the traffic alone, and no request gets another version. Raises as `put`.
        """

        def decide(state: PolicyState) -> PolicyState:
            known = None if state.policy is None else self._keyed_traffic(model, state.policy)
            return state if known is None else state.with_twin_redrawn(known)

        return await self._change(model, change, "redraw", decide)

    async def ramp(self, model: str, canary: Canary, change: ChangeOrigin) -> AppliedPolicy:
        """Changes the weight of one canary, or adds a version as a canary. Raises as `put`."""
        exact = replace(canary, version=_find(await self._finder.find(model, canary.version), canary.version))
        order = secrets.token_bytes(ORDER_BYTES)

        def decide(state: PolicyState) -> PolicyState:
            if state.policy is None:
                raise ChangeRefused(f"{model} has no policy to ramp in: set one with a baseline first")
            return state.with_canary(exact, order)

        return await self._change(model, change, "ramp", decide)

    async def clear(self, model: str, change: ChangeOrigin) -> AppliedPolicy:
        """Removes the policy. Raises as `put`."""
        return await self._change(model, change, "clear", PolicyState.cleared)

    async def freeze(self, model: str, frozen: bool, change: ChangeOrigin) -> AppliedPolicy:
        """Refuses changes from now on, or accepts them again. Raises as `put`."""
        action = "freeze" if frozen else "unfreeze"
        return await self._change(model, change, action, lambda state: state.with_frozen(frozen))

    async def revert(self, model: str, epoch: int, change: ChangeOrigin) -> AppliedPolicy:
        """Puts the policy of an earlier epoch into force again, with exactly the same keys.

        Raises:
            NotFoundError: The epoch does not exist.
        """
        await self._finder.find(model)
        record = await self._store.in_thread(self._store.policy_at, model, epoch)
        earlier = PolicyState.from_json(record.document)
        return await self._change(model, change, "revert", lambda state: state.reverted(earlier))

    async def history(self, model: str, limit: int) -> list[tuple[PolicyRecord, PolicyState]]:
        """Returns the model's epochs, latest first.

        Raises:
            ModelNotFound: The model does not exist.
        """
        self._catalog.snapshot.model(model)
        records = await self._store.in_thread(self._store.policy_history, model, limit)
        return [(record, PolicyState.from_json(record.document)) for record in records]

    async def _change(self, model: str, change: ChangeOrigin, action: str, decide: Decide) -> AppliedPolicy:
        await self._finder.find(model)
        for attempt in range(_ATTEMPTS):
            async with self._changing:
                # Another server may have changed the policy a moment ago: what changes nothing here may change that.
                records = await self._store.in_thread(self._store.policy_history, model, 1)
                self._take_in({model: next(iter(records), None)})
                try:
                    return await self._attempt(model, change, action, decide)
                except Conflict:
                    if change.expected_epoch is not None or attempt == _ATTEMPTS - 1:
                        raise
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, model: str, change: ChangeOrigin, action: str, decide: Decide) -> AppliedPolicy:
        applied = self._policies.of(model)
        # A policy that cannot be read is not in force here, but a new one has to follow its epoch.
        epoch, before = max(applied.epoch, self._unreadable.get(model, 0)), applied.state
        if change.expected_epoch not in (None, epoch):
            by = f" (by {applied.actor or 'an unnamed caller'}: {applied.reason or applied.action})"
            by = by if applied.epoch else ""
            raise Conflict(
                f"the policy of {model} is at epoch {epoch} by now, not {change.expected_epoch}{by}; look again"
            )
        after = decide(before)
        if after == before:
            if not applied.epoch:
                raise ChangeRefused(f"{model} has no policy; nothing was changed")
            return applied
        if action not in ("freeze", "unfreeze"):
            await self._check(model, before, after, change)
        record = await self._store.in_thread(
            self._store.put_policy,
            model,
            after.to_json(),
            expected_epoch=epoch,
            action=action,
            actor=change.actor,
            reason=change.reason,
            needs=() if after.policy is None else after.policy.versions,
            statuses=change.statuses,
            rollout=change.rollout,
        )
        self._take_in({model: record})
        if before.policy is not None and (after.policy is None or after.policy.baseline != before.policy.baseline):
            # Until the next refresh, which determines the remaining rollback target.
            rollback_target = Fallbacks(needed=(before.policy.baseline,), nearest=before.policy.baseline)
            self._policies.fallbacks = {**self._policies.fallbacks, model: rollback_target}
        self._log.info(
            "traffic changed", model=model, epoch=record.epoch, action=action, actor=change.actor, reason=change.reason,
            policy=None if after.policy is None else after.policy.to_json(),
        )  # fmt: skip
        return self._policies.current[model]

    async def _check(self, model: str, before: PolicyState, after: PolicyState, change: ChangeOrigin) -> None:
        if before.frozen and not takes_back(before, after, await self._earlier_baselines(model)):
            epoch = self._policies.of(model).epoch
            raise ChangeRefused(
                f"traffic of {model} is frozen (epoch {epoch}): until it is unfrozen, only changes are "
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
        # The store may have a release or a withdrawal that this server has not followed yet.
        recorded = (await self._store.in_thread(self._store.release_state)).of(model)
        release_statuses = {version: recorded.release_status(version) for version in known.versions} | dict(
            change.statuses
        )
        if reasons := unfit(policy, _facts(known, release_statuses), force=change.force):
            raise ChangeRefused("; ".join(reasons))

    def _keyed_traffic(self, model: str, policy: Policy) -> BySlot | None:
        """Returns this server's requests by slot in the last half hour, by which a twin's slots are drawn.

        None if no request had a key, or the policy has no twin.
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
        """Updates the versions that models could return to, if a relevant change happened."""
        lost = self._lost or await self._store.in_thread(self._store.revision) < self._status_revision
        if lost:  # as in `_take_in`
            self._statuses, self._status_revision, self._known_fallbacks, self._lost = {}, 0, {}, False
        new = await self._store.in_thread(self._store.status_changes, self._status_revision)
        for model, changes in new.items():
            self._statuses.setdefault(model, []).extend(changes)
            self._status_revision = max(self._status_revision, changes[-1].revision)
        present = {model: (one.epoch, one.changed_at) for model, one in self._policies.current.items()}
        moved = {model: key for model, key in present.items() if self._known_fallbacks.get(model) != key}
        found = {model: await self._fallbacks(model) for model in {*new, *moved}}
        self._policies.fallbacks = found if lost else {**self._policies.fallbacks, **found}
        self._known_fallbacks.update(moved)

    async def _fallbacks(self, model: str) -> Fallbacks:
        changes = self._statuses.get(model, [])
        entries = [HistoryEntry(c.revision, False, version=c.version, status=c.status) for c in changes]
        statuses = {change.version: change.status for change in changes}
        applied = self._policies.of(model)
        if applied.epoch:
            records = await self._store.in_thread(self._store.policy_history, model, _HISTORY_FOR_FALLBACK)
            states = ((record.revision, readable(record.document)) for record in records)
            entries += [HistoryEntry(revision, True, state.baseline) for revision, state in states if state is not None]
        # The loader checks whether the versions exist.
        found = rollback_targets(answered(entries), statuses, statuses.keys())[:1]
        nearest = found[0] if found else None
        if applied.policy is not None:
            return Fallbacks(needed=found, nearest=nearest)
        return Fallbacks(spare=found, nearest=nearest)

    def _take_in(self, records: Mapping[str, PolicyRecord | None]) -> None:
        """Puts the new policies in `records` into force, in one swap; None for a model that never had one.

        An epoch goes back if the state store has lost its latest changes, as a failover to a replica may.
        """
        current = dict(self._policies.current)
        for model, record in records.items():
            known = current.get(model, NEVER_SET)
            if known.epoch and (record is None or record.epoch < known.epoch):
                left = 0 if record is None else record.epoch
                self._log.error("the state store has lost changes", model=model, epoch=left, lost=known.epoch)
                self._lost = True
            if record is None:
                current.pop(model, None)
            if record is None or (known.epoch, known.changed_at) == (record.epoch, record.time):
                self._unreadable.pop(model, None)
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

    def _stand_in(self, model: str, policy: Policy | None, known: AppliedPolicy) -> Version | None:
        """Returns the version that answers until a new baseline is ready here: the previous one, if that is ready.

        A release changes the policy on all servers that share the state store, and each loads the version in its own
        time.
        """
        ready = self._catalog.snapshot.statuses(model, ready=True)
        if policy is None or policy.baseline in ready:
            return None
        choices = (known.state.baseline, known.stand_in, default_version(ready))
        return next((v for v in choices if v is not None and v in ready), None)


def _facts(known: ModelEntry, statuses: Mapping[Version, ReleaseStatus]) -> Mapping[Version, PolicyFact]:
    return {
        version: PolicyFact(statuses[version], entry.ready, entry.manifest.signature)
        for version, entry in known.versions.items()
    }


def _find(known: ModelEntry, wanted: Version) -> Version:
    """Returns the published version that `wanted` names, with its own build metadata.

    Raises:
        VersionNotFound: The version does not exist.
    """
    for version in known.versions:
        if version == wanted and wanted.build in (None, version.build):
            return version
    raise VersionNotFound.of(known.name, str(wanted), [str(version) for version in known.versions])
