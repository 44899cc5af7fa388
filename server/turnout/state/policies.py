"""The policies of models, with all their epochs: document, time, actor and reason.

A policy's document is opaque here. It is a JSON object; the empty object means that the model has no policy.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import rfc8785
from semver import Version
from sqlalchemy import Connection, Row, and_, func, insert, select

from turnout.errors import Conflict, InvalidRequest, NotFoundError
from turnout.state.change import StateChange, Transactions, check_limit, check_model, check_text, set_by
from turnout.state.database import schema
from turnout.state.event_log.events import EventKind, time_text
from turnout.state.release_status import ReleaseStatus

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
            "document", "expected JSON values: text that UTF-8 can hold, finite numbers, whole numbers below 2^53"
        ) from None
    if len(data) > DOCUMENT_SIZE:
        raise InvalidRequest.at("document", f"expected at most {DOCUMENT_SIZE} bytes of JSON, got {len(data)}")
    return kept


def text(document: Mapping[str, Any]) -> str:
    """Returns the text that is stored for a document from `as_kept`."""
    return rfc8785.dumps(dict(document)).decode()


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


def put(change: StateChange, epoch: int, action: str, kept: Mapping[str, Any]) -> PolicyRecord:
    """Writes the next epoch of a policy. `kept` must come from `as_kept`."""
    payload = {"epoch": epoch, "action": action, "document": kept}
    event = change.record(EventKind.POLICY_CHANGED, f"epoch {epoch}", payload)
    made = PolicyRecord(change.model, epoch, event.id, event.time, action, change.actor, change.reason, kept)
    row = asdict(made) | {"time": time_text(made.time), "document": text(kept)}
    change.connection.execute(insert(schema.policies).values(row))
    return made


class PolicyStore(Transactions):
    """The policies of models, by epoch."""

    def policies(self) -> dict[str, PolicyRecord]:
        """Returns the policy in force of each model that ever had one. Its document is empty if it has none now."""
        table = schema.policies
        # Grouped by the primary key's index alone, so that documents of past epochs are not read.
        last = select(table.c.model, func.max(table.c.epoch).label("epoch")).group_by(table.c.model).subquery()
        query = select(table).join(last, and_(table.c.model == last.c.model, table.c.epoch == last.c.epoch))
        with self._database.reading() as connection:
            return {row.model: _record(row) for row in connection.execute(query)}

    def policy_history(self, model: str, limit: int = 100) -> list[PolicyRecord]:
        """Returns the last epochs of a model's policy, newest first; none if it never had a policy.

        Raises:
            InvalidRequest: `limit` is below 1, or `model` is not a valid name.
        """
        check_model(model)
        check_limit(limit)
        with self._database.reading() as connection:
            return latest(connection, model, limit)

    def policy_at(self, model: str, epoch: int) -> PolicyRecord:
        """Returns one epoch of a model's policy.

        Raises:
            NotFoundError: The epoch does not exist; the message says which do.
            InvalidRequest: `model` is not a valid name.
        """
        check_model(model)
        query = select(schema.policies).where(schema.policies.c.model == model, schema.policies.c.epoch == epoch)
        with self._database.reading() as connection:
            last = last_epoch(connection, model)
            if 1 <= epoch <= last:
                row = connection.execute(query).one_or_none()
                if row is None:
                    raise NotFoundError(f"epoch {epoch} of the policy of {model} was removed by the retention")
                return _record(row)
        if last == 0:
            raise NotFoundError(f"{model} has never had a policy")
        were = "epoch 1 only" if last == 1 else f"epochs 1 to {last}"
        raise NotFoundError(f"there is no epoch {epoch}: the policy of {model} has had {were}")

    def put_policy(
        self,
        model: str,
        document: Mapping[str, Any],
        *,
        expected_epoch: int,
        action: str,
        actor: str,
        reason: str,
        needs: Iterable[Version] = (),
        statuses: Mapping[Version, ReleaseStatus] | None = None,
        rollout: tuple[int, int] | None = None,
    ) -> PolicyRecord:
        """Puts the next epoch of a model's policy into force, if the current epoch is the expected one.

        Args:
            model: Name of the model.
            document: The policy as a JSON object of at most 256 KiB in canonical form; empty to have none from now on.
                The caller must make sure that it is valid.
            expected_epoch: Epoch that the new one follows; 0 if there is none.
            action: One word for what is done, of 1 to 32 bytes.
            actor: Who makes the change, at most 256 bytes.
            reason: Why, at most 1,024 bytes.
            needs: Versions that must not be yanked at the moment of the change.
            statuses: Versions to release, or to make candidates again, with the change.
            rollout: Attempt and number of the rollout that makes the change. It must not have ended, or have been
                written since.

        Returns:
            The record now in force, with its document as it will be read from the store.

        Raises:
            Conflict: Another epoch is in force; the message says which, who set it, and why. Or the rollout has ended
                or was written since.
            InvalidRequest: The document is too large, too deep, or not valid as JSON; another argument is too long; or
                a version that it needs is yanked.
        """
        check_text("action", action, schema.ACTION_LENGTH, least=1)
        kept = as_kept(document)
        with self._change(model, actor, reason) as change:
            _refuse_other_epoch(change, expected_epoch)
            if rollout is not None:
                change.refuse_moved_rollout(*rollout)
            for version in needs:
                change.refuse_yanked(version)
            record = put(change, expected_epoch + 1, action, kept)
            change.set_statuses(statuses or {})
        return record


def _refuse_other_epoch(change: StateChange, expected: int) -> None:
    """Raises Conflict if the policy's current epoch is not `expected`, on which the change was based."""
    last = next(iter(latest(change.connection, change.model, limit=1)), None)
    if last is None and expected != 0:
        raise Conflict(f"{change.model} has never had a policy, so none of epoch {expected} is in force; look again")
    if last is not None and last.epoch != expected:
        by_now = " by now" if last.epoch > expected else ""
        is_at = f"the policy of {change.model} is at epoch {last.epoch}{by_now}, not {expected}"
        raise Conflict(f"{is_at} ({set_by(last.actor, last.reason)}); look again")


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
    read = {"time": datetime.fromisoformat(row.time), "document": json.loads(row.document)}
    return PolicyRecord(**row._asdict() | read)
