"""`--tls-ca`, `--tls-cert`, `--tls-key` and `--tls-server-name`: of every command that calls a server."""

import inspect
from contextvars import ContextVar
from typing import Any

import typer
from typer.core import TyperCommand, TyperOption

_OPTIONS = {
    "ca": ("FILE", "Authority that signed the server's certificate, in PEM; turns TLS on."),
    "cert": ("FILE", "Certificate to show to the server, in PEM."),
    "key": ("FILE", "Its private key."),
    "server_name": ("NAME", "Name in the server's certificate, where that is not the host of --server."),
}
"""By attribute of `turnout_client.Tls`: what stands for the value, and the help."""

GIVEN: ContextVar[dict[str, str]] = ContextVar("GIVEN")
"""What was given to the command that runs, by attribute of `turnout_client.Tls`."""


class ServerCommand(TyperCommand):
    """A command that calls a server: it has the options of TLS beside its own."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        for name, (metavar, text) in _OPTIONS.items():
            option = TyperOption(
                param_decls=[f"--tls-{name.replace('_', '-')}"],
                metavar=metavar,
                help=text,
                envvar=f"TURNOUT_TLS_{name.upper()}",
                show_envvar=True,
            )
            self.params.insert(len(self.params), option)

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        given = {name: ctx.params.pop(f"tls_{name}") for name in _OPTIONS}
        token = GIVEN.set({name: value for name, value in given.items() if value})
        try:
            return super().invoke(ctx)
        finally:
            GIVEN.reset(token)


def add_tls_options(app: typer.Typer) -> None:
    """Gives the options to every command of `app`, and of the applications in it, that takes `--server`."""
    for command in app.registered_commands:
        if command.callback is not None and "server" in inspect.signature(command.callback).parameters:
            command.cls = ServerCommand
    for group in app.registered_groups:
        if group.typer_instance is not None:
            add_tls_options(group.typer_instance)
