"""`turnout release` and `turnout withdraw`."""

from typing import Annotated

from turnout.cli.options import ActorOption, ChangeOptions, RequiredReasonOption, TargetOptions, VersionArgument, flag
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
