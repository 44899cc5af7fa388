"""`turnout rollout`: makes a candidate the baseline step by step, as the evidence allows."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turnout.cli.durations import read_duration
from turnout.cli.options import (
    ChangeOptions,
    EpochChangeOptions,
    HistoryLimitOption,
    NameArgument,
    ServerTarget,
    argument,
    flag,
    option,
)
from turnout.cli.output import CommandOutput, ServerRefused, reporting, table
from turnout.cli.rollout.options import PlanOptions
from turnout.cli.rollout.probe import probe
from turnout.cli.traffic.commands import freeze
from turnout.errors import ConfigError, InvalidRequest
from turnout.text.shares import read_share
from turnout_proto.v1 import rollout_pb2 as pb

if TYPE_CHECKING:
    from turnout.cli.connection import Server

_TIMEOUT = 30.0
_RUNNING, _INTERRUPTED = 3, 130

AttemptOption = Annotated[int, option("--attempt", "N", "Number of the attempt. (default: the latest)", min=0)]
ToOption = Annotated[str, option("--to", "VERSION", "The candidate.")]


class _CommandOptions(EpochChangeOptions):
    """Options of a command on a rollout."""

    attempt: Annotated[int, option("--attempt", "N", "Number of the attempt. (default: the active one)", min=0)] = 0


application = typer.Typer()


@application.command()
def plan(
    name: NameArgument, to: ToOption, plan: PlanOptions = PlanOptions(), target: ServerTarget = ServerTarget()
) -> None:
    """Show what a rollout would do, and what it could detect with the current traffic. Changes nothing.

    Exits with 1 if the rollout would be refused now.
    """
    from turnout.cli.connection import Server
    from turnout.cli.rollout.forecast import forecast_body, forecast_lines
    from turnout.cli.rollout.plan_file import named_fields

    with reporting(as_json=target.as_json) as out:
        plan_json = _plan_json(out, plan)
        request = pb.PlanRolloutRequest(model=name, version=to, plan_json=plan_json)
        with named_fields(), Server.named(target).control() as control:
            response = control.PlanRollout(request, timeout=_TIMEOUT)
        out.show(forecast_body(response, name, to), *forecast_lines(response, name, to))
    if response.refusals:
        raise typer.Exit(1)


@application.command()
def start(
    name: NameArgument,
    to: ToOption,
    plan: PlanOptions = PlanOptions(),
    wait: Annotated[bool, flag("--wait", "Follow the rollout until it ends.")] = False,
    timeout: Annotated[str | None, option("--timeout", "TIME", "Maximum time for --wait.")] = None,
    change: ChangeOptions = ChangeOptions(),
    target: ServerTarget = ServerTarget(),
) -> None:
    """Start a rollout. Fields that are not in the plan get their defaults.

    A job may run twice: if the candidate is the baseline already, nothing happens; if a rollout of it with the same
    plan is running, and the plan does not set on_newer, --wait follows that one.

    Exit codes of --wait:
    0    the candidate became the baseline, or already was
    1    it was rolled back, replaced, or could not be served
    3    it is still running when --timeout expires
    130  Ctrl-C; the rollout continues
    """
    from turnout.cli.connection import Server
    from turnout.cli.releases.answers_view import answers_body, answers_lines, read_answers
    from turnout.cli.rollout import view
    from turnout.cli.rollout.plan_file import named_fields
    from turnout.cli.workspace import actor_or_login

    with reporting(as_json=target.as_json) as out:
        if timeout is not None and not wait:
            raise InvalidRequest("--timeout: only with --wait")
        limit = None if timeout is None else read_duration(timeout)
        plan_json = _plan_json(out, plan)
        asked = pb.RolloutChange(actor=actor_or_login(change.actor), reason=change.reason)
        request = pb.StartRolloutRequest(model=name, version=to, plan_json=plan_json, change=asked)
        named = Server.named(target)
        try:
            with named_fields(), named.control() as control:
                response = control.StartRollout(request, timeout=_TIMEOUT)
        except ServerRefused as error:
            if error.kind != "AlreadyExists":
                raise
            out.show({"model": name, "candidate": to, "state": "baseline"}, str(error))
            return
        rollout, answers = response.rollout, read_answers(response.answers)
        if not wait:
            follow = f"follow it with `turnout rollout watch {name}`"
            body = view.rollout_body(rollout) | {"answers": answers_body(answers)}
            out.show(body, view.sentence(rollout), *answers_lines(answers), follow)
            return
        _watch_to_the_end(out, named, name, rollout.attempt, limit)


@application.command()
def status(
    name: Annotated[str | None, argument("NAME", "One model. (default: all)")] = None,
    target: ServerTarget = ServerTarget(),
) -> None:
    """Show the latest rollout of one model, or of every model."""
    from turnout.cli.connection import Server
    from turnout.cli.rollout import view

    with reporting(as_json=target.as_json) as out, Server.named(target).control() as control:
        if name is not None:
            stream = control.WatchRollout(pb.WatchRolloutRequest(model=name), timeout=_TIMEOUT)
            rollout = next(stream).rollout
            stream.cancel()
            out.show(view.rollout_body(rollout), *view.status_lines(rollout))
            return
        known = control.ListRollouts(pb.ListRolloutsRequest(limit=1000), timeout=_TIMEOUT).rollouts
        latest: dict[str, pb.Rollout] = {}
        for one in known:
            if one.model not in latest or one.attempt > latest[one.model].attempt:
                latest[one.model] = one
        rollouts = [latest[model] for model in sorted(latest)]
        displayed = view.overview(rollouts) if rollouts else ["no rollouts yet"]
        out.show({"rollouts": [view.rollout_body(r) for r in rollouts]}, *displayed)


@application.command()
def history(name: NameArgument, limit: HistoryLimitOption = 20, target: ServerTarget = ServerTarget()) -> None:
    """List a model's rollouts, newest first."""
    from turnout.cli.connection import Server
    from turnout.cli.rollout import view

    with reporting(as_json=target.as_json) as out, Server.named(target).control() as control:
        known = control.ListRollouts(pb.ListRolloutsRequest(model=name, limit=limit), timeout=_TIMEOUT).rollouts
        columns = ("ATTEMPT", "STARTED (UTC)", "TOOK", "CANDIDATE", "OVER", "STATE", "VERDICT", "BY", "WHY")
        displayed = (
            table(columns, view.history_rows(known), right=("ATTEMPT",), whole=columns[:6])
            if known
            else f"{name} has had no rollout; `turnout rollout start {name} --to VERSION` starts one"
        )
        out.show({"model": name, "rollouts": [view.rollout_body(r) for r in known]}, displayed)


