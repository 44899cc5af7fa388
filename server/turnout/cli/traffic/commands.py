"""`turnout traffic`: decides which versions answer requests that do not pin one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from turnout.cli.options import (
    EpochChangeOptions,
    HistoryLimitOption,
    NameArgument,
    ServerTarget,
    argument,
    flag,
    option,
)
from turnout.cli.output import NO_VERSION, reporting, table
from turnout.errors import InvalidRequest
from turnout.text.shares import read_part
from turnout_proto.v1 import traffic_pb2 as pb

if TYPE_CHECKING:
    from turnout_proto.v1.control_pb2_grpc import ControlServiceStub

_TIMEOUT = 30.0

ForceOption = Annotated[bool, flag("--force", "Do it even if a signature does not fit the baseline's clients.")]
CanaryOption = Annotated[list[str] | None, option("--canary", "VERSION=SHARE", "Such as 3.3.0=5%; may be repeated.")]
ShadowOption = Annotated[list[str] | None, option("--shadow", "VERSION=SHARE", "Such as 3.4.0=10%; may be repeated.")]


application = typer.Typer()


@application.command()
def show(
    name: Annotated[str | None, argument("NAME", "One model. (default: all)")] = None,
    target: ServerTarget = ServerTarget(),
) -> None:
    """Show how traffic is routed, and whether the actual split matches the policy."""
    from turnout.cli.connection import Server
    from turnout.cli.traffic import traffic_view as view

    with reporting(as_json=target.as_json) as out, Server.named(target).control() as control:
        states = control.GetTraffic(pb.GetTrafficRequest(model=name or ""), timeout=_TIMEOUT).models
        lines = [line for state in states for line in (*view.state_lines(state), "")]
        out.show({"models": [view.state_body(state) for state in states]}, *(lines[:-1] or [NO_VERSION]))


@application.command(name="set")
def set_(
    name: NameArgument,
    baseline: Annotated[
        str | None,
        option("--baseline", "VERSION", "Version that answers what no canary answers. (default: the current one)"),
    ] = None,
    canary: CanaryOption = None,
    shadow: ShadowOption = None,
    change: EpochChangeOptions = EpochChangeOptions(),
    force: ForceOption = False,
    target: ServerTarget = ServerTarget(),
) -> None:
    """Put a policy in force: a baseline, canaries with shares, shadows with rates.

    It replaces the previous policy: canaries and shadows that you do not name are removed. Routing keys that got a
    canary stay with it.
    """
    with _changing(change, target, force=force) as (control, asked, show_state):
        canaries = [pb.Canary(version=v, weight=w) for v, w in (read_part(c, "--canary") for c in canary or ())]
        shadows = [pb.Shadow(version=v, rate=r) for v, r in (read_part(s, "--shadow") for s in shadow or ())]
        present = baseline
        if present is None:
            (known,) = control.GetTraffic(pb.GetTrafficRequest(model=name), timeout=_TIMEOUT).models
            if not known.HasField("policy"):
                raise InvalidRequest(f"{name} has no policy yet: name a version with --baseline")
            present = known.policy.baseline
        policy = pb.Policy(baseline=present, canaries=canaries, shadows=shadows)
        request = pb.SetTrafficRequest(model=name, policy=policy, change=asked)
        show_state(control.SetTraffic(request, timeout=_TIMEOUT).state)


@application.command()
def ramp(
    name: NameArgument,
    canary: Annotated[str, argument("VERSION=SHARE", "For example 3.3.0=25%.")],
    change: EpochChangeOptions = EpochChangeOptions(),
    force: ForceOption = False,
    target: ServerTarget = ServerTarget(),
) -> None:
    """Change the share of one canary; everything else stays the same."""
    with _changing(change, target, force=force) as (control, asked, show_state):
        version, weight = read_part(canary, "VERSION=SHARE")
        request = pb.RampTrafficRequest(model=name, canary=pb.Canary(version=version, weight=weight), change=asked)
        show_state(control.RampTraffic(request, timeout=_TIMEOUT).state)


@application.command()
def clear(
    name: NameArgument, change: EpochChangeOptions = EpochChangeOptions(), target: ServerTarget = ServerTarget()
) -> None:
    """End the policy: the highest released version answers."""
    with _changing(change, target) as (control, asked, show_state):
        show_state(control.ClearTraffic(pb.ClearTrafficRequest(model=name, change=asked), timeout=_TIMEOUT).state)


@application.command()
def freeze(
    name: NameArgument,
    off: Annotated[bool, flag("--off", "Accept changes again.")] = False,
    change: EpochChangeOptions = EpochChangeOptions(),
    target: ServerTarget = ServerTarget(),
) -> None:
    """Refuse all changes except those that take traffic back. An active rollout can only roll back."""
    with _changing(change, target) as (control, asked, show_state):
        request = pb.FreezeTrafficRequest(model=name, frozen=not off, change=asked)
        show_state(control.FreezeTraffic(request, timeout=_TIMEOUT).state)


@application.command()
def revert(
    name: NameArgument,
    to: Annotated[int, argument("EPOCH", "As listed by `history`.", min=1)],
    change: EpochChangeOptions = EpochChangeOptions(),
    force: ForceOption = False,
    target: ServerTarget = ServerTarget(),
) -> None:
    """Put the policy of an earlier epoch in force again, with exactly the same keys on each canary."""
    with _changing(change, target, force=force) as (control, asked, show_state):
        request = pb.RevertTrafficRequest(model=name, epoch=to, change=asked)
        show_state(control.RevertTraffic(request, timeout=_TIMEOUT).state)


@application.command()
def history(name: NameArgument, limit: HistoryLimitOption = 20, target: ServerTarget = ServerTarget()) -> None:
    """List earlier policies: who set them, when, and why."""
    from turnout.cli.connection import Server
    from turnout.cli.traffic import traffic_view as view

    with reporting(as_json=target.as_json) as out, Server.named(target).control() as control:
        request = pb.ListTrafficHistoryRequest(model=name, limit=limit)
        epochs = control.ListTrafficHistory(request, timeout=_TIMEOUT).epochs
        columns = ("EPOCH", "WHEN (UTC)", "ACTION", "POLICY", "BY", "WHY")
        displayed = (
            table(columns, view.history_rows(epochs), right=("EPOCH",), whole=("WHEN (UTC)",))
            if epochs
            else f"{name} has never had a policy; `turnout traffic set {name} --baseline VERSION` creates one"
        )
        out.show({"model": name, "epochs": [view.state_body(state) for state in epochs]}, displayed)


@application.command()
def explain(
    name: NameArgument,
    selector: Annotated[str, option("--selector", "SELECTOR", "The selector as a client sends it.")] = "",
    key: Annotated[str, option("--key", "KEY", "The routing key.")] = "",
    baseline_only: Annotated[bool, flag("--baseline-only", "As with `x-turnout-role: baseline`.")] = False,
    target: ServerTarget = ServerTarget(),
) -> None:
    """Explain, step by step, which version would answer a request. Exits with 1 if none would."""
    from turnout.cli.connection import Server
    from turnout.cli.traffic import traffic_view as view

    with reporting(as_json=target.as_json) as out, Server.named(target).control() as control:
        request = pb.ExplainRouteRequest(model=name, selector=selector, routing_key=key, baseline_only=baseline_only)
        explained = control.ExplainRoute(request, timeout=_TIMEOUT)
        out.show(view.explanation_body(explained), table(("", "", ""), view.explanation_rows(explained)))
    if explained.refusal:
        raise typer.Exit(1)


@contextmanager
def _changing(
    options: EpochChangeOptions, target: ServerTarget, *, force: bool = False
) -> "Iterator[tuple[ControlServiceStub, pb.TrafficChange, Callable[[pb.TrafficState], None]]]":
    """Yields a server's control service, what a request for a change contains, and what prints the resulting policy."""
    from turnout.cli.connection import Server
    from turnout.cli.traffic import traffic_view as view
    from turnout.cli.workspace import actor_or_login

    with reporting(as_json=target.as_json) as out:
        change = pb.TrafficChange(
            actor=actor_or_login(options.actor), reason=options.reason, expected_epoch=options.epoch, force=force
        )
        with Server.named(target).control() as control:
            yield control, change, lambda state: out.show(view.state_body(state), *view.change_lines(state))
