"""The part of the state store through which servers coordinate: live servers, their counts, and tokens."""

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
    """Data that servers share through the store. Except for tokens, it is not logged and changes no revision."""

    def listen(self, heard: Callable[[], None]) -> None:
        """Calls `heard` in a thread at each change, if the database announces changes."""
        self._database.listen(heard)

    def report_server(self, report: ServerReport, counts: Sequence[CountRecord]) -> bool:
        """Writes a server's report and its counts in one transaction. Idempotent.

        Returns:
            False if another server with this name is alive, in which case nothing is written.
        """
        with self._database.writing() as connection:
            return servers.report(connection, report, counts) is not None

    def leave_server(self, name: str, instance: str) -> None:
        """Removes a server that is stopping."""
        with self._database.writing() as connection:
            servers.leave(connection, name, instance)

    def running_rollouts(self, driver: str | None = None) -> tuple[list[RolloutRecord], ServersSnapshot]:
        """Returns the rollouts that have not ended, the known servers, and the counts not yet taken, as one snapshot.

        With `driver`, only the counts of rollouts that this server drives, according to their records.
        """
        with self._database.reading() as connection:
            records = rollouts.latest(connection, None, _MOST_RUNNING, running=True)
            return records, servers.servers_snapshot(connection, driver)

    def rollouts_in(self, state: str) -> list[RolloutRecord]:
        """Returns the running rollouts in a state, newest first."""
        with self._database.reading() as connection:
            return rollouts.latest(connection, None, _MOST_RUNNING, running=True, state=state)

    def put_counts(self, several: Sequence[tuple[str, RolloutWrite]]) -> list[RolloutRecord | None]:
        """Writes several rollouts for which nothing changed except counts, in one transaction.

        No event is logged and the revision does not change.

        Returns:
            The new record of each; None for a rollout that was not changed, since another server wrote it meanwhile.
        """
        found: list[RolloutRecord | None] = []
        with self._database.writing() as connection:
            # As for every change: on PostgreSQL, this lock makes concurrent writers of a rollout wait for one another.
            connection.execute(select(schema.revision.c.number).with_for_update())
            for model, wanted in several:
                try:
                    found.append(rollouts.write(connection, model, wanted, self._now(), _untold))
                except Conflict:  # raised before anything is written
                    found.append(None)
        return found

    def expire_servers(self, gone_seconds: float) -> int:
        """Removes servers that have been silent for so long, and counts of ended rollouts. Returns how many."""
        with self._database.writing() as connection:
            return servers.expire(connection, gone_seconds)

    def tokens(self, *, revoked: bool = True) -> list[TokenRecord]:
        """Returns bearer tokens, oldest first: all, or only those that are not revoked."""
        with self._database.reading() as connection:
            return tokens.read(connection, revoked=revoked)

    def create_token(self, token: TokenRecord, *, actor: str, reason: str) -> None:
        """Stores a new token. Servers accept it as soon as they see the change.

        Raises:
            Conflict: The maximum number of active tokens has been reached.
            InvalidRequest: An argument is too long.
        """
        with self._change_of_any("", actor, reason) as change:
            tokens.create(change, token)

    def revoke_token(self, name_or_id: str, *, actor: str, reason: str) -> list[TokenRecord]:
        """Revokes the token with an id, or all tokens with a name. Returns those that were not revoked before.

        Raises:
            NotFoundError: No token has this name or id.
            InvalidRequest: An argument is too long.
        """
        with self._change_of_any("", actor, reason) as change:
            return tokens.revoke(change, name_or_id, self._now())


def _untold(kind: EventKind, subject: str, payload: Mapping[str, Any]) -> NoReturn:
    raise ValueError(f"{subject} has to be told: it is written by itself")
