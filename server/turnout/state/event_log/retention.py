"""Removes old events about traffic and rollouts from the log, so that the rest can still be verified.

Of a removed event, its number and two hashes are kept (`removed_events`), which link the chain. The `removed` event
contains a hash of them, so that nothing can be removed without an event that records it. Events about what was
published, released, yanked, pruned, signed and tagged are kept for ever: they are small, and the server reads them.
"""

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import Connection, delete, func, insert, select

from turnout.state.database import schema
from turnout.state.event_log.events import EventKind, time_text

Link = tuple[int, str, str]
"""Number of an event, the hash of the event before it, and its own hash."""

KEPT_EPOCHS = 100
"""Number of latest policies of a model that are kept regardless of age, for reverts and rollbacks."""

_KEYS_AT_ONCE = 500


def removable(connection: Connection, model: str, before: datetime, most: int) -> list[int]:
    """Returns the numbers of a model's events that can be removed, oldest first.

    These are events about policies and ended rollouts that were written before a time. The last event of each rollout,
    which says how it ended, and the events of the last policies are kept.
    """
    events, rollouts, policies = schema.events.c, schema.rollouts.c, schema.policies.c
    highest = connection.execute(select(func.max(policies.epoch)).where(policies.model == model)).scalar_one() or 0
    old_policies = select(policies.revision).where(policies.model == model, policies.epoch <= highest - KEPT_EPOCHS)
    found = set(connection.execute(old_policies).scalars())
    ended = select(rollouts.attempt).where(rollouts.model == model, rollouts.final == 1)
    finals = {str(attempt) for attempt in connection.execute(ended).scalars()}
    recorded = select(events.id, events.subject).where(events.model == model, events.kind == str(EventKind.ROLLOUT))
    last: dict[str, int] = {}
    for number, subject in connection.execute(recorded.order_by(events.id).execution_options(yield_per=1000)):
        attempt = subject.removeprefix("attempt ").partition(":")[0]
        if attempt in finals:
            if attempt in last:
                found.add(last[attempt])
            last[attempt] = number
    if not found:
        return []
    # Numbers and times increase together unless a clock was set back. An event after one that is kept is kept too.
    newer = select(func.min(events.id)).where(events.model == model, events.time >= time_text(before))
    bound = connection.execute(newer).scalar_one()
    return sorted(number for number in found if bound is None or number < bound)[:most]


def remove(connection: Connection, numbers: Collection[int]) -> Sequence[Link]:
    """Removes the given events that still exist, and the policies that they describe; returns their links.

    The caller must hold the lock on the revision, and record the removal in the same transaction.
    """
    events, removed = schema.events, schema.removed_events
    wanted = sorted(numbers)
    links: list[Link] = []
    for first in range(0, len(wanted), _KEYS_AT_ONCE):
        part = wanted[first : first + _KEYS_AT_ONCE]
        query = select(events.c.id, events.c.previous, events.c.hash).where(events.c.id.in_(part)).order_by(events.c.id)
        found = [(row.id, row.previous, row.hash) for row in connection.execute(query)]
        if not found:
            continue
        rows = [{"id": number, "previous": previous, "hash": own} for number, previous, own in found]
        connection.execute(insert(removed), rows)
        here = [number for number, _, _ in found]
        connection.execute(delete(schema.policies).where(schema.policies.c.revision.in_(here)))
        connection.execute(delete(events).where(events.c.id.in_(here)))
        links += found
    return links
