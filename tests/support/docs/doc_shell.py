"""A shell in which a page's commands are run one after the other, as a reader would."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from doc_pages import Command, File, Step, difference


class Shell:
    """A bash in its own directory, with the `turnout` and `python` of these tests.

    Addresses in pages are replaced with free ports, and replaced back in the output.
    """

    def __init__(
        self, directory: Path, ports: Mapping[str, str], environment: Mapping[str, str], programs: Sequence[Path] = ()
    ) -> None:
        """Starts the shell.

        Args:
            directory: Working directory.
            ports: Replacements for the addresses in pages.
            environment: Variables in addition to those of the tests.
            programs: Directories to put first in PATH.
        """
        self._directory = directory
        self._ports = ports
        path = ":".join([*map(str, programs), str(Path(sys.executable).parent), os.environ["PATH"]])
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=directory,
            env={**os.environ, "PATH": path, "HOME": str(directory), "COLUMNS": "160", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Everything that the page left running is in the shell's session.
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def do(self, step: Step, *, may_fail: bool, seconds: float) -> None:
        """Performs a step of a page, and compares the output with the page's.

        Args:
            step: The step.
            may_fail: Whether the page's next command prints the exit code.
            seconds: Time limit.

        Raises:
            AssertionError: The output differs.
        """
        if isinstance(step, File):
            file = self._directory / step.name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(self._here(step.text))
        if not isinstance(step, Command):
            return
        printed, code = self._run(self._here(step.text), seconds)
        wrong = difference(step.expected, self._as_in_pages(printed))
        assert not wrong, f"$ {step.text}\n{wrong}\n{self._logs()}"
        assert code == 0 or may_fail, f"$ {step.text}\nended with {code}, and the page does not say so\n{printed}"

    def _run(self, command: str, seconds: float) -> tuple[str, int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        mark = f"-- {uuid4()} "
        # A subshell restores the last exit code, for a page that prints `$?` next.
        after = f'__code=$?; printf "\\n%s%s\\n" "{mark}" "$__code"; (exit "$__code")'
        self._process.stdin.write(f"{command}\n{after}\n".encode())
        self._process.stdin.flush()
        out, deadline = b"", time.monotonic() + seconds
        while not (mark.encode() in out and out.endswith(b"\n")):
            left = deadline - time.monotonic()
            assert left > 0, f"$ {command}\nis not done within {seconds} s\n{out.decode()}\n{self._logs()}"
            if select.select([self._process.stdout], [], [], left)[0]:
                chunk = os.read(self._process.stdout.fileno(), 1 << 16)
                assert chunk, f"$ {command}\nended the shell\n{out.decode()}"
                out += chunk
        printed, _, code = out.decode().rpartition(f"\n{mark}")
        return printed, int(code)

    def _here(self, text: str) -> str:
        for page, here in self._ports.items():
            text = text.replace(page, here)
        return text

    def _as_in_pages(self, text: str) -> str:
        for page, here in self._ports.items():
            text = text.replace(here, page)
        return text

    def _logs(self) -> str:
        logs = sorted(self._directory.glob("*.log"))
        return "\n".join(f"-- {log.name}\n{log.read_text()[-4000:]}" for log in logs)
