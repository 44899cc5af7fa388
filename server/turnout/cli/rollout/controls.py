"""What an operator may do to a rollout that runs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from turnout.cli.options import ActorOption, ConfigOption, JsonOption, ReasonOption, ServerOption
from turnout.cli.output import reporting

_TIMEOUT = 30.0

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The model.")]
EpochOption = Annotated[
    int | None,
    typer.Option("--epoch", metavar="N", min=0, help="Only if the rollout is still at this epoch.", show_default=False),
]

AttemptOption = Annotated[
    int,
    typer.Option("--attempt", metavar="N", min=0, help="(default: the one that runs)", show_default=False),
]


def pause(
    name: NameArgument, actor: ActorOption = None, reason: ReasonOption = "", epoch: EpochOption = None,
    attempt: AttemptOption = 0, server: ServerOption = None, config: ConfigOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Stand still at the present weight. The evidence goes on counting, and may still take the candidate back."""
    _command("PAUSE", name, actor, reason, epoch, attempt, server, config, as_json=as_json)


def resume(
    name: NameArgument, actor: ActorOption = None, reason: ReasonOption = "", epoch: EpochOption = None,
    attempt: AttemptOption = 0, server: ServerOption = None, config: ConfigOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Let a paused rollout go on. A gate stays shut: `promote` opens that."""
    _command("RESUME", name, actor, reason, epoch, attempt, server, config, as_json=as_json)


def promote(
    name: NameArgument,
    full: Annotated[bool, typer.Option("--full", metavar="", help="Make it the baseline, past all steps.")] = False,
    actor: ActorOption = None, reason: ReasonOption = "", epoch: EpochOption = None,
    attempt: AttemptOption = 0, server: ServerOption = None, config: ConfigOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Take the next step now, whatever there is to see, or open the gate that it waits at."""
    what = "PROMOTE_FULL" if full else "PROMOTE"
    _command(what, name, actor, reason, epoch, attempt, server, config, as_json=as_json)


def abort(
    name: NameArgument,
    discard: Annotated[
        bool,
        typer.Option("--discard", metavar="", help="End one that this release cannot read; its record is kept."),
    ] = False,
    actor: ActorOption = None, reason: ReasonOption = "", epoch: EpochOption = None,
    attempt: AttemptOption = 0, server: ServerOption = None, config: ConfigOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Take the candidate back and end the rollout."""
    _command("ABORT", name, actor, reason, epoch, attempt, server, config, as_json=as_json, discard=discard)


def set_weight(
    name: NameArgument,
    share: Annotated[str, typer.Argument(metavar="SHARE", help="For example 10%.")],
    actor: ActorOption = None, reason: ReasonOption = "", epoch: EpochOption = None,
    attempt: AttemptOption = 0, server: ServerOption = None, config: ConfigOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Give the candidate another weight until its next step."""
    _command("SET_WEIGHT", name, actor, reason, epoch, attempt, server, config, as_json=as_json, share=share)


def freeze(
    name: NameArgument,
    off: Annotated[bool, typer.Option("--off", metavar="", help="Take changes again.")] = False,
    actor: ActorOption = None,
    reason: ReasonOption = "",
    epoch: Annotated[
        int | None,
        typer.Option("--epoch", metavar="N", min=0, help="Only if this epoch of the traffic is still in force."),
    ] = None,
    server: ServerOption = None, config: ConfigOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Freeze the model's traffic: its rollout goes no further, and only takes back. As `turnout traffic freeze`."""
    from turnout.cli.connection import Server
    from turnout.cli.traffic.traffic_view import change_lines, state_body
    from turnout.cli.workspace import actor_or_login
    from turnout_proto.v1 import traffic_pb2 as pb

    with reporting(as_json=as_json) as out, Server.named(server, config).control() as control:
        change = pb.TrafficChange(actor=actor_or_login(actor), reason=reason, expected_epoch=epoch)
        request = pb.FreezeTrafficRequest(model=name, frozen=not off, change=change)
        state = control.FreezeTraffic(request, timeout=_TIMEOUT).state
        out.show(state_body(state), *change_lines(state))


def retry(
    name: NameArgument, actor: ActorOption = None, reason: ReasonOption = "", epoch: EpochOption = None,
    server: ServerOption = None, config: ConfigOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Begin another attempt with the candidate and the plan of the last one."""
    _command("RETRY", name, actor, reason, epoch, 0, server, config, as_json=as_json)


COMMANDS: Sequence[Callable[..., None]] = (pause, resume, promote, set_weight, freeze, abort, retry)


def _command(
    what: str,
    name: str,
    actor: str | None,
    reason: str,
    epoch: int | None,
    attempt: int,
    server: str | None,
    config: Path | None,
    *,
    as_json: bool,
    share: str | None = None,
    discard: bool = False,
) -> None:
    """Has the operator's word and prints where the rollout stands then, and who answers what."""
    from turnout.cli.answers_view import answers_body, answers_line, read_answers
    from turnout.cli.connection import Server
    from turnout.cli.rollout.view import rollout_body, sentence
    from turnout.cli.shares import read_share
    from turnout.cli.workspace import actor_or_login
    from turnout_proto.v1 import rollout_pb2 as pb

    with reporting(as_json=as_json) as out:
        change = pb.RolloutChange(actor=actor_or_login(actor), reason=reason, expected_epoch=epoch)
        weight = 0.0 if share is None else read_share(share)
        command = f"ROLLOUT_COMMAND_{what}"
        request = pb.CommandRolloutRequest(
            model=name, attempt=attempt, command=command, weight=weight, change=change, discard=discard
        )
        with Server.named(server, config).control() as control:
            told = control.CommandRollout(request, timeout=_TIMEOUT)
        answers = read_answers(told.answers)
        body = rollout_body(told.rollout) | {"answers": answers_body(answers)}
        out.show(body, *(line for line in (sentence(told.rollout), answers_line(answers)) if line))
