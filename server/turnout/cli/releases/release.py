"""`turnout release` and `turnout withdraw`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from turnout.cli.options import (
    ActorOption,
    ChangeOptions,
    DiskTarget,
    RequiredReasonOption,
    TargetOptions,
    VersionArgument,
    flag,
    server_option,
)
from turnout.cli.output import reporting

if TYPE_CHECKING:
    from turnout.rollout.changes.operations import Operations
    from turnout.routing.default_answers import RoutingTable


class _ReleaseTarget(TargetOptions):
    server: Annotated[
        str | None, server_option("Through the server with this control listener. (default: in the state store)")
    ] = None


def release(
    version: VersionArgument,
    no_traffic: Annotated[
        bool, flag("--no-traffic", "Release it for ranges and `latest` alone; plain requests stay as they are.")
    ] = False,
    supersede: Annotated[bool, flag("--supersede", "End a rollout that is in the way.")] = False,
    change: ChangeOptions = ChangeOptions(),
    target: _ReleaseTarget = _ReleaseTarget(),
) -> None:
    """Declare a version fit for general traffic: ranges, and plain requests if it is higher than what answers them.

    A lower one, such as a correction of an older line, answers ranges alone. Refused while traffic is frozen, and while
    a rollout runs that it would take the traffic from. Running servers follow within a second.
    """
    from turnout.cli.workspace import actor_or_login, exact_reference

    with reporting(as_json=target.as_json) as out:
        name, exact = exact_reference(version)
        who = actor_or_login(change.actor)
        if target.server is not None:
            from turnout.cli.connection import Server

            changed, sentence, answers = Server.named(target).release(
                name, str(exact), who, change.reason, no_traffic=no_traffic, supersede=supersede
            )
        else:
            with _operations(target) as operations:
                done = operations.release(
                    name, exact, actor=who, reason=change.reason, traffic=not no_traffic, supersede=supersede
                )
            changed, sentence, answers = done.changed, done.sentence, done.answers
        out.show(_body(name, str(exact), changed, answers), *_lines(sentence, answers))


def withdraw(
    version: VersionArgument,
    reason: RequiredReasonOption,
    actor: ActorOption = None,
    target: _ReleaseTarget = _ReleaseTarget(),
) -> None:
    """Withdraw a release: ranges and `latest` skip the version, and pins still reach it.

    Refused for the baseline (`turnout rollback` goes back from that) and for what a rollout needs.
    """
    from turnout.cli.workspace import actor_or_login, exact_reference

    with reporting(as_json=target.as_json) as out:
        name, exact = exact_reference(version)
        who = actor_or_login(actor)
        if target.server is not None:
            from turnout.cli.connection import Server

            changed, sentence, answers = Server.named(target).withdraw(name, str(exact), who, reason)
        else:
            with _operations(target) as operations:
                done = operations.withdraw(name, exact, actor=who, reason=reason)
            changed, sentence, answers = done.changed, done.sentence, done.answers
        out.show(_body(name, str(exact), changed, answers), *_lines(sentence, answers))


@contextmanager
def _operations(target: DiskTarget) -> "Iterator[Operations]":
    from turnout.cli.workspace import Workspace
    from turnout.rollout.changes.operations import Operations

    workspace = Workspace.open(target)
    workspace.require_repository()
    with workspace.store() as store:
        yield Operations(workspace.repository, store)


def _body(name: str, version: str, changed: bool, answers: "RoutingTable") -> dict[str, Any]:
    from turnout.cli.answers_view import answers_body

    return {"model": name, "version": version, "changed": changed, "answers": answers_body(answers)}


def _lines(sentence: str, answers: "RoutingTable") -> list[str]:
    from turnout.cli.answers_view import answers_line

    return [line for line in (sentence, answers_line(answers)) if line]
