"""`turnout release` and `turnout withdraw`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from turnout.cli.options import ActorOption, ConfigOption, JsonOption, ModelsOption, ReasonOption, StateOption
from turnout.cli.output import reporting

if TYPE_CHECKING:
    from turnout.rollout.changes.operations import Operations
    from turnout.routing.default_answers import Answers

_Version = Annotated[str, typer.Argument(metavar="NAME@VERSION", help="For example magika@3.2.0.")]
_Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="HOST:PORT",
        help="Through the server with this control listener. (default: in the state store)",
        show_default=False,
    ),
]


def release(
    version: _Version,
    no_traffic: Annotated[
        bool,
        typer.Option(
            "--no-traffic", metavar="", help="For ranges and `latest` alone; plain requests stay as they are."
        ),
    ] = False,
    supersede: Annotated[
        bool, typer.Option("--supersede", metavar="", help="End a rollout that is in the way.")
    ] = False,
    server: _Server = None,
    actor: ActorOption = None,
    reason: ReasonOption = "",
    models: ModelsOption = None,
    state: StateOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Declare a version fit for general traffic: ranges, and plain requests if it is higher than what answers them.

    A lower one, such as a correction of an older line, answers ranges alone. Refused while traffic is frozen, and while
    a rollout runs that it would take the traffic from. Running servers follow within a second.
    """
    from turnout.cli.workspace import actor_or_login, exact_reference

    with reporting(as_json=as_json) as out:
        name, exact = exact_reference(version)
        who = actor_or_login(actor)
        if server is not None:
            from turnout.cli.connection import Server

            changed, sentence, answers = Server.named(server, config).release(
                name, str(exact), who, reason, no_traffic=no_traffic, supersede=supersede
            )
        else:
            with _operations(models, state, config) as operations:
                done = operations.release(
                    name, exact, actor=who, reason=reason, traffic=not no_traffic, supersede=supersede
                )
            changed, sentence, answers = done.changed, done.sentence, done.answers
        out.show(_body(name, str(exact), changed, answers), *_lines(sentence, answers))


def withdraw(
    version: _Version,
    reason: Annotated[str, typer.Option("--reason", metavar="WHY", help="For the record.", show_default=False)],
    server: _Server = None,
    actor: ActorOption = None,
    models: ModelsOption = None,
    state: StateOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a release back: ranges and `latest` skip the version, and pins go on reaching it. `release` gives it back.

    Refused for the baseline (`turnout rollback` goes back from that) and for what a rollout needs.
    """
    from turnout.cli.workspace import actor_or_login, exact_reference

    with reporting(as_json=as_json) as out:
        name, exact = exact_reference(version)
        who = actor_or_login(actor)
        if server is not None:
            from turnout.cli.connection import Server

            changed, sentence, answers = Server.named(server, config).withdraw(name, str(exact), who, reason)
        else:
            with _operations(models, state, config) as operations:
                done = operations.withdraw(name, exact, actor=who, reason=reason)
            changed, sentence, answers = done.changed, done.sentence, done.answers
        out.show(_body(name, str(exact), changed, answers), *_lines(sentence, answers))


@contextmanager
def _operations(models: str | None, state: str | None, config: Path | None) -> "Iterator[Operations]":
    from turnout.cli.workspace import Workspace
    from turnout.rollout.changes.operations import Operations

    workspace = Workspace.open(models, state, config)
    workspace.require_repository()
    with workspace.store() as store:
        yield Operations(workspace.repository, store)


def _body(name: str, version: str, changed: bool, answers: "Answers") -> dict[str, Any]:
    from turnout.cli.answers_view import answers_body

    return {"model": name, "version": version, "changed": changed, "answers": answers_body(answers)}


def _lines(sentence: str, answers: "Answers") -> list[str]:
    from turnout.cli.answers_view import answers_line

    return [line for line in (sentence, answers_line(answers)) if line]
