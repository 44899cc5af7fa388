"""`turnout tag`."""

from typing import TYPE_CHECKING, Annotated

import typer

from turnout.cli.options import ChangeOptions, DiskTarget, NameArgument, argument, flag, option
from turnout.cli.output import CommandOutput, reporting

if TYPE_CHECKING:
    from semver import Version

    from turnout.cli.workspace import Workspace

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
    target: DiskTarget = DiskTarget(),
) -> None:
    """Point a tag to a version, remove it, or show its history. Running servers follow within a second.

    With --expect, the move is refused if the tag was moved meanwhile; the error names the version it points to now.
    """
    from turnout.cli.releases.answers_view import show_change
    from turnout.cli.workspace import Workspace, actor_or_login
    from turnout.registry.manifest.names import check_model_name, parse_version
    from turnout.releases.release import ReleaseStateWriter
    from turnout.rollout.changes.operations import Operations

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
        who = actor_or_login(change.actor)
        workspace = Workspace.open(target)
        workspace.require_repository()
        if history:
            _show_history(out, workspace, name, tag)
            return
        with workspace.store() as store:
            release_writer, operations = (
                ReleaseStateWriter(workspace.repository, store),
                Operations(workspace.repository, store),
            )
            if exact is None:
                before: Version | None = release_writer.delete_tag(
                    name, tag, actor=who, reason=change.reason, expect=expected
                )
                sentence = f"{name}@{tag} is removed; it was {before}"
            else:
                before = release_writer.set_tag(name, tag, exact, actor=who, reason=change.reason, expect=expected)
                was = "" if before is None else "; unchanged" if before == exact else f"; it was {before}"
                sentence = f"{name}@{tag} is {exact}{was}"
            answers = operations.answers(name)
        body = {"model": name, "tag": tag, "version": _text(exact), "previous_version": _text(before)}
        show_change(out, body, answers, sentence)


def _show_history(out: CommandOutput, workspace: "Workspace", name: str, tag: str) -> None:
    from turnout.cli.releases.event_view import events_table
    from turnout.cli.releases.log import event_json

    events = []
    if workspace.has_store():
        with workspace.store() as store:
            events = store.tag_history(name, tag)
    body = {"model": name, "tag": tag, "events": [event_json(event) for event in events]}
    out.show(body, events_table(events) if events else f"{name} never had a tag {tag}")


def _text(version: "Version | None") -> str | None:
    return None if version is None else str(version)
