"""Polls a server's activity, even through restarts, and displays it."""

import json
import time
from collections.abc import Iterator
from typing import Any

import typer
from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from turnout.cli.connection import Server
from turnout.cli.output import CommandOutput, ServerRefused
from turnout.cli.rollout.follow import AGAIN
from turnout.cli.rollout.view import rollout_body
from turnout.cli.terminal_text import escaped
from turnout.cli.top.rates import Picture, body, picture
from turnout.cli.top.view import view
from turnout.web.report.formatting import duration_text
from turnout_proto.v1 import activity_pb2 as pb

_TIMEOUT = 5.0
"""Timeout of one call in seconds."""


class Screen:
    """The contents of the screen.

    Attributes:
        picture: Latest picture; None before the first one.
        notice: What is wrong with the connection; "" if nothing is.
    """

    def __init__(self, server: str) -> None:
        self.picture: Picture | None = None
        self.notice = ""
        self._server = server
        self._before: pb.GetActivityResponse | None = None
        self._taken = 0.0

    def take(self, activity: pb.GetActivityResponse, now: float) -> None:
        """Shows an answer that arrived at `now`, a time of `time.monotonic()`."""
        self.picture = picture(self._before, activity)
        self._before, self._taken, self.notice = activity, now, ""

    def lose(self, now: float) -> None:
        """Shows that the server does not answer, and for how long."""
        age = duration_text(float(round(now - self._taken)))
        self.notice = f"no answer from {self._server} for {age}; trying again. This is its last answer."

    def pictures(self, server: Server, interval: float) -> Iterator[None]:
        """Updates the screen every `interval` seconds, even while the server does not answer, and yields each time.

        Raises:
            ServerRefused: The server does not answer the first call, or is too old to have the method.
        """
        while True:
            try:
                with server.control() as control:
                    while True:
                        self.take(control.GetActivity(pb.GetActivityRequest(), timeout=_TIMEOUT), time.monotonic())
                        yield
                        time.sleep(interval)
            except ServerRefused as error:
                if self.picture is None or error.kind not in AGAIN:
                    raise
            self.lose(time.monotonic())
            yield
            time.sleep(interval)

    def render(self, columns: int, rows: int | None) -> RenderableType:
        """Returns the current picture for a terminal of this size."""
        if self.picture is None:
            return Text(f"asking the server at {self._server}", "dim")
        return view(self.picture, self._server, self.notice, columns, rows)

    def body(self) -> dict[str, Any]:
        """Returns the JSON form of the picture."""
        assert self.picture is not None
        return {
            "server": self._server,
            **body(self.picture),
            "rollouts": [rollout_body(rollout) for rollout in self.picture.rollouts],
        }


def one_picture(out: CommandOutput, server: Server, interval: float) -> None:
    """Prints one picture, measured over one interval. Raises ServerRefused as `Screen.pictures`."""
    screen = Screen(str(server.address))
    with server.control() as control:
        for pause in (interval, 0.0):
            screen.take(control.GetActivity(pb.GetActivityRequest(), timeout=_TIMEOUT), time.monotonic())
            time.sleep(pause)
    out.show(screen.body(), screen.render(out.console.width, None))


def watch(out: CommandOutput, server: Server, interval: float) -> None:
    """Shows pictures until interrupted: in place on a terminal, otherwise one below the other.

    Raises:
        ServerRefused: As for `Screen.pictures`.
        KeyboardInterrupt: The user pressed Ctrl-C.
    """
    screen = Screen(str(server.address))
    pictures = screen.pictures(server, interval)
    if out.as_json:
        for _ in pictures:
            line = {"notice": screen.notice} if screen.notice else screen.body()
            typer.echo(escaped(json.dumps(line, ensure_ascii=False)))
        return
    if not out.console.is_terminal:
        for _ in pictures:
            out.console.print(screen.render(out.console.width, None), "")
        return
    next(pictures)  # an error at the start must be printed below the command, not on a screen that disappears

    def now() -> RenderableType:
        return screen.render(*out.console.size)

    with Live(get_renderable=now, console=out.console, screen=True, auto_refresh=False) as live:
        live.refresh()
        for _ in pictures:
            live.refresh()
