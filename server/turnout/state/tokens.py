"""Bearer tokens: a record of each. Creating and revoking one are events of the log."""

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from turnout.errors import Conflict, NotFoundError
from turnout.state.change import StateChange
from turnout.state.database import schema
from turnout.state.event_log.events import EventKind, time_text

MOST_TOKENS = 10_000
"""Active ones; every server holds them in memory."""


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A token's record.

    Attributes:
        id: Part of the token itself; no secret.
        name: Whom it is for; several tokens may have the same, while one takes the other's place.
        digest: SHA-256 of the whole token, in hex; it is not shown.
        roles: What its bearer may do.
        models: Patterns of names of models.
        created, expires, revoked: When, UTC; None for never.
        actor: Who created it.
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


def create(change: StateChange, token: TokenRecord) -> None:
    """Writes a token that is new.

    Raises:
        Conflict: As many are there as may be.
    """
    if len(read(change.connection, active_at=token.created)) >= MOST_TOKENS:
        raise Conflict(f"{MOST_TOKENS} tokens are active, which is as many as may be: revoke some")
    change.connection.execute(
        insert(schema.tokens).values(
            id=token.id,
            name=token.name,
            digest=token.digest,
            roles=json.dumps(token.roles),
            models=json.dumps(token.models),
            created=time_text(token.created),
            expires=_text(token.expires),
            revoked="",
            actor=change.actor,
        )
    )
    change.record(EventKind.TOKEN_CREATED, token.id, described(token))


def revoke(change: StateChange, name_or_id: str, now: datetime) -> list[TokenRecord]:
    """Revokes the token of an id, or all of a name; returns those that were not revoked yet.

    Raises:
        NotFoundError: There is no such token.
    """
    found = [token for token in read(change.connection) if name_or_id in (token.id, token.name)]
    if not found:
        raise NotFoundError(f"no token has the name or id {name_or_id[:64]!r}")
    revoked = [token for token in found if token.revoked is None]
    for token in revoked:
        row = schema.tokens.c.id == token.id
        change.connection.execute(update(schema.tokens).where(row).values(revoked=time_text(now)))
        change.record(EventKind.TOKEN_REVOKED, token.id, {"id": token.id, "name": token.name})
    return revoked


def read(connection: Connection, *, revoked: bool = True, active_at: datetime | None = None) -> list[TokenRecord]:
    """Reads tokens, the oldest first: all, those that were not revoked, or those that are active at a time."""
    table = schema.tokens
    query = select(table).order_by(table.c.created, table.c.id)
    if not revoked or active_at is not None:
        query = query.where(table.c.revoked == "")
    if active_at is not None:
        query = query.where((table.c.expires == "") | (table.c.expires > time_text(active_at)))
    return [
        TokenRecord(
            row.id,
            row.name,
            row.digest,
            tuple(json.loads(row.roles)),
            tuple(json.loads(row.models)),
            datetime.fromisoformat(row.created),
            _time(row.expires),
            _time(row.revoked),
            row.actor,
        )
        for row in connection.execute(query)
    ]


def described(token: TokenRecord) -> dict[str, Any]:
    """Returns what the log tells of a token that was created; of its digest another digest."""
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
