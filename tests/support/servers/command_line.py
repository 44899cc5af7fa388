"""Runs the `turnout` command in this process: the real application, without the second that an interpreter needs to
import it. `tests/e2e/cli/test_cli_processes.py` checks for each command that a separate process does the same.
"""

import functools
import io
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from typer.main import get_command

from turnout.cli.main import application

_LIMIT_SECONDS = 240.0
_ONE_AT_A_TIME = threading.Lock()
"""Commands run one at a time, since working directory, environment and standard streams belong to the process."""


@functools.cache
def turnout() -> Any:
    """Returns the command line, cached: creating it takes 20 ms of CPU, and tests run hundreds of commands."""
    return get_command(application())


def commands() -> dict[str, Any]:
    """Returns every command that is not a group, by its name without `turnout`."""
    return dict(_leaves(turnout(), ""))


def _leaves(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    members = getattr(command, "commands", None)
    if members is None:
        yield path, command
        return
    for name, member in members.items():
        yield from _leaves(member, f"{path} {name}".strip())


def run(
    *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Runs a command to its end, in a thread. It may be called while an event loop runs; signals are not supported.

    Args:
        arguments: Arguments after `turnout`.
        cwd: Working directory; None for this process's.
        env: The whole environment; None for this process's.

    Returns:
        The result as of a process. Exceptions other than SystemExit become a traceback on standard error, and 1.
    """
    terms = list(map(str, arguments))
    ended: list[int] = []

    def command() -> None:
        try:
            # Not main(): it lets other threads run first, so that a busy machine might never run the command.
            turnout()(terms, prog_name="turnout")
        except SystemExit as error:
            if isinstance(error.code, str):
                sys.stderr.write(f"{error.code}\n")
            ended.append(error.code if isinstance(error.code, int) else int(error.code is not None))
        except BaseException:  # noqa: BLE001 - like an interpreter
            traceback.print_exc()
            ended.append(1)

    with _ONE_AT_A_TIME, _surroundings(cwd, env), _streams() as (out, err):
        thread = threading.Thread(target=command, name="turnout", daemon=True)
        thread.start()
        thread.join(_LIMIT_SECONDS)
        assert ended, f"turnout {' '.join(terms)} takes longer than {_LIMIT_SECONDS:g} s"
        return subprocess.CompletedProcess(["turnout", *terms], ended[0], _text(out), _text(err))


@contextmanager
def _surroundings(cwd: Path | None, env: Mapping[str, str] | None) -> Iterator[None]:
    where, before = os.getcwd(), dict(os.environ)
    try:
        if cwd is not None:
            os.chdir(cwd)
        if env is not None:
            _set_environment(env)
        yield
    finally:
        os.chdir(where)
        _set_environment(before)


def _set_environment(wanted: Mapping[str, str]) -> None:
    for name in os.environ.keys() - wanted.keys():
        del os.environ[name]
    os.environ.update(wanted)


@contextmanager
def _streams() -> Iterator[tuple[io.TextIOWrapper, io.TextIOWrapper]]:
    streams = (sys.stdin, sys.stdout, sys.stderr)
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="", write_through=True) for _ in range(2))
    try:
        sys.stdin, sys.stdout, sys.stderr = io.StringIO(), out, err
        yield out, err
    finally:
        sys.stdin, sys.stdout, sys.stderr = streams


def _text(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()
