"""`turnout rollback`."""

from typing import Annotated

from turnout.cli.options import ActorOption, NameArgument, RequiredReasonOption, ServerTarget, flag, option
from turnout.cli.output import reporting


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
