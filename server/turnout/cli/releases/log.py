"""`turnout log`."""

from typing import TYPE_CHECKING, Annotated, Any

from turnout.cli.options import DiskTarget, argument, flag, option
from turnout.cli.output import reporting

if TYPE_CHECKING:
    from turnout.state.event_log.events import Event


def log(
    name: Annotated[str | None, argument("NAME", "One model. (default: all)")] = None,
    limit: Annotated[int, option("--limit", "N", "Number of events to show.", min=1, max=100_000)] = 50,
    head: Annotated[bool, flag("--head", "Print only the last event's number and hash, to keep elsewhere.")] = False,
    target: DiskTarget = DiskTarget(),
) -> None:
    """Show who changed what, when and why, newest first.

    Each event contains the hash of the previous one, so that `turnout verify` detects changes to the log. Keep the
    output of --head in a place that cannot be changed by those who can write to the store, and pass it to
    `turnout verify --head`: this also detects a log whose end was cut off.
    """
    from turnout.cli.releases.event_view import log_table
    from turnout.cli.workspace import Workspace
    from turnout.registry.manifest.names import check_model_name
    from turnout.state.event_log.chain import Head

    with reporting(as_json=target.as_json) as out:
        if name is not None:
            check_model_name(name)
        workspace = Workspace.open(target)
        if not workspace.has_store():
            last, events = Head(), []
        else:
            with workspace.store() as store:
                last = store.head()
                events = [] if head else store.events(name, limit)
        if head:
            out.show({"revision": last.revision, "hash": last.hash}, str(last))
            return
        body = {"head": {"revision": last.revision, "hash": last.hash}, "events": [event_json(one) for one in events]}
        out.show(body, log_table(events) if events else "no events yet")


def event_json(event: "Event") -> dict[str, Any]:
    """Returns an event as JSON values."""
    return {
        "id": event.id,
        "time": event.time.isoformat(),
        "model": event.model,
        "kind": event.kind,
        "subject": event.subject,
        "actor": event.actor,
        "reason": event.reason,
        "payload": dict(event.payload),
        "previous": event.previous,
        "hash": event.hash,
    }
