"""Generates the blocking client from the asyncio one; `--check` verifies that the committed code is up to date.

Run from anywhere: `python client/unasync.py [--check]`. It needs ruff (the `dev` extra) to format the result.
Modules that differ in more than keywords (`connection.py`, `stream.py`) are written by hand on both sides.
"""

import argparse
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PACKAGE = ROOT / "turnout_client"
GENERATED = ("client.py", "readiness.py")

NAMES = {
    "AsyncClient": "Client",
    "AsyncConnection": "Connection",
    "AsyncStreamTransport": "StreamTransport",
    "AsyncStubs": "Stubs",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "_async": "_sync",
    "aclose": "close",
}
# Replaced in strings, docstrings and comments, in addition to the names.
PROSE = {
    "grpc.aio.": "grpc.",  # the types have the same names; annotations with them are strings
    "async with ": "with ",
    "await ": "",
    "Awaitable[ResponseT]": "ResponseT",
    "shared by the tasks of one event loop": "shared by the threads of a process",
}

_NAME_IN_PROSE = re.compile("|".join(rf"\b{name}\b" for name in NAMES))


def to_sync(source: str) -> str:
    """Returns the blocking counterpart of the asyncio code in `source`, not yet formatted."""
    lines = source.splitlines(keepends=True)
    for start, end, replacement in reversed(list(_edits(source))):
        (row, left), (last, right) = start, end
        text = lines[row - 1][:left] + replacement + lines[last - 1][right:]
        lines[row - 1 : last] = text.splitlines(keepends=True)
    return "".join(lines)


def _edits(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int], str]]:
    """Yields the edits to `source` in order: start (row, column), end (row, column) and replacement text."""
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    for index, token in enumerate(tokens):
        if token.type == tokenize.NAME and token.string in ("async", "await"):
            yield token.start, tokens[index + 1].start, ""
        elif token.type == tokenize.NAME and token.string in NAMES:
            yield token.start, token.end, NAMES[token.string]
        elif token.type in (tokenize.STRING, tokenize.COMMENT) and (text := _prose(token.string)) != token.string:
            yield token.start, token.end, text


def _prose(text: str) -> str:
    for phrase, replacement in PROSE.items():
        text = text.replace(phrase, replacement)
    return _NAME_IN_PROSE.sub(lambda match: NAMES[match[0]], text)


def generate(name: str) -> str:
    """Returns the text of the generated module `name`."""
    header = f"# Generated from _async/{name} by client/unasync.py: change that one.\n"
    ruff = [sys.executable, "-m", "ruff"]
    file = PACKAGE / "_sync" / name
    text = header + to_sync((PACKAGE / "_async" / name).read_text())
    for command in (["check", "--fix-only", "--select=I,F401", "-"], ["format", "-"]):
        run = subprocess.run(  # noqa: S603 - fixed arguments
            [*ruff, *command, f"--stdin-filename={file}", "--quiet"],
            input=text, capture_output=True, text=True, check=True, cwd=ROOT.parent,
        )  # fmt: skip
        text = run.stdout
    return text


def main() -> int:
    """Generates the modules. Returns 1 if `--check` finds committed code that is out of date, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the committed code differs")
    check = parser.parse_args().check
    stale = 0
    for name in GENERATED:
        file = PACKAGE / "_sync" / name
        text = generate(name)
        if file.exists() and file.read_text() == text:
            continue
        if check:
            print(f"{file.relative_to(ROOT)} is not what client/unasync.py generates", file=sys.stderr)  # noqa: T201
            stale = 1
        else:
            file.write_text(text)
    return stale


if __name__ == "__main__":
    sys.exit(main())
