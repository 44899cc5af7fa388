"""The `turnout` command. Each command does its imports inside its function: imports slow the start of all commands."""

import inspect
from collections.abc import Callable, Iterator
from typing import Annotated

import typer
from typer.models import CommandInfo

from turnout.cli.auth.permissions import application as auth
from turnout.cli.auth.token import application as token
from turnout.cli.examples import epilog
from turnout.cli.help_text import prepared
from turnout.cli.options import expanded, flag
from turnout.cli.publish.command import publish
from turnout.cli.publish.imports import application as imports
from turnout.cli.publish.key import application as key
from turnout.cli.publish.sign import sign
from turnout.cli.registry.diff import diff
from turnout.cli.registry.export import export
from turnout.cli.registry.fetch import fetch
from turnout.cli.registry.prune import prune
from turnout.cli.registry.show import models, show
from turnout.cli.registry.verify import verify
from turnout.cli.releases.log import log
from turnout.cli.releases.release import release, rollback, withdraw
from turnout.cli.releases.tag import tag
from turnout.cli.releases.yank import unyank, yank
from turnout.cli.rollout.commands import application as rollout
from turnout.cli.serve.command import serve
from turnout.cli.serve.doctor import doctor
from turnout.cli.serve.load import load, unload
from turnout.cli.serve.predict import predict
from turnout.cli.serve.servers import servers
from turnout.cli.state import application as state
from turnout.cli.top.command import top
from turnout.cli.traffic.commands import application as traffic
from turnout.cli.traffic.commands import shadow
from turnout.cli.tune.tune import tune

_REPOSITORY = "The repository, with or without a server"
_SERVER = "A running server"
_HERE = "This machine"


def application(wanted: str = "") -> typer.Typer:
    """Returns the command line.

    Args:
        wanted: Name of a command or group. If it exists, all others are left out: reading the options of all fifty
            commands takes 0.1 s, which a process that runs one command can save.
    """
    app = typer.Typer(
        name="turnout",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_turnout)
    commands: dict[str, tuple[Callable[..., None], ...]] = {
        _HERE: (serve, doctor, tune),
        _REPOSITORY: (
            publish,
            sign,
            release,
            withdraw,
            tag,
            yank,
            unyank,
            prune,
            models,
            show,
            diff,
            log,
            verify,
            export,
        ),
        _SERVER: (top, servers, predict, fetch, load, unload, shadow, rollback),
    }
    for panel, members in commands.items():
        for command in members:
            app.command(rich_help_panel=panel)(command)
    app.add_typer(key, name="key", rich_help_panel=_HERE)
    app.add_typer(auth, name="auth", rich_help_panel=_HERE)
    app.add_typer(token, name="token", rich_help_panel=_REPOSITORY)
    app.add_typer(imports, name="import", rich_help_panel=_REPOSITORY)
    app.add_typer(state, name="state", rich_help_panel=_REPOSITORY)
    app.add_typer(traffic, name="traffic", rich_help_panel=_SERVER)
    app.add_typer(rollout, name="rollout", rich_help_panel=_SERVER)
    only = [one for one in app.registered_commands if _name(one) == wanted]
    groups = [one for one in app.registered_groups if one.name == wanted]
    if only or groups:
        app.registered_commands, app.registered_groups = only, groups
    for path, one in _commands_of(app):
        assert one.callback is not None
        one.help = prepared(inspect.getdoc(one.callback) or "")
        one.callback, one.epilog = expanded(one.callback), epilog(path)
    return app


def _commands_of(app: typer.Typer, path: str = "") -> Iterator[tuple[str, CommandInfo]]:
    """Yields every command of `app` and of its groups, with its name without `turnout`."""
    for command in app.registered_commands:
        command.name = _name(command)
        yield f"{path}{command.name}", command
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from _commands_of(group.typer_instance, f"{path}{group.name} ")


def _name(command: CommandInfo) -> str:
    return command.name or getattr(command.callback, "__name__", "").replace("_", "-")


def _print_version(value: bool) -> None:
    if value:
        from turnout import __version__

        typer.echo(f"turnout {__version__}")
        raise typer.Exit


def _turnout(
    version: Annotated[bool, flag("--version", "Print and exit.", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Serve many versions of ONNX models at once, and switch between them without stopping."""
