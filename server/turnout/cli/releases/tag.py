"""`turnout tag`."""

from typing import Annotated

import typer

from turnout.cli.options import ChangeOptions, NameArgument, TargetOptions, argument, flag, option
from turnout.cli.output import CommandOutput, reporting
from turnout.cli.releases.log import read_log
from turnout.registry.manifest.names import check_model_name, parse_version

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
    from turnout.cli.releases.answers_view import read_answers, show_change
    from turnout.cli.workspace import Workspace, actor_or_login

    if (delete or history) and version is not None:
        raise typer.BadParameter(f"{'--delete' if delete else '--history'} takes no VERSION")
    if delete and history:
        raise typer.BadParameter("--delete and --history cannot be combined")
    if not (delete or history) and version is None:
        bare, _, after = name.partition("@")
        complete = f"turnout tag {bare} {tag} {after or 'VERSION'}"
        raise typer.BadParameter(f"VERSION is missing, as in `{complete}`; to remove the tag, use --delete")
    with reporting(as_json=target.as_json) as out:
        check_model_name(name)
        exact = None if version is None else parse_version(version)
        expected = None if expect is None else "" if expect == _NONE else str(parse_version(expect))
        if history:
            _show_history(out, target, name, tag)
            return
        who, why = actor_or_login(change.actor), change.reason
        if target.server is not None:
            from turnout.cli.connection import CHANGE_SECONDS, Server
            from turnout_proto.v1 import control_pb2 as pb

            done: pb.SetTagResponse | pb.DeleteTagResponse
            with Server.named(target).control() as control:
                if exact is None:
                    removal = pb.DeleteTagRequest(model=name, tag=tag, actor=who, reason=why, expected_version=expected)
                    done = control.DeleteTag(removal, timeout=CHANGE_SECONDS)
                else:
                    move = pb.SetTagRequest(
                        model=name, tag=tag, version=str(exact), actor=who, reason=why, expected_version=expected
                    )
                    done = control.SetTag(move, timeout=CHANGE_SECONDS)
            before, answers = done.previous_version, read_answers(done.answers)
        else:
            with Workspace.open(target).changes() as (release_writer, operations):
                if exact is None:
                    before = str(release_writer.delete_tag(name, tag, actor=who, reason=why, expect=expected))
                else:
                    set_tag = release_writer.set_tag
                    before = str(set_tag(name, tag, exact, actor=who, reason=why, expect=expected) or "")
                answers = operations.answers(name)
        if exact is None:
            sentence = f"{name}@{tag} is removed; it was {before}"
        else:
            was = "; unchanged" if before == str(exact) else f"; it was {before}" if before else ""
            sentence = f"{name}@{tag} is {exact}{was}"
        now = None if exact is None else str(exact)
        body = {"model": name, "tag": tag, "version": now, "previous_version": before or None}
        show_change(out, body, answers, sentence)


def _show_history(out: CommandOutput, target: TargetOptions, name: str, tag: str) -> None:
    from turnout.cli.releases.event_view import event_json, events_table

    _, events = read_log(target, name, tag=tag)
    body = {"model": name, "tag": tag, "events": [event_json(event) for event in events]}
    out.show(body, events_table(events) if events else f"{name} never had a tag {tag}")
