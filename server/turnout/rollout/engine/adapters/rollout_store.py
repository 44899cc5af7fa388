"""The engine's access to the state store, which records rollouts and exchanges the servers' counts."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from semver import Version

from turnout.rollout.machine.attempt import RolloutState
from turnout.state.rollouts import RolloutRecord, RolloutWrite
from turnout.state.servers import CountRecord, ServerReport, ServersSnapshot
from turnout.state.store import StateStore

_REFUSALS = 8
"""Refused reports after which a server with this one's name is not taken for a killed earlier process of it."""

T = TypeVar("T")


@dataclass(slots=True)
class ServerPresence:
    """This server among those that share the state store.

    Attributes:
        about: Constant part of its report about itself, as JSON values.
        instance: Identifier of the process, which differs at every start.
    """

    name: str
    about: Mapping[str, Any] = field(default_factory=dict)
    instance: str = field(default_factory=lambda: uuid.uuid4().hex)


class StoredRollouts:
    """Rollouts in the state store. Each call runs in one of the store's threads.

    Every method raises UnavailableError if the store does not respond.
    """

    def __init__(self, store: StateStore, presence: ServerPresence) -> None:
        self._store = store
        self._presence = presence
        self._refused = 0

    @property
    def server(self) -> str:
        """This server's name, which no other server has at the same time."""
        return self._presence.name

    async def running(self, driver: str) -> tuple[Sequence[RolloutRecord], ServersSnapshot]:
        """Returns the rollouts that have not ended, and the servers' reports.

        The counts of the rollouts that the server `driver`, by its name in leases, drives are included.
        """
        return await self._store.in_thread(self._store.running_rollouts, driver)

    async def report(self, document: Mapping[str, Any], counts: Sequence[CountRecord], alive_seconds: float) -> bool:
        """Reports that this server is alive for `alive_seconds`, with a document about itself and its counts.

        Returns:
            False if another server has this one's name, in which case nothing is written.
        """
        one = self._presence
        report = ServerReport(one.name, one.instance, {**one.about, **document}, alive_seconds)
        if await self._store.in_thread(self._store.report_server, report, counts):
            return True
        self._refused += 1
        if self._refused > _REFUSALS:  # the other server still reports, so it is not an earlier process of this one
            one.name = f"{one.name}~{one.instance[:6]}"
        return False

    async def leave(self) -> None:
        """Tells the other servers that this one stops."""
        await self._store.in_thread(self._store.leave_server, self._presence.name, self._presence.instance)

    async def aborting(self) -> Sequence[RolloutRecord]:
        """Returns the rollouts that are being rolled back."""
        return await self._store.in_thread(self._store.rollouts_in, str(RolloutState.ABORTING))

    async def of(self, model: str) -> Sequence[RolloutRecord]:
        """Returns the latest rollouts of a model, newest first."""
        return await self._store.in_thread(self._store.rollouts, model)

    async def write(self, model: str, wanted: RolloutWrite, *, actor: str, reason: str) -> RolloutRecord:
        """Writes a rollout, its ticks and events, in one transaction. Raises as `StateStore.put_rollout`."""
        return await self._store.in_thread(self._store.put_rollout, model, wanted, actor=actor, reason=reason)

    async def write_counts(self, several: Sequence[tuple[str, RolloutWrite]]) -> Sequence[RolloutRecord | None]:
        """Writes rollouts for which nothing changed except counts. Returns as `StateStore.put_counts`."""
        return await self._store.in_thread(self._store.put_counts, several)

    async def withdraw(
        self, model: str, version: Version, *, actor: str, reason: str, rollout: tuple[int, int]
    ) -> None:
        """Withdraws a release. Raises as `StateStore.withdraw`."""
        await self._store.in_thread(self._store.withdraw, model, version, actor=actor, reason=reason, rollout=rollout)

    async def run(self, operation: Callable[[], T]) -> T:
        """Runs a blocking change of the store in one of its threads."""
        return await self._store.in_thread(operation)
