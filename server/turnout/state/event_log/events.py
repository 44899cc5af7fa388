"""The log of changes: who declared what, when, and why."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import rfc8785
from sqlalchemy import Connection, Row, insert, select

from turnout.state.database import schema
from turnout.state.event_log import chain


class EventKind(StrEnum):
    """What happened."""

    PUBLISHED = "published"
    """A version came to exist. Payload: version, digest; found, true, if another than its publisher recorded it;
    replaced, the digest that it had before, if a version was removed by hand and published anew."""
    RELEASED = "released"
    """A version became fit for general traffic. Payload: version."""
    YANKED = "yanked"
    """A version was withdrawn. Payload: version, previous (its release status before)."""
    UNYANKED = "unyanked"
    """A withdrawn version became a candidate again. Payload: version."""
    PRUNED = "pruned"
    """The files of a version, which was yanked, were to be removed. Payload: version, digest, bytes."""
    REMOVED = "removed"
    """The retention removed events of a model, and the policies that they told of. Payload: ids (their numbers),
    before (the time that they were older than), digest (`turnout.state.event_log.chain.removed_digest`)."""
    SIGNED = "signed"
    """Somebody signed a version's digest. Payload: version, digest, key (its id)."""
    WITHDRAWN = "withdrawn"
    """A released version became a candidate again: it was rolled back, or somebody took its release back. Payload:
    version."""
    TAG_SET = "tag_set"
    """A tag came to name a version. Payload: tag, version, previous (null if the tag is new)."""
    TAG_DELETED = "tag_deleted"
    """A tag went. Payload: tag, previous."""
    POLICY_CHANGED = "policy_changed"
    """A model's policy came to another epoch. Payload: epoch, action, document (empty: no policy)."""
    ROLLOUT = "rollout"
    """A rollout moved, or somebody moved it. Payload: attempt, kind, text, actor."""
    TOKEN_CREATED = "token_created"  # noqa: S105 - no token
    """A bearer token came to exist; it belongs to no model. Payload: id, name, roles, models, expires, fingerprint."""
    TOKEN_REVOKED = "token_revoked"  # noqa: S105
    """A bearer token is worth nothing any more. Payload: id, name."""


@dataclass(frozen=True, slots=True)
class Event:
    """One change.

    Attributes:
        id: The revision that the change made: 1, 2, 3 ... with no gap.
        time: When, in UTC, to the microsecond.
        model: The model it is about; "" for none.
        kind: An `EventKind`, or one that a later release of Turnout writes.
        subject: The version or tag that changed, or the policy's epoch that came.
        actor: Who asked for it; empty if they did not say.
        reason: Why; empty if they did not say.
        payload: The change itself, as JSON values.
        previous: Hash of the event before; `turnout.state.event_log.chain`.
    """

    id: int
    time: datetime
    model: str
    kind: str
    subject: str
    actor: str
    reason: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    previous: str = field(default="", compare=False)
    hash: str = field(default="", compare=False)


def time_text(time: datetime) -> str:
    """Returns `time`, which has a zone, as the state store keeps it: UTC, ISO 8601, microseconds, Z."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def append(connection: Connection, event: Event) -> Event:
    """Writes `event` as the next of the chain, and returns it with its hashes.

    The caller holds the lock on the revision, so that nobody else appends. The payload is kept in the one form that RFC
    8785 gives it.
    """
    previous = chain.head(connection).hash
    row = {
        "id": event.id,
        "time": time_text(event.time),
        "model": event.model,
        "kind": str(event.kind),
        "subject": event.subject,
        "actor": event.actor,
        "reason": event.reason,
        "payload": rfc8785.dumps(dict(event.payload)).decode(),
    }
    digest = chain.event_hash(row, previous)
    connection.execute(insert(schema.events).values(**row, previous=previous, hash=digest))
    return replace(event, previous=previous, hash=digest)


def latest(
    connection: Connection,
    model: str | None,
    limit: int | None,
    kinds: Collection[EventKind] = (),
    subject: str | None = None,
    rollout: int | None = None,
    *,
    since: int = 0,
) -> list[Event]:
    """Reads the last `limit` events, newest first: of a model, of some kinds, about a subject or an attempt, or all.

    With `since`, only those with a higher number.
    """
    query = select(schema.events).order_by(schema.events.c.id.desc()).limit(limit)
    if since:
        query = query.where(schema.events.c.id > since)
    if model is not None:
        query = query.where(schema.events.c.model == model)
    if kinds:
        query = query.where(schema.events.c.kind.in_([str(kind) for kind in kinds]))
    if subject is not None:
        query = query.where(schema.events.c.subject == subject)
    if rollout is not None:
        query = query.where(schema.events.c.kind == str(EventKind.ROLLOUT))
        query = query.where(schema.events.c.subject.startswith(f"attempt {rollout}: ", autoescape=True))
    return [read(row) for row in connection.execute(query)]


def read(row: Row[Any]) -> Event:
    """Returns a row of the table as an event."""
    return Event(
        id=row.id,
        time=datetime.fromisoformat(row.time),
        model=row.model,
        kind=row.kind,
        subject=row.subject,
        actor=row.actor,
        reason=row.reason,
        payload=json.loads(row.payload),
        previous=row.previous,
        hash=row.hash,
    )
