"""Runs the `turnout` command and a server process, as a user would."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from turnout_client import Client

TURNOUT = Path(sys.executable).with_name("turnout")

console = Console(width=118, highlight=False)


@dataclass(frozen=True, slots=True)
class Server:
    """The addresses of a server, each `HOST:PORT`."""

    grpc: str
    http: str
    control: str


def publish_by_command(*arguments: str, models: Path, show: str = "") -> None:
    """Runs a `turnout` command on a repository, and prints it."""
    displayed = [show if show and argument.startswith("/") else argument for argument in arguments]
    console.print(f"[bold cyan]$ turnout {' '.join(displayed)}[/]")
    command = [str(TURNOUT), *arguments, "--models", str(models)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first = [line for line in done.stdout.splitlines() if re.match(r"magika|stable|inputs|outputs", line)]
    console.print("  " + "\n  ".join(line.rstrip() for line in first), style="dim", markup=False)


def steer(server: Server, *arguments: str) -> None:
    """Runs a `turnout` command on a running server, and prints it and its output."""
    console.print(f"[bold cyan]$ turnout {' '.join(arguments)}[/]")
    command = [str(TURNOUT), *arguments, "--server", server.control]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"turnout {' '.join(arguments)} ended with {done.returncode}: {done.stderr.strip()}")
    lines = "\n  ".join(line.rstrip() for line in done.stdout.splitlines())
    console.print(f"  {lines}", style="dim", markup=False, soft_wrap=True)


@contextmanager
def serving(
    models: Path, environment: Mapping[str, str] | None = None, *, show: bool = True, kill: bool = False
) -> Iterator[Server]:
    """Runs a server process for `models` on free ports, and stops it with SIGTERM.

    Args:
        models: Root of the repository.
        environment: Environment variables in addition to those of this process.
        show: Whether to print what is done.
        kill: Whether to stop the server with SIGKILL instead, since a run that hangs may take longer than the drain.
    """
    say = console.print if show else _nothing
    listen = ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--control", "127.0.0.1:0"]
    command = [str(TURNOUT), "serve", "--models", str(models), *listen, "--json"]
    with (models.parent / "server.log").open("w+") as log:
        process = subprocess.Popen(
            command, stderr=log, env=os.environ | {"TURNOUT_DRAIN__DELAY_S": "0"} | dict(environment or {})
        )
        try:
            server = _listening(process, Path(log.name))
            given = "".join(f"{name}={value} " for name, value in (environment or {}).items())
            say(f"[bold cyan]$ {given}turnout serve[/]  [dim]gRPC {server.grpc}, HTTP {server.http}[/]")
            with Client(server.grpc) as client:
                client.wait_ready("magika", timeout=60)
            yield server
        finally:
            process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            code = process.wait(timeout=60)
        say(f"[bold cyan]$ kill -TERM ...[/]  [dim]drained, exit code {code}[/]")
        if code and not kill:
            raise SystemExit(f"the server ended with {code}:\n{Path(log.name).read_text()}")


def _nothing(*_: object) -> None:
    """Prints nothing."""


def _listening(process: "subprocess.Popen[bytes]", log: Path) -> Server:
    """Waits for the log line with the server's addresses, and returns them."""
    for _ in range(600):
        if match := re.search(r'"grpc": "([^"]+)", "http": "([^"]+)", "control": "([^"]+)"', log.read_text()):
            return Server(match[1], match[2], match[3])
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit(f"the server did not start:\n{log.read_text()}")


def watch(server: Server, model: str) -> int:
    """Runs `turnout rollout watch` on the terminal until it exits, and returns its exit status."""
    console.print(f"[bold cyan]$ turnout rollout watch {model}[/]")
    console.file.flush()
    command = [str(TURNOUT), "rollout", "watch", model, "--server", server.control]
    return subprocess.run(command, check=False, timeout=300).returncode
