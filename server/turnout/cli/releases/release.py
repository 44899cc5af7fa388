"""`turnout release`, `withdraw` and `rollback`."""

from typing import Annotated

from turnout.cli.options import (
    ActorOption,
    ChangeOptions,
    NameArgument,
    RequiredReasonOption,
    ServerTarget,
    TargetOptions,
    VersionArgument,
    flag,
    option,
)
from turnout.cli.output import reporting


def release(
    version: VersionArgument,
    no_traffic: Annotated[
        bool, flag("--no-traffic", "Release it only for ranges and `latest`; plain requests are not affected.")
    ] = False,
    supersede: Annotated[bool, flag("--supersede", "End a rollout that prevents the release.")] = False,
    change: ChangeOptions = ChangeOptions(),
    target: TargetOptions = TargetOptions(),
) -> None:
    """Declare a version fit for general traffic: ranges, and plain requests if it is higher than the version they get.

    A lower version, such as a fix of an older line, only answers ranges. Refused while traffic is frozen, and while a
    rollout is active whose traffic the version would take. Running servers follow within a second.
    """
    from turnout.cli.releases.answers_view import show_change
    from turnout.cli.workspace import Workspace, actor_or_login, exact_reference

    with reporting(as_json=target.as_json) as out:
        name, exact = exact_reference(version)
        who = actor_or_login(change.actor)
        if target.server is not None:
            from turnout.cli.connection import Server

            changed, sentence, answers = Server.named(target).release(
                name, str(exact), who, change.reason, no_traffic=no_traffic, supersede=supersede
            )
        else:
            with Workspace.open(target).changes() as (_, operations):
                done = operations.release(
                    name, exact, actor=who, reason=change.reason, traffic=not no_traffic, supersede=supersede
                )
            changed, sentence, answers = done.changed, done.sentence, done.answers
        show_change(out, {"model": name, "version": str(exact), "changed": changed}, answers, sentence)


def withdraw(
    version: VersionArgument,
    reason: RequiredReasonOption,
    actor: ActorOption = None,
    target: TargetOptions = TargetOptions(),
) -> None:
    """Withdraw a release: ranges and `latest` skip the version, but pins still reach it.

    Refused for the baseline (use `turnout rollback`) and for versions that a rollout needs.
    """
    from turnout.cli.releases.answers_view import read_answers, show_change
    from turnout.cli.workspace import Workspace, actor_or_login, exact_reference

    with reporting(as_json=target.as_json) as out:
        name, exact = exact_reference(version)
        who = actor_or_login(actor)
        if target.server is not None:
            from turnout.cli.connection import CHANGE_SECONDS, Server
            from turnout_proto.v1 import control_pb2 as pb

            request = pb.WithdrawVersionRequest(model=name, version=str(exact), actor=who, reason=reason)
            with Server.named(target).control() as control:
                response = control.WithdrawVersion(request, timeout=CHANGE_SECONDS)
            changed, sentence, answers = response.changed, response.sentence, read_answers(response.answers)
        else:
            with Workspace.open(target).changes() as (_, operations):
                done = operations.withdraw(name, exact, actor=who, reason=reason)
            changed, sentence, answers = done.changed, done.sentence, done.answers
        show_change(out, {"model": name, "version": str(exact), "changed": changed}, answers, sentence)


def rollback(
    name: NameArgument,
    reason: RequiredReasonOption,
    to: Annotated[
        str | None,
        option(
            "--to",
            "VERSION",
            "Version that gets the traffic. (default: that which the active rollout would go back to, else the previous"
            " baseline)",
        ),
    ] = None,
    keep_released: Annotated[
        bool, flag("--keep-released", "Keep the version released, so that ranges and `latest` still reach it.")
    ] = False,
    actor: ActorOption = None,
    epoch: Annotated[
        int | None, option("--epoch", "N", "Only if the rollout, or else the traffic, is still at this epoch.", min=0)
    ] = None,
    target: ServerTarget = ServerTarget(),
) -> None:
    """Return all of a model's traffic to an earlier version, now. Ends its rollouts and canaries.

    The version that loses the traffic becomes a candidate again, so that ranges and `latest` leave it too;
    `turnout release` releases it again. A second rollback goes further back, but never to a version that was rolled
    back. Exits with 1 if there is no version to return to.
    """
    from turnout.cli.connection import Server
    from turnout.cli.releases.answers_view import read_answers, show_change
    from turnout.cli.workspace import actor_or_login
    from turnout_proto.v1 import rollout_pb2 as pb

    with reporting(as_json=target.as_json) as out, Server.named(target).control() as control:
        change = pb.RolloutChange(actor=actor_or_login(actor), reason=reason, expected_epoch=epoch)
        request = pb.RollBackRequest(model=name, version=to or "", change=change, keep_released=keep_released)
        done = control.RollBack(request, timeout=30.0)
        body = {"model": name, "baseline": done.baseline, "epoch": done.epoch}
        show_change(out, body, read_answers(done.answers), done.sentence)
