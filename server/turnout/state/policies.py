"""The policies of models, every epoch of them: what was in force, since when, by whom, and why.

A policy's document is opaque here: a JSON object, of which the empty one means that the model has no policy.
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
"""Most bytes of a document in canonical form."""
DOCUMENT_DEPTH = 32
"""Most levels of a document. Python's reader of JSON gives up near 1,000, and sooner the deeper its caller stands; and
a row that nobody can read could never be removed."""


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """A policy of a model, and how it came to be.

    Attributes:
        epoch: 1, 2, 3 ... for each model; the highest is in force, and the retention removes old ones.
        revision: That of the change that made it.
        time: When, in UTC, to the microsecond.
        action: What was done, in the word of whoever did it.
        actor: Who asked for it; empty if they did not say.
        reason: Why; empty if they did not say.
        document: The policy itself, as JSON values; empty if from then on there was none.
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
    """Returns `document` as it is read again after it was kept: a number like 2.0 comes back as 2, a tuple as a list.

    Raises:
        InvalidRequest: It is larger than `DOCUMENT_SIZE` or deeper than `DOCUMENT_DEPTH`, or JSON cannot hold it.
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
    """Writes `record`, whose epoch is the next one of its model, and whose document is as `as_kept` returns it."""
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
    """Returns a document, which is as `as_kept` returns it, as the characters that are kept."""
    return rfc8785.dumps(dict(document)).decode()


def in_force(connection: Connection) -> list[PolicyRecord]:
    """Reads the latest epoch of every model that ever had a policy."""
    # Grouped by the primary key's index alone, so that no document of an epoch gone by is read.
    last = (
        select(schema.policies.c.model, func.max(schema.policies.c.epoch).label("epoch"))
        .group_by(schema.policies.c.model)
        .subquery()
    )
    same = and_(schema.policies.c.model == last.c.model, schema.policies.c.epoch == last.c.epoch)
    return [_record(row) for row in connection.execute(select(schema.policies).join(last, same))]


def latest(connection: Connection, model: str, limit: int) -> list[PolicyRecord]:
    """Reads the last `limit` epochs of a model, newest first."""
    query = (
        select(schema.policies)
        .where(schema.policies.c.model == model)
        .order_by(schema.policies.c.epoch.desc())
        .limit(limit)
    )
    return [_record(row) for row in connection.execute(query)]


def last_epoch(connection: Connection, model: str) -> int:
    """Reads the number of a model's latest epoch, 0 if there is none."""
    query = select(func.max(schema.policies.c.epoch)).where(schema.policies.c.model == model)
    return int(connection.execute(query).scalar_one() or 0)


def at(connection: Connection, model: str, epoch: int) -> PolicyRecord | None:
    """Reads one epoch of a model; None if it never was, or was removed."""
    query = select(schema.policies).where(schema.policies.c.model == model, schema.policies.c.epoch == epoch)
    row = connection.execute(query).one_or_none()
    return None if row is None else _record(row)


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []


def _whole(digits: str) -> int:
    # 1e20 is written as a whole number, which is then read as one that could not be written again.
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
