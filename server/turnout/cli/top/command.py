"""`turnout top`."""

from typing import Annotated

import typer

from turnout.cli.options import ServerTarget, flag, option
from turnout.cli.output import reporting


def top(
    interval: Annotated[float, option("--interval", "SECONDS", "Time between updates.", min=0.1, max=3600)] = 2.0,
    once: Annotated[bool, flag("--once", "Watch for one interval, print the result, and exit.")] = False,
    target: ServerTarget = ServerTarget(),
) -> None:
    """Watch the activity of every version: requests, latency, failures, queues, traffic, rollouts. Quit with Ctrl-C.

    The busiest come first. With --json, each update is one line; with --once, one document.
    """
    from turnout.cli.connection import Server
    from turnout.cli.top.live import one_picture, watch

    with reporting(as_json=target.as_json) as out:
        named = Server.named(target)
        try:
            if once:
                one_picture(out, named, interval)
            else:
                watch(out, named, interval)
        except KeyboardInterrupt:
            raise typer.Exit from None
