"""The `turnout` command.

Imports slow the start of all commands, their help and the shell's completion. So commands do heavy imports inside their
functions, and the module of a group is only imported when one of its commands is looked up.
"""

import functools
import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup
from typer.main import get_group
from typer.models import CommandInfo

from turnout.cli.examples import epilog
from turnout.cli.help_text import prepared
from turnout.cli.options import expanded, flag
from turnout.cli.publish.command import publish
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
from turnout.cli.serve.command import serve
from turnout.cli.serve.doctor import doctor
from turnout.cli.serve.load import load, unload
from turnout.cli.serve.predict import predict
from turnout.cli.serve.servers import servers
from turnout.cli.top.command import top
from turnout.cli.traffic.shadow import shadow
from turnout.cli.tune.tune import tune

_REPOSITORY = "The repository, with or without a server"
_SERVER = "A running server"
_HERE = "This machine"


class _Group(NamedTuple):
    """A group of commands.

    Attributes:
        module: Module with the group's `application`.
        default: Command that is meant if none is named; "" if one has to be.
    """

    panel: str
    module: str
    help: str
    default: str = ""


_GROUPS = {
    "key": _Group(_HERE, "publish.key", "Create keys for signing versions, and show their public part."),
    "auth": _Group(_HERE, "auth.permissions", "Explain what a caller may do, and check the policy file."),
    "token": _Group(
        _REPOSITORY, "auth.token", "Create, list and revoke bearer tokens. Running servers follow within a second."
    ),
    "import": _Group(
        _REPOSITORY,
        "publish.imports",
        "Import versions from an export or from Triton. `turnout import DIR` is `turnout import export DIR`.",
        default="export",
    ),
    "state": _Group(_REPOSITORY, "state", "Back up the state store, and restore it."),
    "traffic": _Group(_SERVER, "traffic.commands", "Decide which versions answer requests that do not pin one."),
    "rollout": _Group(
        _SERVER, "rollout.commands", "Make a candidate the baseline step by step, and roll it back on evidence."
    ),
}


class _LazyGroup(TyperGroup):
    """A group whose module is imported when its commands are needed."""

    @property
    def commands(self) -> Any:
        """The commands by name."""
        return _members(self.name or "")

    @commands.setter
    def commands(self, _: object) -> None: ...

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Inserts the default command, if there is one and the arguments do not name a command."""
        default = _GROUPS[self.name or ""].default
        if default and args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [default, *args]
        return super().parse_args(ctx, args)


@functools.cache
def _members(group: str) -> Any:
    members: typer.Typer = import_module(f"turnout.cli.{_GROUPS[group].module}").application
    for command in members.registered_commands:
        _prepare(command, f"{group} ")
    return get_group(members).commands


def application() -> typer.Typer:
    """Returns the command line."""
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
            publish, sign, release, withdraw, tag, yank, unyank, prune, models, show, diff, log, verify, export,
        ),
        _SERVER: (top, servers, predict, fetch, load, unload, shadow, rollback),
    }  # fmt: skip
    for panel, members in commands.items():
        for member in members:
            app.command(rich_help_panel=panel)(member)
    for name, group in _GROUPS.items():
        placeholder = typer.Typer(cls=_LazyGroup, no_args_is_help=True, help=group.help)
        app.add_typer(placeholder, name=name, rich_help_panel=group.panel)
    for command in app.registered_commands:
        _prepare(command)
    return app


def _prepare(command: CommandInfo, path: str = "") -> None:
    """Sets the command's name and help, and shows its groups of options to Typer as options."""
    assert command.callback is not None
    command.name = command.name or getattr(command.callback, "__name__", "").replace("_", "-")
    command.help = prepared(inspect.getdoc(command.callback) or "")
    command.callback, command.epilog = expanded(command.callback), epilog(f"{path}{command.name}")


def _print_version(value: bool) -> None:
    if value:
        from turnout import __version__

        typer.echo(f"turnout {__version__}")
        raise typer.Exit


def _turnout(
    version: Annotated[bool, flag("--version", "Print and exit.", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Serve many versions of ONNX models at once, and switch between them without stopping."""
