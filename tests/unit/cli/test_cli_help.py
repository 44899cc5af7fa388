"""The help of each command shows all of its docstring, in paragraphs that fill the lines."""

import inspect
import itertools

import pytest

from command_line import commands, turnout
from turnout.cli.help_text import plain

COMMANDS = commands()
WIDTH = 110


def shown(name: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    with pytest.raises(SystemExit):
        turnout().main([*name.split(), "--help"], prog_name="turnout")
    return [line.strip(" │") for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_every_word(name, capsys, monkeypatch) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", WIDTH)
    printed = " ".join(" ".join(shown(name, capsys)).split())
    command = COMMANDS[name]
    for paragraph in inspect.cleandoc(inspect.getdoc(command.callback)).split("\n\n"):
        assert " ".join(paragraph.split()) in printed
    for parameter in command.params:
        assert set(plain(parameter.help or "").split()) <= set(printed.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_paragraphs_fill_the_lines(name, capsys, monkeypatch) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", WIDTH)
    lines = shown(name, capsys)
    for paragraph in inspect.cleandoc(inspect.getdoc(COMMANDS[name].callback)).split("\n\n"):
        if paragraph.startswith("Exit codes"):
            continue
        start = next(i for i, line in enumerate(lines) if line and " ".join(paragraph.split()).startswith(line))
        block = lines[start : lines.index("", start)]
        for line, following in itertools.pairwise(block):
            assert len(line) + 1 + len(following.split()[0]) > WIDTH - 4, line


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_is_described_by_a_sentence(name) -> None:
    for parameter in COMMANDS[name].params:
        assert (parameter.help or "Sentence")[0] != "(", parameter.opts
