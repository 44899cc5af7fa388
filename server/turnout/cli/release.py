"""`turnout release`."""

from typing import Annotated

import typer

from turnout.cli.options import ActorOption, ConfigOption, JsonOption, ModelsOption, ReasonOption, StateOption
from turnout.cli.output import reporting


def release(
    version: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="For example magika@3.2.0.")],
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="HOST:PORT",
            help="Through the server with this control listener. (default: in the state store)",
            show_default=False,
        ),
    ] = None,
    actor: ActorOption = None,
    reason: ReasonOption = "",
    models: ModelsOption = None,
    state: StateOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Declare a version fit for general traffic: ranges and the empty selector may answer with it.

    Running servers follow within a second.
    """
    from turnout.cli.workspace import Workspace, actor_or_login, exact_reference
    from turnout.routing.declarations import Declarer

    with reporting(as_json=as_json) as out:
        name, exact = exact_reference(version)
        who = actor_or_login(actor)
        if server is not None:
            from turnout.cli.connection import Server

            changed = Server.named(server, config).release(name, str(exact), who, reason)
        else:
            workspace = Workspace.open(models, state, config)
            workspace.require_repository()
            with workspace.store() as store:
                changed = Declarer(workspace.repository, store).release(name, exact, actor=who, reason=reason)
        said = "is released" if changed else "was released before; nothing changed"
        out.show({"model": name, "version": str(exact), "changed": changed}, f"{name} {exact} {said}")
