"""`turnout log`."""

from typing import TYPE_CHECKING, Annotated

from turnout.cli.options import TargetOptions, argument, flag, option
from turnout.cli.output import reporting
from turnout.registry.manifest.names import check_model_name

if TYPE_CHECKING:
    from turnout.state.event_log.chain import Head
    from turnout.state.event_log.events import Event


def log(
    name: Annotated[str | None, argument("NAME", "One model. (default: all)")] = None,
    limit: Annotated[
        int, option("--limit", "N", "Number of events to show, with --server up to 1,000.", min=1, max=100_000)
    ] = 50,
    head: Annotated[bool, flag("--head", "Print only the last event's number and hash, to keep elsewhere.")] = False,
    target: TargetOptions = TargetOptions(),
) -> None:
    """Show who changed what, when and why, newest first.

    Each event contains the hash of the previous one, so that `turnout verify` detects changes to the log. Keep the
    output of --head in a place that cannot be changed by those who can write to the store, and pass it to
    `turnout verify --head`: this also detects a log whose end was cut off.
    """
    from turnout.cli.releases.event_view import event_json, log_table

    with reporting(as_json=target.as_json) as out:
        if name is not None:
            check_model_name(name)
        last, events = read_log(target, name, 1 if head else limit)
        place = {"revision": last.revision, "hash": last.hash}
        if head:
            out.show(place, str(last))
            return
        body = {"head": place, "events": [event_json(one) for one in events]}
        out.show(body, log_table(events) if events else f"{name} has no events" if name else "no events yet")


def read_log(target: TargetOptions, name: str | None, limit: int = 100, *, tag: str = "") -> "tuple[Head, list[Event]]":
    """Returns the last event's number and hash, and the last events, newest first, from the store or a server. With
    `tag`, these are the changes of this tag only.
    """
    from turnout.state.event_log.chain import Head

    if target.server is not None:
        from turnout.cli.connection import Server
        from turnout.cli.releases.event_view import read_event
        from turnout_proto.v1 import control_pb2 as pb

        request = pb.ListEventsRequest(model=name or "", limit=limit, tag=tag)
        with Server.named(target).control() as control:
            response = control.ListEvents(request, timeout=30.0)
        return Head(response.revision, response.hash), [read_event(one) for one in response.events]
    from turnout.cli.workspace import Workspace

    workspace = Workspace.open(target)
    if not workspace.has_store():
        workspace.require_repository()  # otherwise it looks as if nothing has ever happened
        return Head(), []
    with workspace.store() as store:
        events = store.tag_history(name, tag) if name and tag else store.events(name, limit)
        return store.head(), events
