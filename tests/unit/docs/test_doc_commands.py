"""What the documentation names exists: each `turnout` command with its options, and each metric."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from command_line import turnout

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    *sorted(page for page in DOCS.rglob("*.md") if page.parent.name not in ("reference", "decisions")),
]
METRICS = (DOCS / "reference" / "metrics.md").read_text()
NO_METRICS = {"turnout_client", "turnout_proto", "turnout_serve", "turnout_role", "turnout_epoch", "turnout_digest"}
"""Packages, a fixture, and parameters of the Open Inference Protocol."""

_INLINE = re.compile(r"`(turnout [a-z][^`]*)`")
_FENCE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PROMPT = re.compile(r"^\$ (.*(?:\n> .*)*)", re.MULTILINE)


def commands(text: str) -> Iterator[str]:
    """Yields each `turnout` command of `text`: in backticks, and at the prompts of console fences."""
    yield from _INLINE.findall(text)
    for fence in _FENCE.findall(text):
        for typed in _PROMPT.findall(fence):
            line = typed.replace("\\\n> ", " ").replace("\n> ", " ")
            yield from re.findall(
                r"(?:^|&& |; |until )(?:[A-Z_]+=\S+ )*(turnout .*?)(?= && | > | 2> | &$| \| |;|$)", line
            )


def mistake(command: str) -> str:
    """Returns what of `command` does not exist; "" if all of it does."""
    terms = shlex.split(command.replace("...", " ").split(" #")[0], posix=True)[1:]
    at = turnout()
    for term in terms:
        if hasattr(at, "commands") and not term.startswith("-"):
            known = at.commands
            if term not in known and terms[0] != "import":
                return f"{command}: there is no command {term}"
            at = known[term if term in known else "export"]  # `turnout import DIR` is `turnout import export DIR`
        elif term.startswith("--"):
            options = {option for parameter in at.params for option in (*parameter.opts, *parameter.secondary_opts)}
            if term.partition("=")[0] not in options | {"--help"}:
                return f"{command}: there is no option {term}"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_options_and_metrics_of_a_page_exist(page: Path) -> None:
    text = page.read_text()
    assert [message for command in commands(text) if (message := mistake(command))] == []
    named = set(re.findall(r"`(turnout_[a-z0-9_]+[a-z0-9])(?=[{`(])", text)) - NO_METRICS
    named = {name.removesuffix("_bucket") for name in named}
    assert [name for name in sorted(named) if f"`{name}`" not in METRICS] == []


def test_what_does_not_exist_is_found() -> None:
    typed = "$ TOKEN=x turnout publish m 1.0.0 f.onnx \\\n>   --relase > log &"
    text = f"`turnout rolout start m`\n\n```console\n{typed}\n```\n"
    assert list(commands(text)) == ["turnout rolout start m", "turnout publish m 1.0.0 f.onnx    --relase"]
    assert [mistake(command) for command in commands(text)] == [
        "turnout rolout start m: there is no command rolout",
        "turnout publish m 1.0.0 f.onnx    --relase: there is no option --relase",
    ]
    assert mistake("turnout traffic set m --baseline 1.0.0 --canary 1.1.0=5%") == ""
