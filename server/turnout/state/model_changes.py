"""Changes a model's policy, release statuses and rollouts in one transaction, in which the change is also decided.

read (`StoredModel`) -> decide, outside of this package -> `ModelChange` -> record
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from semver import Version
from sqlalchemy import Connection, select

from turnout.state import policies, rollouts
from turnout.state.change import StateChange
from turnout.state.database import schema
from turnout.state.event_log import events
from turnout.state.event_log.events import EventKind
from turnout.state.policies import PolicyRecord
from turnout.state.release_status import ReleaseStatus
from turnout.state.rollouts import RolloutRecord, RolloutWrite

_MOST = 10_000
"""Maximum number of epochs, events and rollouts of one model that are read."""

_STATUS_KINDS: Mapping[str, ReleaseStatus] = {
    EventKind.RELEASED: ReleaseStatus.RELEASED,
    EventKind.WITHDRAWN: ReleaseStatus.CANDIDATE,
    EventKind.YANKED: ReleaseStatus.YANKED,
    EventKind.UNYANKED: ReleaseStatus.CANDIDATE,
}


@dataclass(frozen=True, slots=True)
class StatusChange:
    """A change of one version's release status.

    Attributes:
        revision: Number of the change.
    """

    revision: int
    version: Version
    status: ReleaseStatus


def status_changes(connection: Connection, model: str | None, since: int = 0) -> dict[str, list[StatusChange]]:
    """Returns the changes of release statuses after revision `since`, by model, oldest first.

    With `model`, only the last changes of that model, whose list may be empty; otherwise of every model with changes.
    """
    kinds = [EventKind(kind) for kind in _STATUS_KINDS]
    limit = _MOST if model is not None else None
    found: dict[str, list[StatusChange]] = {} if model is None else {model: []}
    for event in reversed(events.latest(connection, model, limit, kinds, since=since)):
        change = StatusChange(event.id, Version.parse(event.payload["version"]), _STATUS_KINDS[event.kind])
        found.setdefault(event.model, []).append(change)
    return found


class StoredModel:
    """One model's stored state, read in a transaction. It cannot be changed by others until the transaction ends."""

    def __init__(self, change: StateChange) -> None:
        self._change = change
        self.model = change.model

    def statuses(self) -> dict[Version, ReleaseStatus]:
        """Returns the release statuses by version. A version that is not listed is a candidate."""
        table = schema.standings.c
        query = select(table.version, table.standing).where(table.model == self.model)
        return {
            Version.parse(row.version): ReleaseStatus(row.standing) for row in self._change.connection.execute(query)
        }

    def policy(self) -> PolicyRecord | None:
        """Returns the policy's latest epoch; None if the model never had a policy."""
        return next(iter(self.epochs(1)), None)

    def epochs(self, limit: int = _MOST) -> list[PolicyRecord]:
        """Returns the policy's last epochs, newest first."""
        return policies.latest(self._change.connection, self.model, limit)

    def running(self) -> list[RolloutRecord]:
        """Returns the rollouts that have not ended, newest first."""
        return rollouts.latest(self._change.connection, self.model, _MOST, running=True)

    def status_changes(self) -> list[StatusChange]:
        """Returns the changes of release statuses, oldest first."""
        return status_changes(self._change.connection, self.model)[self.model]


@dataclass(frozen=True, slots=True)
class ModelChange:
    """A change to record.

    Attributes:
        policy: Document of the next epoch's policy, as `turnout.state.policies` stores it; None for no new epoch.
        action: One word for what is done to the policy.
        statuses: Versions to release, or to make candidates again.
    """

    policy: Mapping[str, Any] | None = None
    action: str = ""
    statuses: Mapping[Version, ReleaseStatus] = field(default_factory=dict)
    rollouts: Sequence[RolloutWrite] = ()
