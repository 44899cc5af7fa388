"""The part of the state store that servers meet at: who is alive, what each counted, and whose tokens they take."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from sqlalchemy import select

from turnout.errors import Conflict
from turnout.state import rollouts, servers, tokens
from turnout.state.database import schema
from turnout.state.event_log.events import EventKind
from turnout.state.releases import ReleaseStore
from turnout.state.rollouts import RolloutRecord, RolloutWrite
from turnout.state.servers import CountRecord, ServerReport, ServersSnapshot
from turnout.state.tokens import TokenRecord

_MOST_RUNNING = 10_000


class Sharing(ReleaseStore):
    """What servers share through the store. Except for tokens, it is not in the log and changes no revision."""

    def listen(self, heard: Callable[[], None]) -> None:
        """Calls `heard` in a thread at each change, if the database announces changes."""
        self._database.listen(heard)

    def report_server(self, report: ServerReport, counts: Sequence[CountRecord]) -> bool:
        """Writes what a server says of itself and what it counted, in one transaction; twice is harmless.

        Returns:
            False if another server of this name is alive, and nothing was written.
        """
        with self._database.writing() as connection:
            return servers.report(connection, report, counts) is not None

    def leave_server(self, name: str, instance: str) -> None:
        """Removes a server that stops."""
        with self._database.writing() as connection:
            servers.leave(connection, name, instance)

    def running_rollouts(self, driver: str | None = None) -> tuple[list[RolloutRecord], ServersSnapshot]:
        """Returns the rollouts that have not ended, the servers that are alive, and counts that nobody has used yet.

        All of it is from one transaction. `driver` limits the counts to the rollouts that it drives.
        """
        with self._database.reading() as connection:
            records = rollouts.latest(connection, None, _MOST_RUNNING, running=True)
            return records, servers.servers_snapshot(connection, driver)

    def rollouts_in(self, state: str) -> list[RolloutRecord]:
        """Returns the rollouts that are in a state, the newest first."""
        with self._database.reading() as connection:
            return rollouts.latest(connection, None, _MOST_RUNNING, running=True, state=state)

    def put_counts(self, several: Sequence[tuple[str, RolloutWrite]]) -> list[RolloutRecord | None]:
        """Writes rollouts of these models to which nothing happened except counts, in one transaction.

        Nothing is told of it, and the revision stays.

        Returns:
            Each as it stands; None for one that another server wrote meanwhile, and that stays as it is.
        """
        found: list[RolloutRecord | None] = []
        with self._database.writing() as connection:
            # As every change does: on PostgreSQL, two that write a rollout wait for one another here.
            connection.execute(select(schema.revision.c.number).with_for_update())
            for model, wanted in several:
                try:
                    found.append(rollouts.write(connection, model, wanted, self._now(), _untold))
                except Conflict:  # it is looked for before anything is written
                    found.append(None)
        return found

    def expire_servers(self, gone_seconds: float) -> int:
        """Removes servers that have been silent for so long, and counts of ended rollouts; returns how many rows."""
        with self._database.writing() as connection:
            return servers.expire(connection, gone_seconds)

    def tokens(self, *, revoked: bool = True) -> list[TokenRecord]:
        """Returns bearer tokens, the oldest first: all, or those that were not revoked."""
        with self._database.reading() as connection:
            return tokens.read(connection, revoked=revoked)

    def create_token(self, token: TokenRecord, *, actor: str, reason: str) -> None:
        """Stores a new token; servers accept it as soon as they see the change.

        Raises:
            Conflict: As many are there as may be.
            InvalidRequest: An argument is too long.
        """
        with self._change_of_any("", actor, reason) as change:
            tokens.create(change, token)

    def revoke_token(self, name_or_id: str, *, actor: str, reason: str) -> list[TokenRecord]:
        """Revokes the token of an id, or all of a name; returns those that were not revoked yet.

        Raises:
            NotFoundError: There is no such token.
            InvalidRequest: An argument is too long.
        """
        with self._change_of_any("", actor, reason) as change:
            return tokens.revoke(change, name_or_id, self._now())


def _untold(kind: EventKind, subject: str, payload: Mapping[str, Any]) -> NoReturn:
    raise ValueError(f"{subject} has to be told: it is written by itself")
