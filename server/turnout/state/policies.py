"""The policies of models, with all their epochs: document, time, actor and reason.

A policy's document is opaque here. It is a JSON object; the empty object means that the model has no policy.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import rfc8785
from sqlalchemy import Connection, Row, and_, func, insert, select

from turnout.errors import InvalidRequest
from turnout.state.database import schema
from turnout.state.event_log.events import time_text

DOCUMENT_SIZE = 256 << 10
"""Maximum size of a document in canonical form, in bytes."""
DOCUMENT_DEPTH = 32
"""Maximum nesting depth of a document. Python's JSON parser fails near 1,000 levels, or earlier if its caller is deeply
nested itself, and a row that cannot be parsed could never be removed."""


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """One epoch of a model's policy.

    Attributes:
        epoch: Number of the epoch, 1, 2, 3 ... for each model. The highest is in force; the retention removes old ones.
        revision: Revision of the change that made it.
        time: When it was made, in UTC, to the microsecond.
        action: One word for what was done, from the caller.
        actor: Who made the change; "" if not given.
        reason: Why; "" if not given.
        document: The policy as JSON values; empty if the model has no policy from this epoch on.
    """

    model: str
    epoch: int
    revision: int
    time: datetime
    action: str
    actor: str
    reason: str
    document: Mapping[str, Any]


def as_kept(document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `document` as it reads after being stored: a number like 2.0 becomes 2, and a tuple a list.

    Raises:
        InvalidRequest: It is larger than `DOCUMENT_SIZE`, deeper than `DOCUMENT_DEPTH`, or not valid as JSON.
    """
    level: list[Any] = [dict(document)]
    for _ in range(DOCUMENT_DEPTH):
        level = [child for value in level for child in _children(value)]
    if level:
        raise InvalidRequest.at("document", f"expected at most {DOCUMENT_DEPTH} levels, got more")
    try:
        data = rfc8785.dumps(dict(document))
        kept: dict[str, Any] = json.loads(data, parse_int=_whole)
    except ValueError:
        raise InvalidRequest.at(
            "document",
            "expected JSON values: text that UTF-8 can hold, finite numbers, whole numbers below 2^53",
        ) from None
    if len(data) > DOCUMENT_SIZE:
        raise InvalidRequest.at("document", f"expected at most {DOCUMENT_SIZE} bytes of JSON, got {len(data)}")
    return kept


def append(connection: Connection, record: PolicyRecord) -> None:
    """Writes `record`, which must be its model's next epoch, with a document from `as_kept`."""
    connection.execute(
        insert(schema.policies).values(
            model=record.model,
            epoch=record.epoch,
            revision=record.revision,
            time=time_text(record.time),
            action=record.action,
            actor=record.actor,
            reason=record.reason,
            document=text(record.document),
        )
    )


def text(document: Mapping[str, Any]) -> str:
    """Returns the text that is stored for a document from `as_kept`."""
    return rfc8785.dumps(dict(document)).decode()


def in_force(connection: Connection) -> list[PolicyRecord]:
    """Returns the latest epoch of every model that ever had a policy."""
    # Grouped by the primary key's index alone, so that documents of past epochs are not read.
    last = (
        select(schema.policies.c.model, func.max(schema.policies.c.epoch).label("epoch"))
        .group_by(schema.policies.c.model)
        .subquery()
    )
    same = and_(schema.policies.c.model == last.c.model, schema.policies.c.epoch == last.c.epoch)
    return [_record(row) for row in connection.execute(select(schema.policies).join(last, same))]


def latest(connection: Connection, model: str, limit: int) -> list[PolicyRecord]:
    """Returns the last `limit` epochs of a model, newest first."""
    query = (
        select(schema.policies)
        .where(schema.policies.c.model == model)
        .order_by(schema.policies.c.epoch.desc())
        .limit(limit)
    )
    return [_record(row) for row in connection.execute(query)]


def last_epoch(connection: Connection, model: str) -> int:
    """Returns the number of a model's latest epoch; 0 if there is none."""
    query = select(func.max(schema.policies.c.epoch)).where(schema.policies.c.model == model)
    return int(connection.execute(query).scalar_one() or 0)


def at(connection: Connection, model: str, epoch: int) -> PolicyRecord | None:
    """Returns one epoch of a model; None if it never existed or was removed."""
    query = select(schema.policies).where(schema.policies.c.model == model, schema.policies.c.epoch == epoch)
    row = connection.execute(query).one_or_none()
    return None if row is None else _record(row)


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []


def _whole(digits: str) -> int:
    # 1e20 is written as a whole number, which could be read but not written again.
    number = int(digits)
    if abs(number) >= 1 << 53:
        raise ValueError("more digits than a double holds")
    return number


def _record(row: Row[Any]) -> PolicyRecord:
    return PolicyRecord(
        model=row.model,
        epoch=row.epoch,
        revision=row.revision,
        time=datetime.fromisoformat(row.time),
        action=row.action,
        actor=row.actor,
        reason=row.reason,
        document=json.loads(row.document),
    )
