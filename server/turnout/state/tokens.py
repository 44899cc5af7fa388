"""Records of bearer tokens. Creating and revoking a token are logged as events."""

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from turnout.errors import Conflict, NotFoundError
from turnout.state.change import Transactions
from turnout.state.database import schema
from turnout.state.event_log.events import EventKind, time_text

MOST_TOKENS = 10_000
"""Maximum number of active tokens. Every server keeps them all in memory."""


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A token's record.

    Attributes:
        id: Public part of the token itself; not a secret.
        name: Name of the token's bearer. Several tokens may have the same name, so that one can replace another.
        digest: SHA-256 of the whole token in hex, left out of the repr.
        models: Patterns of model names on which it grants them.
        created, expires, revoked: Times in UTC; None for never.
    """

    id: str
    name: str
    digest: str = field(repr=False)
    roles: tuple[str, ...]
    models: tuple[str, ...]
    created: datetime
    expires: datetime | None
    revoked: datetime | None = None
    actor: str = ""

    def state(self, now: datetime) -> str:
        """Returns `active`, `expired` or `revoked`."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "active"


def read(connection: Connection, *, revoked: bool = True, active_at: datetime | None = None) -> list[TokenRecord]:
    """Returns tokens, oldest first: all, those that are not revoked, or those that are active at a time."""
    table = schema.tokens
    query = select(table).order_by(table.c.created, table.c.id)
    if not revoked or active_at is not None:
        query = query.where(table.c.revoked == "")
    if active_at is not None:
        query = query.where((table.c.expires == "") | (table.c.expires > time_text(active_at)))
    return [
        TokenRecord(
            row.id, row.name, row.digest, tuple(json.loads(row.roles)), tuple(json.loads(row.models)),
            datetime.fromisoformat(row.created), _time(row.expires), _time(row.revoked), row.actor,
        )
        for row in connection.execute(query)
    ]  # fmt: skip


class TokenStore(Transactions):
    """Bearer tokens. A change raises InvalidRequest if an argument is too long."""

    def tokens(self, *, revoked: bool = True) -> list[TokenRecord]:
        """Returns bearer tokens, oldest first: all, or only those that are not revoked."""
        with self._database.reading() as connection:
            return read(connection, revoked=revoked)

    def create_token(self, token: TokenRecord, *, actor: str, reason: str) -> None:
        """Stores a new token. Servers accept it as soon as they see the change.

        Raises:
            Conflict: The maximum number of active tokens has been reached.
        """
        with self._change_of_any("", actor, reason) as change:
            if len(read(change.connection, active_at=token.created)) >= MOST_TOKENS:
                raise Conflict(f"{MOST_TOKENS} tokens are active, which is as many as may be: revoke some")
            row = {
                "id": token.id, "name": token.name, "digest": token.digest, "roles": json.dumps(token.roles),
                "models": json.dumps(token.models), "created": time_text(token.created),
                "expires": _text(token.expires), "revoked": "", "actor": actor,
            }  # fmt: skip
            change.connection.execute(insert(schema.tokens).values(row))
            change.record(EventKind.TOKEN_CREATED, token.id, described(token))

    def revoke_token(self, name_or_id: str, *, actor: str, reason: str) -> list[TokenRecord]:
        """Revokes the token with an id, or all tokens with a name. Returns those that were not revoked before.

        Raises:
            NotFoundError: No token has this name or id.
        """
        with self._change_of_any("", actor, reason) as change:
            found = [token for token in read(change.connection) if name_or_id in (token.id, token.name)]
            if not found:
                raise NotFoundError(f"no token has the name or id {name_or_id[:64]!r}")
            revoked = [token for token in found if token.revoked is None]
            now = time_text(self._now())
            for token in revoked:
                row = schema.tokens.c.id == token.id
                change.connection.execute(update(schema.tokens).where(row).values(revoked=now))
                change.record(EventKind.TOKEN_REVOKED, token.id, {"id": token.id, "name": token.name})
        return revoked


def described(token: TokenRecord) -> dict[str, Any]:
    """Returns the log's description of a new token, with a digest of its digest."""
    return {
        "id": token.id,
        "name": token.name,
        "roles": list(token.roles),
        "models": list(token.models),
        "expires": _text(token.expires),
        "fingerprint": hashlib.sha256(token.digest.encode()).hexdigest()[:16],
    }


def _text(time: datetime | None) -> str:
    return "" if time is None else time_text(time)


def _time(text: str) -> datetime | None:
    return datetime.fromisoformat(text).astimezone(UTC) if text else None
