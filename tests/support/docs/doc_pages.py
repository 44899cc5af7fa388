"""Parses what a page of the docs tells its reader to do: files to write, and commands to run with their output.

A fence with a title (```python title="fares.py") is a file. A ```console fence contains commands (`$ `, continued by
`> `) and the lines that each prints, in which `...` alone matches any lines, and within a line any text. A fence that
cannot run here is preceded by `<!-- not run: REASON -->`. Any other fence is an error, so that nothing is skipped
silently.
"""

import re
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+?) -->\n+)?```(?P<head>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
_TITLE = re.compile(r'\w+ title="([^"]+)"')
_NEEDS = re.compile(r"^<!-- files of: (\S+) -->$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class File:
    """A file that the reader writes."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """A command, and the lines that it prints."""

    text: str
    expected: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NotRun:
    """A fence that cannot be run by the tests."""

    reason: str
    body: str


Step = File | Command | NotRun


def steps(page: Path) -> list[Step]:
    """Returns all steps of `page` in order, after the files of the page on which it builds.

    Raises:
        ValueError: A fence contains neither a file nor commands, and gives no reason for not being run.
    """
    text = page.read_text()
    found: list[Step] = []
    for other in _NEEDS.findall(text):
        found += [step for step in steps(page.parent / other) if isinstance(step, File)]
    for match in _FENCE.finditer(text):
        if match["reason"]:
            found.append(NotRun(match["reason"], match["body"]))
        elif title := _TITLE.fullmatch(match["head"]):
            found.append(File(title[1], match["body"]))
        elif match["head"] == "console":
            found += _commands(match["body"])
        else:
            raise ValueError(f"{page.name}: ```{match['head']} is neither a file nor commands, and is not marked")
    if text.count("\n```") != 2 * len(_FENCE.findall(text)):
        raise ValueError(f"{page.name}: a fence is not closed, or is indented")
    return found


def _commands(body: str) -> list[Step]:
    commands: list[tuple[list[str], list[str]]] = []
    for line in body.splitlines():
        if line.startswith("$ "):
            commands.append(([line[2:]], []))
        elif line.startswith("> ") and not commands[-1][1]:
            commands[-1][0].append(line[2:])
        else:
            commands[-1][1].append(line)
    return [Command("\n".join(text), tuple(expected)) for text, expected in commands]


def difference(expected: tuple[str, ...], printed: str) -> str:
    """Returns "" if `printed` matches the page, else both texts for comparison.

    Trailing spaces are ignored, and runs of spaces count as one, so that columns may be wider.
    """
    pattern = "".join(r"(?:[^\n]*\n)*?" if line.strip() == "..." else _line(line) for line in expected)
    if re.fullmatch(pattern, "".join(f"{_narrow(line)}\n" for line in printed.splitlines())):
        return ""
    return "\n".join(["the page shows", *expected, "and there was", printed])


def _line(line: str) -> str:
    return "[^\n]*".join(re.escape(part) for part in _narrow(line).split("...")) + "\n"


def _narrow(line: str) -> str:
    return re.sub(r" {2,}", " ", line.rstrip())
