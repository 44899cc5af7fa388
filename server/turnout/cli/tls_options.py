"""`--tls-ca`, `--tls-cert`, `--tls-key`, `--tls-server-name`, `--token-file` and `--plaintext-token`: of every command
that calls a server. A token itself is no option, since everybody on the machine sees those: it is in TURNOUT_TOKEN.
"""

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any

import typer

_TLS = {
    "ca": ("FILE", "Authority that signed the server's certificate, in PEM; turns TLS on."),
    "cert": ("FILE", "Certificate to show to the server, in PEM."),
    "key": ("FILE", "Its private key."),
    "server_name": ("NAME", "Name in the server's certificate, where that is not the host of --server."),
}
"""By attribute of `turnout_client.Tls`: what stands for the value, and the help."""

GIVEN: ContextVar[dict[str, str]] = ContextVar("GIVEN")
"""What was given to the command that runs, by attribute of `turnout_client.Tls`."""


@dataclass(frozen=True, slots=True)
class GivenToken:
    """What the command that runs was told of its token.

    Attributes:
        file: Where it lies; "" where that was not said.
        plaintext: It may travel unencrypted.
    """

    file: str = ""
    plaintext: bool = False


GIVEN_TOKEN: ContextVar[GivenToken] = ContextVar("GIVEN_TOKEN")
"""The same of its token."""


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
        given = {name: values.pop(_parameter(name).name) for name in _TLS}
        whose = GivenToken(values.pop("token_file"), values.pop("plaintext_token"))
        before = GIVEN.set({name: value for name, value in given.items() if value}), GIVEN_TOKEN.set(whose)
        try:
            command(**values)
        finally:
            GIVEN.reset(before[0])
            GIVEN_TOKEN.reset(before[1])

    parameters = [*own.parameters.values(), *map(_parameter, _TLS), *_token_parameters()]
    # Typer reads both: the signature for the defaults, the annotations for the rest.
    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined] # any callable may have one
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters} | {"return": None}
    return run


@functools.cache
def _parameter(name: str) -> inspect.Parameter:
    metavar, text = _TLS[name]
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


@functools.cache
def _token_parameters() -> tuple[inspect.Parameter, ...]:
    file = typer.Option(
        "--token-file",
        metavar="FILE",
        help="The token to show to the server. (default: what TURNOUT_TOKEN holds)",
        envvar="TURNOUT_TOKEN_FILE",
        show_default=False,
    )
    plain = typer.Option("--plaintext-token", metavar="", help="Send it to other machines without TLS, too.")
    kind = inspect.Parameter.KEYWORD_ONLY
    return (
        inspect.Parameter("token_file", kind, default="", annotation=Annotated[str, file]),
        inspect.Parameter("plaintext_token", kind, default=False, annotation=Annotated[bool, plain]),
    )
