"""`turnout import` and its subcommands."""

from typing import Any

import typer
from typer.core import TyperGroup

from turnout.cli.publish.import_triton import import_triton
from turnout.cli.publish.import_version import import_version

_DEFAULT = "export"


class _Group(TyperGroup):
    """Reads `turnout import DIR` as `turnout import export DIR`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Inserts the default command if the arguments do not name a command."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


application = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    help="Import versions from an export or from Triton. `turnout import DIR` is `turnout import export DIR`.",
)
application.command(_DEFAULT)(import_version)
application.command("triton")(import_triton)
