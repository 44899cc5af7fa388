"""`turnout tag`."""

from typing import TYPE_CHECKING, Annotated

import typer

from turnout.cli.options import ChangeOptions, NameArgument, TargetOptions, argument, flag, option
from turnout.cli.output import CommandOutput, reporting

if TYPE_CHECKING:
    from semver import Version

    from turnout.routing.default_answers import RoutingTable

_NONE = "none"


def tag(
    name: NameArgument,
    tag: Annotated[str, argument("TAG", "For example stable.")],
    version: Annotated[str | None, argument("VERSION", "For example 3.2.0; not with --delete or --history.")] = None,
    expect: Annotated[
        str | None, option("--expect", "OLD", "Only if the tag now names OLD; `none`: only if the tag does not exist.")
    ] = None,
    delete: Annotated[bool, flag("--delete", "Remove the tag.")] = False,
    history: Annotated[bool, flag("--history", "Show which versions the tag has named.")] = False,
    change: ChangeOptions = ChangeOptions(),
    target: TargetOptions = TargetOptions(),
) -> None:
    """Point a tag to a version, remove it, or show its history. Running servers follow within a second.

    With --expect, the move is refused if the tag was moved meanwhile; the error names the version it points to now.
    """
    from turnout.cli.releases.answers_view import show_change
    from turnout.cli.workspace import actor_or_login
    from turnout.registry.manifest.names import check_model_name, parse_version

    if (delete or history) and version is not None:
        raise typer.BadParameter(f"{'--delete' if delete else '--history'} takes no VERSION")
    if delete and history:
        raise typer.BadParameter("--delete and --history cannot be combined")
    if not (delete or history) and version is None:
        raise typer.BadParameter("VERSION is missing; to remove the tag, use --delete")
    with reporting(as_json=target.as_json) as out:
        check_model_name(name)
        exact = None if version is None else parse_version(version)
        expected = None if expect is None else "" if expect == _NONE else str(parse_version(expect))
        if history:
            _show_history(out, target, name, tag)
            return
        move = _moved_here if target.server is None else _moved_there
        before, answers = move(target, name, tag, exact, expected, actor_or_login(change.actor), change.reason)
        if exact is None:
            sentence = f"{name}@{tag} is removed; it was {before}"
        else:
            was = "" if before is None else "; unchanged" if before == str(exact) else f"; it was {before}"
            sentence = f"{name}@{tag} is {exact}{was}"
        now = None if exact is None else str(exact)
        show_change(out, {"model": name, "tag": tag, "version": now, "previous_version": before}, answers, sentence)


def _moved_here(
    target: TargetOptions, name: str, tag: str, exact: "Version | None", expected: str | None, actor: str, reason: str
) -> "tuple[str | None, RoutingTable]":
    """Moves or, without a version, removes a tag. Returns the version it named before, and which versions answer."""
    from turnout.cli.workspace import Workspace

    with Workspace.open(target).changes() as (release_writer, operations):
        if exact is None:
            before: Version | None = release_writer.delete_tag(name, tag, actor=actor, reason=reason, expect=expected)
        else:
            before = release_writer.set_tag(name, tag, exact, actor=actor, reason=reason, expect=expected)
        return None if before is None else str(before), operations.answers(name)


def _moved_there(
    target: TargetOptions, name: str, tag: str, exact: "Version | None", expected: str | None, actor: str, reason: str
) -> "tuple[str | None, RoutingTable]":
    """Does the same as `_moved_here` through a server."""
    from turnout.cli.connection import CHANGE_SECONDS, Server
    from turnout.cli.releases.answers_view import read_answers
    from turnout_proto.v1 import control_pb2 as pb

    done: pb.SetTagResponse | pb.DeleteTagResponse
    with Server.named(target).control() as control:
        if exact is None:
            removal = pb.DeleteTagRequest(model=name, tag=tag, actor=actor, reason=reason, expected_version=expected)
            done = control.DeleteTag(removal, timeout=CHANGE_SECONDS)
        else:
            move = pb.SetTagRequest(
                model=name, tag=tag, version=str(exact), actor=actor, reason=reason, expected_version=expected
            )
            done = control.SetTag(move, timeout=CHANGE_SECONDS)
    return done.previous_version or None, read_answers(done.answers)


def _show_history(out: CommandOutput, target: TargetOptions, name: str, tag: str) -> None:
    from turnout.cli.releases.event_view import event_json, events_table
    from turnout.cli.releases.log import read_log

    _, events = read_log(target, name, tag=tag)
    body = {"model": name, "tag": tag, "events": [event_json(event) for event in events]}
    out.show(body, events_table(events) if events else f"{name} never had a tag {tag}")
