"""The log of changes: what was changed, when, by whom, and why."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import rfc8785
from sqlalchemy import Connection, Row, insert, select

from turnout.state.database import schema
from turnout.state.event_log import chain


class EventKind(StrEnum):
    """The kind of a change."""

    PUBLISHED = "published"
    """A version was published. Payload: version, digest; found (true), if it was not recorded by its publisher;
    replaced (its previous digest), if the version was removed by hand and published anew."""
    RELEASED = "released"
    """A version became fit for general traffic. Payload: version."""
    YANKED = "yanked"
    """A version was withdrawn. Payload: version, previous (its release status before)."""
    UNYANKED = "unyanked"
    """A withdrawn version became a candidate again. Payload: version."""
    PRUNED = "pruned"
    """The files of a version, which is yanked, are to be removed. Payload: version, digest, bytes."""
    REMOVED = "removed"
    """The retention removed events of a model, and the policies that they describe. Payload: ids (their numbers),
    before (the time that they were older than), digest (`turnout.state.event_log.chain.removed_digest`)."""
    SIGNED = "signed"
    """A version's digest was signed. Payload: version, digest, key (its id)."""
    WITHDRAWN = "withdrawn"
    """A released version became a candidate again, by a rollback or by hand. Payload: version."""
    TAG_SET = "tag_set"
    """A tag was set to a version. Payload: tag, version, previous (null if the tag is new)."""
    TAG_DELETED = "tag_deleted"
    """A tag was deleted. Payload: tag, previous."""
    POLICY_CHANGED = "policy_changed"
    """A new epoch of a model's policy began. Payload: epoch, action, document (empty: no policy)."""
    ROLLOUT = "rollout"
    """A rollout changed, by itself or by a command. Payload: attempt, kind, text, actor."""
    TOKEN_CREATED = "token_created"  # noqa: S105 - no token
    """A bearer token was created; it concerns no model. Payload: id, name, roles, models, expires, fingerprint."""
    TOKEN_REVOKED = "token_revoked"  # noqa: S105
    """A bearer token was revoked. Payload: id, name."""


@dataclass(frozen=True, slots=True)
class Event:
    """One change.

    Attributes:
        id: The revision that the change made: 1, 2, 3 ... without gaps.
        time: When it was made, in UTC, to the microsecond.
        model: The model that it concerns; "" for none.
        kind: An `EventKind`, or a kind that a later release of Turnout writes.
        subject: The version, tag or token that changed, the new epoch of the policy, or the attempt of the rollout.
        actor: Who made the change; "" if not given.
        reason: Why; "" if not given.
        payload: The change itself, as JSON values.
        previous: Hash of the event before; see `turnout.state.event_log.chain`.
        hash: Hash of the event itself.
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
    """Formats `time`, which must have a time zone, as the state store keeps it: UTC, ISO 8601, microseconds, Z."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def append(connection: Connection, event: Event) -> Event:
    """Appends `event` to the chain, and returns it with its hashes.

    The caller must hold the lock on the revision, so that no other event is appended meanwhile. The payload is stored
    in the canonical form of RFC 8785.
    """
    previous = chain.head(connection).hash
    payload = rfc8785.dumps(dict(event.payload)).decode()
    row = asdict(event) | {"time": time_text(event.time), "kind": str(event.kind), "payload": payload}
    linked = replace(event, previous=previous, hash=chain.event_hash(row, previous))
    connection.execute(insert(schema.events).values(row | {"previous": linked.previous, "hash": linked.hash}))
    return linked


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
    """Returns the last `limit` events, newest first, optionally only of a model, some kinds, a subject or an attempt.

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
    return Event(**row._asdict() | {"time": datetime.fromisoformat(row.time), "payload": json.loads(row.payload)})
