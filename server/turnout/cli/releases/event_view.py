"""Shows events of the log as tables and JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.table import Table

from turnout.cli.output import table
from turnout.cli.traffic.policy_text import policy_text
from turnout.routing.policy import UNITS, readable
from turnout.text.quantities import size_text

if TYPE_CHECKING:  # imports SQLAlchemy, which is not needed to ask a server
    from turnout.state.event_log.events import Event
    from turnout_proto.v1 import control_pb2 as pb

WHEN = "WHEN (UTC)"


def read_event(message: "pb.Event") -> "Event":
    """Converts a server's message to an event."""
    from turnout.state.event_log.events import Event

    return Event(
        id=message.id,
        time=message.time.ToDatetime(UTC),
        model=message.model,
        kind=message.kind,
        subject=message.subject,
        actor=message.actor,
        reason=message.reason,
        payload=json.loads(message.payload_json),
        previous=message.previous,
        hash=message.hash,
    )


def event_json(event: "Event") -> dict[str, Any]:
    """Returns an event as JSON values."""
    return asdict(event) | {"time": event.time.isoformat()}


def events_table(events: "Sequence[Event]") -> Table:
    """Returns a table with a row for each event of one model."""
    rows = [(_when(e.time), what_changed(e), e.actor, e.reason) for e in events]
    return table((WHEN, "CHANGE", "BY", "WHY"), rows, whole=(WHEN,))


def log_table(events: "Sequence[Event]") -> Table:
    """Returns a table with a row for each event of the log."""
    rows = [(str(e.id), _when(e.time), e.model, what_changed(e), e.actor, e.reason) for e in events]
    return table(("EVENT", WHEN, "MODEL", "CHANGE", "BY", "WHY"), rows, right=("EVENT",), whole=(WHEN,))


def _when(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def what_changed(event: "Event") -> str:
    """Returns a description of the change, such as `tag stable is 1.0.0`."""
    payload = event.payload
    match event.kind:
        case "published":
            how = ", found" if payload.get("found") else ""
            anew = f", in place of {payload['replaced'][:19]}..." if payload.get("replaced") else ""
            return f"{payload['version']} published{how}{anew}, {payload['digest'][:19]}..."
        case "signed":
            return f"{payload['version']} signed by {payload['key']}"
        case "yanked":
            return f"{payload['version']} yanked, it was {was_text(payload['previous'])}"
        case "unyanked" | "withdrawn":
            return f"{payload['version']} is a candidate again"
        case "released":
            return f"{payload['version']} released"
        case "pruned":
            return f"{payload['version']} pruned, {size_text(payload['bytes'])}"
        case "removed":
            return f"{len(payload['ids']):,} events from before {payload['before'][:10]} removed by the retention"
        case "tag_set":
            before = f", it was {payload['previous']}" if payload.get("previous") else ""
            return f"tag {payload['tag']} is {payload['version']}{before}"
        case "tag_deleted":
            return f"tag {payload['tag']} removed, it was {payload['previous']}"
        case "policy_changed":
            return f"traffic epoch {payload['epoch']}, {payload['action']}: {_policy(payload['document'])}"
        case "rollout":
            return f"rollout {event.subject.replace('_', ' ')}"
        case "token_created":
            roles, models = ", ".join(payload["roles"]), ", ".join(payload["models"])
            return f"token {payload['name']} created ({payload['id']}): {roles} on {models}"
        case "token_revoked":
            return f"token {payload['name']} revoked ({payload['id']})"
        case _:  # written by a later release of Turnout
            return f"{event.kind} {event.subject}"


def was_text(release_status: str) -> str:
    """Returns a former release status as it follows `it was`."""
    return "a candidate" if release_status == "candidate" else release_status


def _policy(document: Mapping[str, Any]) -> str:
    state = readable(document) if document else None
    if document and state is None:
        return "a policy that this release of Turnout cannot read"
    if state is None or state.policy is None:
        return "no policy"
    policy = state.policy
    canaries = [(str(one.version), one.weight / UNITS) for one in policy.canaries]
    shadows = [(str(one.version), one.rate / UNITS) for one in policy.shadows]
    text = policy_text(str(policy.baseline), canaries, shadows, policy.twin / UNITS)
    return f"{text}; frozen" if state.frozen else text
