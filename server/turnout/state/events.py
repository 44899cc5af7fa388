"""The log of changes: who declared what, when, and why."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import rfc8785
from sqlalchemy import Connection, Row, insert, select

from turnout.state import schema


class EventKind(StrEnum):
    """What happened."""

    RELEASED = "released"
    """A version became fit for general traffic. Payload: version."""
    WITHDRAWN = "withdrawn"
    """A released version became a candidate again: the rollout that released it took it back. Payload: version."""
    TAG_SET = "tag_set"
    """A tag came to name a version. Payload: tag, version, previous (null where the tag is new)."""
    TAG_DELETED = "tag_deleted"
    """A tag went. Payload: tag, previous."""
    POLICY_CHANGED = "policy_changed"
    """A model's policy came to another epoch. Payload: epoch, action, document (empty: no policy)."""
    ROLLOUT = "rollout"
    """A rollout moved, or somebody moved it. Payload: attempt, kind, text, actor."""


@dataclass(frozen=True, slots=True)
class Event:
    """One change.

    Attributes:
        id: The revision that the change made: 1, 2, 3 ... with no gap.
        time: When, in UTC, to the microsecond.
        model: The model it is about.
        kind: An `EventKind`, or one that a later release of Turnout writes.
        subject: The version or tag that changed, or the policy's epoch that came.
        actor: Who asked for it; empty where they did not say.
        reason: Why; empty where they did not say.
        payload: The change itself, as JSON values.
    """

    id: int
    time: datetime
    model: str
    kind: str
    subject: str
    actor: str
    reason: str
    payload: Mapping[str, Any] = field(default_factory=dict)


def time_text(time: datetime) -> str:
    """Returns `time`, which has a zone, as the state store keeps it: UTC, ISO 8601, microseconds, Z."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def append(connection: Connection, event: Event) -> None:
    """Writes `event`; its payload in the one form that RFC 8785 gives it, so that its characters can be signed."""
    connection.execute(
        insert(schema.events).values(
            id=event.id,
            time=time_text(event.time),
            model=event.model,
            kind=str(event.kind),
            subject=event.subject,
            actor=event.actor,
            reason=event.reason,
            payload=rfc8785.dumps(dict(event.payload)).decode(),
        )
    )


def latest(connection: Connection, model: str | None, limit: int, rollout: int | None = None) -> list[Event]:
    """Reads the last `limit` events, of one model or of all, or of one attempt of a model, newest first."""
    query = select(schema.events).order_by(schema.events.c.id.desc()).limit(limit)
    if model is not None:
        query = query.where(schema.events.c.model == model)
    if rollout is not None:
        query = query.where(schema.events.c.kind == str(EventKind.ROLLOUT))
        query = query.where(schema.events.c.subject.startswith(f"attempt {rollout}: ", autoescape=True))
    return [_event(row) for row in connection.execute(query)]


def _event(row: Row[Any]) -> Event:
    return Event(
        id=row.id,
        time=datetime.fromisoformat(row.time),
        model=row.model,
        kind=row.kind,
        subject=row.subject,
        actor=row.actor,
        reason=row.reason,
        payload=json.loads(row.payload),
    )
