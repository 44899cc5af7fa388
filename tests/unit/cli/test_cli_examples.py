"""Each command's help ends with an example, which the command would take."""

import json
import re
import shlex

import numpy as np
import pytest

from command_line import commands, turnout
from turnout.cli.examples import EXAMPLES
from turnout.registry.publishing import metadata

COMMANDS = commands()


def test_every_command_has_one_and_no_other_has() -> None:
    assert EXAMPLES.keys() == COMMANDS.keys()


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_each_is_one_that_the_command_takes(line) -> None:
    program, *terms = shlex.split(line)
    assert program == "turnout"
    name = " ".join(terms[:2]) if " ".join(terms[:2]) in COMMANDS else terms[0]
    assert line in EXAMPLES[name]
    given = terms[name.count(" ") + 1 :]
    with COMMANDS[name].make_context(name, list(given), resilient_parsing=False) as context:
        assert context.params


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
