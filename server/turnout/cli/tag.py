"""`turnout tag`."""

from typing import TYPE_CHECKING, Annotated

import typer

from turnout.cli.options import ActorOption, ConfigOption, JsonOption, ModelsOption, ReasonOption, StateOption
from turnout.cli.output import reporting

if TYPE_CHECKING:
    from semver import Version


def tag(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model.")],
    tag: Annotated[str, typer.Argument(metavar="TAG", help="For example stable.")],
    version: Annotated[
        str | None, typer.Argument(metavar="VERSION", help="For example 3.2.0; not with --delete.")
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", metavar="", help="Remove the tag.")] = False,
    actor: ActorOption = None,
    reason: ReasonOption = "",
    models: ModelsOption = None,
    state: StateOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a tag name a version, or remove it. Running servers follow within a second."""
    from turnout.cli.workspace import Workspace, actor_or_login
    from turnout.registry.names import check_model_name, parse_version
    from turnout.routing.declarations import Declarer

    if delete and version is not None:
        raise typer.BadParameter("--delete takes no VERSION")
    if not delete and version is None:
        raise typer.BadParameter("VERSION is missing; to remove the tag, say --delete")
    with reporting(as_json=as_json) as out:
        check_model_name(name)
        exact = None if version is None else parse_version(version)
        who = actor_or_login(actor)
        workspace = Workspace.open(models, state, config)
        workspace.require_repository()
        with workspace.store() as store:
            declarer = Declarer(workspace.repository, store)
            if exact is None:
                before: Version | None = declarer.delete_tag(name, tag, actor=who, reason=reason)
                sentence = f"{name}@{tag} is gone; it was {before}"
            else:
                before = declarer.set_tag(name, tag, exact, actor=who, reason=reason)
                was = "" if before is None else "; it was before" if before == exact else f"; it was {before}"
                sentence = f"{name}@{tag} is {exact}{was}"
        body = {"model": name, "tag": tag, "version": _text(exact), "previous_version": _text(before)}
        out.show(body, sentence)


def _text(version: "Version | None") -> str | None:
    return None if version is None else str(version)
