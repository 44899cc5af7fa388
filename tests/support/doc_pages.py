"""What a page of the docs asks its reader to do: files to write and commands to run, with what is seen.

A fence with a title (```python title="fares.py") is a file. A ```console fence holds commands (`$ `, gone on with by
`> `) and the lines that each prints, where `...` alone stands for any lines, and within a line for any text. A fence
that cannot run here has `<!-- not run: REASON -->` before it. Any other fence is an error: nothing is left out without
a word.
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
    """A fence that cannot run where the tests run."""

    reason: str
    body: str


Step = File | Command | NotRun


def steps(page: Path) -> list[Step]:
    """Returns all that `page` asks for, in order, the files of the page that it goes on from first.

    Raises:
        ValueError: A fence is neither a file nor commands, and does not say why it is not run.
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
    """Returns "" where `printed` is as the page shows it, else both, for a person to compare.

    Space at the ends of lines does not count, and columns may be wider: runs of spaces count as one.
    """
    pattern = "".join(r"(?:[^\n]*\n)*?" if line.strip() == "..." else _line(line) for line in expected)
    if re.fullmatch(pattern, "".join(f"{_narrow(line)}\n" for line in printed.splitlines())):
        return ""
    return "\n".join(["the page shows", *expected, "and there was", printed])


def _line(line: str) -> str:
    return "[^\n]*".join(re.escape(part) for part in _narrow(line).split("...")) + "\n"


def _narrow(line: str) -> str:
    return re.sub(r" {2,}", " ", line.rstrip())
