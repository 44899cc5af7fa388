"""Commands that change an active rollout."""

from collections.abc import Callable, Sequence
from typing import Annotated

from turnout.cli.options import ChangeOptions, NameArgument, ServerTarget, argument, flag, option
from turnout.cli.output import reporting
from turnout.cli.traffic.commands import freeze

_TIMEOUT = 30.0


class RetryOptions(ChangeOptions):
    """Options of `retry`: actor, reason, and the expected epoch of the last attempt."""

    epoch: Annotated[int | None, option("--epoch", "N", "Only if the rollout is still at this epoch.", min=0)] = None


class CommandOptions(RetryOptions):
    """Options of a command: actor, reason, expected epoch, and the attempt."""

    attempt: Annotated[int, option("--attempt", "N", "Number of the attempt. (default: the active one)", min=0)] = 0


def pause(name: NameArgument, change: CommandOptions = CommandOptions(), target: ServerTarget = ServerTarget()) -> None:
    """Pause at the current weight. Evidence is still collected, and may still roll the candidate back."""
    _command("PAUSE", name, change, target, attempt=change.attempt)


def resume(
    name: NameArgument, change: CommandOptions = CommandOptions(), target: ServerTarget = ServerTarget()
) -> None:
    """Resume a paused rollout. A gate stays closed: `promote` opens it."""
    _command("RESUME", name, change, target, attempt=change.attempt)


def promote(
    name: NameArgument,
    full: Annotated[bool, flag("--full", "Skip all steps, and make the candidate the baseline.")] = False,
    change: CommandOptions = CommandOptions(),
    target: ServerTarget = ServerTarget(),
) -> None:
    """Take the next step now, regardless of the evidence, or open the gate at which the rollout waits."""
    _command("PROMOTE_FULL" if full else "PROMOTE", name, change, target, attempt=change.attempt)


def abort(
    name: NameArgument,
    discard: Annotated[
        bool, flag("--discard", "End a rollout that this release cannot read; keep its record.")
    ] = False,
    change: CommandOptions = CommandOptions(),
    target: ServerTarget = ServerTarget(),
) -> None:
    """Roll the candidate back and end the rollout."""
    _command("ABORT", name, change, target, attempt=change.attempt, discard=discard)


def set_weight(
    name: NameArgument,
    share: Annotated[str, argument("SHARE", "For example 10%.")],
    change: CommandOptions = CommandOptions(),
    target: ServerTarget = ServerTarget(),
) -> None:
    """Set the candidate's weight until its next step."""
    _command("SET_WEIGHT", name, change, target, attempt=change.attempt, share=share)


def retry(name: NameArgument, change: RetryOptions = RetryOptions(), target: ServerTarget = ServerTarget()) -> None:
    """Start another attempt with the candidate and the plan of the last one."""
    _command("RETRY", name, change, target)


COMMANDS: Sequence[Callable[..., None]] = (pause, resume, promote, set_weight, freeze, abort, retry)


def _command(
    what: str,
    name: str,
    options: RetryOptions,
    target: ServerTarget,
    *,
    attempt: int = 0,
    share: str | None = None,
    discard: bool = False,
) -> None:
    """Sends an operator's command, and prints the rollout's new state and the versions that answer."""
    from turnout.cli.connection import Server
    from turnout.cli.releases.answers_view import read_answers, show_change
    from turnout.cli.rollout.view import rollout_body, sentence
    from turnout.cli.workspace import actor_or_login
    from turnout.text.shares import read_share
    from turnout_proto.v1 import rollout_pb2 as pb

    with reporting(as_json=target.as_json) as out:
        change = pb.RolloutChange(
            actor=actor_or_login(options.actor), reason=options.reason, expected_epoch=options.epoch
        )
        weight = 0.0 if share is None else read_share(share)
        request = pb.CommandRolloutRequest(
            model=name,
            attempt=attempt,
            command=f"ROLLOUT_COMMAND_{what}",
            weight=weight,
            change=change,
            discard=discard,
        )
        with Server.named(target).control() as control:
            response = control.CommandRollout(request, timeout=_TIMEOUT)
        rollout = response.rollout
        show_change(out, rollout_body(rollout), read_answers(response.answers), sentence(rollout))
