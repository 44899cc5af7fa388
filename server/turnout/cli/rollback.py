"""`turnout rollback`."""

from typing import Annotated

import typer

from turnout.cli.options import ActorOption, ConfigOption, JsonOption, ServerOption
from turnout.cli.output import reporting


def rollback(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model.")],
    reason: Annotated[str, typer.Option("--reason", metavar="WHY", help="For the record.", show_default=False)],
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="VERSION", help="(default: what a running rollout goes back to, or the baseline before)",
            show_default=False,
        ),
    ] = None,
    actor: ActorOption = None,
    epoch: Annotated[
        int | None,
        typer.Option(
            "--epoch", metavar="N", min=0, help="Only if the rollout, or else the traffic, is still at this epoch.",
            show_default=False,
        ),
    ] = None,
    server: ServerOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Give all of a model's traffic back to a version that had it before, now. Ends its rollout."""
    from turnout.cli.connection import Server
    from turnout.cli.workspace import actor_or_login
    from turnout_proto.v1 import rollout_pb2 as pb

    with reporting(as_json=as_json) as out, Server.named(server, config).control() as control:
        change = pb.RolloutChange(actor=actor_or_login(actor), reason=reason, expected_epoch=epoch)
        request = pb.RollBackRequest(model=name, version=to or "", change=change)
        done = control.RollBack(request, timeout=30.0)
        body = {"model": name, "baseline": done.baseline, "epoch": done.epoch}
        out.show(body, f"{name} is at epoch {done.epoch}: {done.baseline} has all of the traffic")