@application.command()
def explain(name: NameArgument, attempt: AttemptOption = 0, target: ServerTarget = ServerTarget()) -> None:
    """Explain, in words and numbers, why a rollout is in its state, and what happens next."""
    from turnout.cli.connection import Server
    from turnout.cli.rollout import view
    from turnout.cli.rollout.follow import read_replay
    from turnout.web.report.explain import explain as explained

    with reporting(as_json=target.as_json) as out, Server.named(target).control() as control:
        replay = read_replay(control, name, attempt)
        explanation = explained(replay)
        out.show(view.explanation_body(explanation, replay), *view.explanation_lines(explanation, replay.rollout))


@application.command()
def watch(
    name: NameArgument,
    timeout: Annotated[str | None, option("--timeout", "TIME", "Maximum time to follow it.")] = None,
    target: ServerTarget = ServerTarget(),
) -> None:
    """Follow a model's latest rollout until it ends, even through restarts of its server.

    Shows a live view on a terminal; elsewhere, one line for each event.

    Exit codes:
    0    the candidate became the baseline
    1    it was rolled back, replaced, or could not be served
    3    it is still running when --timeout expires
    130  Ctrl-C; the rollout continues
    """
    from turnout.cli.connection import Server

    with reporting(as_json=target.as_json) as out:
        limit = None if timeout is None else read_duration(timeout)
        _watch_to_the_end(out, Server.named(target), name, 0, limit)


@application.command()
def report(
    name: NameArgument,
    html: Annotated[Path, option("--html", "FILE", "File to write.")],
    attempt: AttemptOption = 0,
    target: ServerTarget = ServerTarget(),
) -> None:
    """Write a rollout's evidence as one HTML page that needs no network."""
    from turnout.cli.connection import Server
    from turnout.cli.rollout.follow import read_replay
    from turnout.web.report.page import render

    with reporting(as_json=target.as_json) as out:
        server = Server.named(target)
        with server.control() as control:
            replay = read_replay(control, name, attempt)
        with server.client(_TIMEOUT) as client:
            known = client.get_model(name).versions
        page = render(replay, (str(version.version) for version in known)).encode()
        try:
            html.write_bytes(page)
        except OSError as error:
            raise ConfigError(f"{html} cannot be written: {error.strerror}") from None
        number, size = replay.rollout.attempt, len(page)
        body = {"model": name, "attempt": number, "ticks": replay.ticks, "file": str(html), "bytes": size}
        out.show(body, f"{html}: attempt {number} of {name}, {size:,} bytes")


