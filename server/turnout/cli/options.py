"""Declares the options that several commands share.

A command takes related options as one argument of type `OptionGroup`: `expanded` shows the fields of the group to Typer
as options, and passes the group to the command.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, dataclass_transform

import typer

from turnout.cli.help_text import literal


@dataclass_transform(kw_only_default=True, frozen_default=True)
class OptionGroup:
    """A group of related options. Its fields are options or other groups; each has a default.

    Works like a frozen dataclass, but is cheaper to create: eleven dataclasses would add 8 ms to each command's start.
    """

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    @classmethod
    def fields(cls) -> dict[str, Any]:
        """Returns the annotations of all fields, those of base classes first."""
        return {name: kind for base in reversed(cls.__mro__) for name, kind in inspect.get_annotations(base).items()}


def argument(metavar: str, text: str, **more: Any) -> Any:
    """Returns an argument with its help."""
    return typer.Argument(metavar=metavar, help=literal(text), **more)


def option(name: str, metavar: str, text: str, **more: Any) -> Any:
    """Returns an option with its help. The default is shown automatically unless `text` describes it."""
    return typer.Option(name, metavar=metavar, help=literal(text), show_default="(default: " not in text, **more)


def flag(name: str, text: str, **more: Any) -> Any:
    """Returns an option without a value."""
    return option(name, "", text, **more)


def _tls_option(name: str, metavar: str, text: str) -> Any:
    return option(f"--tls-{name}", metavar, text, envvar=f"TURNOUT_TLS_{name.upper().replace('-', '_')}")


NameArgument = Annotated[str, argument("NAME", "The model.")]
VersionArgument = Annotated[str, argument("NAME@VERSION", "For example magika@3.2.0.")]
JsonOption = Annotated[bool, flag("--json", "Print the result, or the error, as JSON.")]
TimeoutOption = Annotated[float, option("--timeout", "SECONDS", "How long to wait.", min=0.001)]
HistoryLimitOption = Annotated[int, option("--limit", "N", "How many to show.", min=1, max=1000)]
ReleaseOption = Annotated[bool, flag("--release", "Also release it, as `turnout release` does.")]
RequiredReasonOption = Annotated[str, option("--reason", "WHY", "Reason to record with the change.")]
ActorOption = Annotated[str | None, option("--actor", "WHO", "Actor to record. (default: login@host)")]
ModelsOption = Annotated[
    str | None, option("--models", "DIR", "Model repository: a directory, s3://, gs:// or oci://. (default: models)")
]
StateOption = Annotated[str | None, option("--state", "URL", "State store. (default: DIR/.turnout/state.db)")]
ConfigOption = Annotated[
    Path | None, option("--config", "FILE", "Configuration file. (default: ./turnout.toml if it exists)")
]


class ChangeOptions(OptionGroup):
    """Who makes a change, and why."""

    actor: ActorOption = None
    reason: RequiredReasonOption = ""


class EpochChangeOptions(ChangeOptions):
    """Who makes a change, why, and the epoch that the decision was based on."""

    epoch: Annotated[
        int | None, option("--epoch", "N", "Only if the traffic, or the rollout, is still at this epoch.", min=0)
    ] = None


class CallOptions(OptionGroup):
    """How to call a server. There is no option for the token itself: other users can see a process's options."""

    tls_ca: Annotated[
        str, _tls_option("ca", "FILE", "CA certificate that signed the server's certificate, in PEM; turns TLS on.")
    ] = ""
    tls_cert: Annotated[str, _tls_option("cert", "FILE", "Client certificate to show to the server, in PEM.")] = ""
    tls_key: Annotated[str, _tls_option("key", "FILE", "Private key of the client certificate, in PEM.")] = ""
    tls_server_name: Annotated[
        str, _tls_option("server-name", "NAME", "Name in the server's certificate, if not the host of --server.")
    ] = ""
    token_file: Annotated[
        str,
        option(
            "--token-file",
            "FILE",
            "File with the bearer token. (default: the variable TURNOUT_TOKEN)",
            envvar="TURNOUT_TOKEN_FILE",
        ),
    ] = ""
    plaintext_token: Annotated[
        bool, flag("--plaintext-token", "Send the token without TLS, even to other machines.")
    ] = False


class ServerTarget(OptionGroup):
    """A running server."""

    server: Annotated[
        str | None,
        option("--server", "HOST:PORT", "The server's control listener. (default: as configured, 127.0.0.1:8003)"),
    ] = None
    config: ConfigOption = None
    as_json: JsonOption = False
    call: CallOptions = CallOptions()


class DiskTarget(OptionGroup):
    """A model repository and a state store, used without a server."""

    models: ModelsOption = None
    state: StateOption = None
    config: ConfigOption = None
    as_json: JsonOption = False


class TargetOptions(DiskTarget):
    """A running server if `--server` is given, else the disk."""

    server: Annotated[
        str | None,
        option("--server", "HOST:PORT", "Use the server with this control listener. (default: use the disk)"),
    ] = None
    call: CallOptions = CallOptions()


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """Returns a command with options in place of its option groups, so that Typer can read it."""
    own = inspect.signature(command)
    groups = {one.name: one.annotation for one in own.parameters.values() if _is_group(one.annotation)}
    if not groups:  # or it is already expanded: a process may build the application more than once
        return command

    @functools.wraps(command)
    def run(**values: Any) -> None:
        taken = {name: _take(kind, values) for name, kind in groups.items()}
        command(**values, **taken)

    parameters = [
        made.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for one in own.parameters.values()
        for made in (_options(one.annotation) if one.name in groups else (one,))
    ]
    # Typer reads both: the signature for the defaults, the annotations for the rest.
    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined] # any callable may have one
    run.__annotations__ = {one.name: one.annotation for one in parameters} | {"return": None}
    return run


def _is_group(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, OptionGroup)


def _options(kind: type[OptionGroup]) -> Iterator[inspect.Parameter]:
    for name, annotation in kind.fields().items():
        if _is_group(annotation):
            yield from _options(annotation)
        else:
            default = getattr(kind, name)
            yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _take(kind: type[OptionGroup], values: dict[str, Any]) -> OptionGroup:
    """Moves the values of a group's options out of `values` into a new group."""
    return kind(
        **{name: _take(one, values) if _is_group(one) else values.pop(name) for name, one in kind.fields().items()}
    )
