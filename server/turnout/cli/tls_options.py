"""`--tls-ca`, `--tls-cert`, `--tls-key` and `--tls-server-name`: of every command that calls a server."""

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import Annotated, Any

import typer

_OPTIONS = {
    "ca": ("FILE", "Authority that signed the server's certificate, in PEM; turns TLS on."),
    "cert": ("FILE", "Certificate to show to the server, in PEM."),
    "key": ("FILE", "Its private key."),
    "server_name": ("NAME", "Name in the server's certificate, where that is not the host of --server."),
}
"""By attribute of `turnout_client.Tls`: what stands for the value, and the help."""

GIVEN: ContextVar[dict[str, str]] = ContextVar("GIVEN")
"""What was given to the command that runs, by attribute of `turnout_client.Tls`."""


def add_tls_options(app: typer.Typer) -> None:
    """Gives the options to every command of `app`, and of the applications in it, that takes `--server`."""
    for command in app.registered_commands:
        if command.callback is not None and "server" in inspect.signature(command.callback).parameters:
            command.name = command.name or command.callback.__name__.replace("_", "-")
            command.callback = _with_options(command.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            add_tls_options(group.typer_instance)


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Returns `command` with the options after its own; they are no arguments of it, but in `GIVEN` while it runs."""
    own = inspect.signature(command)
    if _parameter("ca").name in own.parameters:
        return command  # an application is made more than once in a process, and its groups are the same ones

    @functools.wraps(command)
    def run(**values: Any) -> None:
        given = {name: values.pop(_parameter(name).name) for name in _OPTIONS}
        token = GIVEN.set({name: value for name, value in given.items() if value})
        try:
            command(**values)
        finally:
            GIVEN.reset(token)

    parameters = [*own.parameters.values(), *map(_parameter, _OPTIONS)]
    # Typer reads both: the signature for the defaults, the annotations for the rest.
    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined] # any callable may have one
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters} | {"return": None}
    return run


@functools.cache
def _parameter(name: str) -> inspect.Parameter:
    metavar, text = _OPTIONS[name]
    option = typer.Option(
        f"--tls-{name.replace('_', '-')}",
        metavar=metavar,
        help=text,
        envvar=f"TURNOUT_TLS_{name.upper()}",
        show_default=False,
    )
    return inspect.Parameter(
        f"tls_{name}", inspect.Parameter.KEYWORD_ONLY, default="", annotation=Annotated[str, option]
    )