@application.command()
def pause(
    name: NameArgument, change: _CommandOptions = _CommandOptions(), target: ServerTarget = ServerTarget()
) -> None:
    """Pause at the current weight. Evidence is still collected, and may still roll the candidate back."""
    _command("PAUSE", name, change, target, attempt=change.attempt)


@application.command()
def resume(
    name: NameArgument, change: _CommandOptions = _CommandOptions(), target: ServerTarget = ServerTarget()
) -> None:
    """Resume a paused rollout. A gate stays closed: `promote` opens it."""
    _command("RESUME", name, change, target, attempt=change.attempt)


@application.command()
def promote(
    name: NameArgument,
    full: Annotated[bool, flag("--full", "Skip all steps, and make the candidate the baseline.")] = False,
    change: _CommandOptions = _CommandOptions(),
    target: ServerTarget = ServerTarget(),
) -> None:
    """Take the next step now, regardless of the evidence, or open the gate at which the rollout waits."""
    _command("PROMOTE_FULL" if full else "PROMOTE", name, change, target, attempt=change.attempt)


@application.command()
def set_weight(
    name: NameArgument,
    share: Annotated[str, argument("SHARE", "For example 10%.")],
    change: _CommandOptions = _CommandOptions(),
    target: ServerTarget = ServerTarget(),
) -> None:
    """Set the candidate's weight until its next step."""
    _command("SET_WEIGHT", name, change, target, attempt=change.attempt, share=share)


application.command()(freeze)


@application.command()
def abort(
    name: NameArgument,
    discard: Annotated[
        bool, flag("--discard", "End a rollout that this release cannot read; keep its record.")
    ] = False,
    change: _CommandOptions = _CommandOptions(),
    target: ServerTarget = ServerTarget(),
) -> None:
    """Roll the candidate back and end the rollout."""
    _command("ABORT", name, change, target, attempt=change.attempt, discard=discard)


@application.command()
def retry(
    name: NameArgument, change: EpochChangeOptions = EpochChangeOptions(), target: ServerTarget = ServerTarget()
) -> None:
    """Start another attempt with the candidate and the plan of the last one."""
    _command("RETRY", name, change, target)


application.command()(probe)


def _plan_json(out: CommandOutput, options: PlanOptions) -> str:
    """Returns the plan as JSON. Warns about fields that no longer have an effect."""
    from turnout.rollout.plan import RETIRED

    plan_json = options.to_json()
    for field in filter(json.loads(plan_json).__contains__, RETIRED):
        out.note(f"{field} no longer has an effect, and can be removed from the plan")
    return plan_json


def _watch_to_the_end(out: CommandOutput, server: "Server", name: str, attempt: int, timeout: float | None) -> None:
    """Shows a rollout until it ends, then exits with the code for its result."""
    from turnout.cli.rollout.follow import TimedOut
    from turnout.cli.rollout.live import watch

    again = f"`turnout rollout watch {name}` follows it"
    try:
        last = watch(out, server, name, attempt=attempt, timeout=timeout)
    except TimedOut:
        out.note(f"the timeout expired, and the rollout continues: {again}")
        raise typer.Exit(_RUNNING) from None
    except KeyboardInterrupt:
        out.note(f"the rollout continues: {again}")
        raise typer.Exit(_INTERRUPTED) from None
    raise typer.Exit(0 if last.state == "succeeded" else 1)


def _command(
    what: str,
    name: str,
    options: EpochChangeOptions,
    target: ServerTarget,
    *,
    attempt: int = 0,
    share: str | None = None,
    discard: bool = False,
) -> None:
    """Sends an operator's command, and prints the rollout's new state and the versions that answer."""
    from turnout.cli.connection import Server
    from turnout.cli.releases.answers_view import read_answers, show_change
    from turnout.cli.rollout import view
    from turnout.cli.workspace import actor_or_login

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
        show_change(out, view.rollout_body(rollout), read_answers(response.answers), view.sentence(rollout))
