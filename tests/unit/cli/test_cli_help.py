"""Each command's help shows its whole docstring in paragraphs that fill the lines, and ends with an example."""

import inspect
import itertools
import json
import re
import shlex

import numpy as np
import pytest

from command_line import commands, run, turnout
from turnout.cli.examples import EXAMPLES
from turnout.cli.help_text import plain
from turnout.registry.publishing import metadata

COMMANDS = commands()
WIDTH = 110
"""Columns of the terminal."""


def test_every_command_has_an_example_and_no_other_has() -> None:
    assert EXAMPLES.keys() == COMMANDS.keys()


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_each_example_is_one_that_the_command_takes(line) -> None:
    program, *terms = shlex.split(line)
    assert program == "turnout"
    name = " ".join(terms[:2]) if " ".join(terms[:2]) in COMMANDS else terms[0]
    assert line in EXAMPLES[name]
    given = terms[name.count(" ") + 1 :]
    with COMMANDS[name].make_context(name, list(given), resilient_parsing=False) as context:
        assert context.params


def _of_a_server(line: str) -> bool:
    name = next(name for name, lines in EXAMPLES.items() if line in lines)
    return name != "publish" and any("--server" in param.opts for param in COMMANDS[name].params)


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines if _of_a_server(line)])
def test_each_example_of_a_command_that_calls_a_server_gets_that_far(line, tmp_path) -> None:
    done = run(*shlex.split(line)[1:], "--server", "127.0.0.1:1", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "error: no server answers at 127.0.0.1:1 (Connection refused)\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_what_may_be_left_out_is_in_one_pair_of_brackets(name, capsys) -> None:
    usage = next(line for line in shown(name, capsys) if "Usage:" in line)
    assert "[[" not in usage


def test_inputs_of_examples_can_be_read() -> None:
    given = [term for line in EXAMPLES["predict"] for term in shlex.split(line) if "=" in term]
    assert given
    for text in given:
        name, value = text.split("=", 1)
        assert value == "random" or np.asarray(json.loads(value)).size, name


def test_what_meta_takes_is_named() -> None:
    (option,) = [param for param in COMMANDS["publish"].params if param.opts == ["--meta"]]
    assert set(re.findall(r"(?<![A-Za-z])[a-z]+", option.help.partition(": ")[2])) == set(metadata._TOP)


@pytest.mark.parametrize("name", ["publish", "traffic set", "rollout start"])
def test_help_shows_it_on_a_line_of_its_own(name, capsys) -> None:
    with pytest.raises(SystemExit):
        turnout().main([*name.split(), "--help"], prog_name="turnout")
    help_lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert help_lines.count("Examples:" if len(EXAMPLES[name]) > 1 else "Example:") == 1
    assert "".join(EXAMPLES[name][0].split()) in "".join("".join(help_lines).split())


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
