"""What each command of `turnout rollout` offers."""

import re

import pytest
from typer.testing import CliRunner

from turnout.cli.main import application

CHANGES = ("pause", "resume", "promote", "set-weight", "freeze", "abort", "retry")
LOOKS = ("plan", "status", "history", "explain", "watch", "report")


def shown(*command: str) -> str:
    done = CliRunner().invoke(application(), [*command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert done.exit_code == 0, done.output
    return done.output


def test_there_is_a_command_for_all_that_can_be_done() -> None:
    offered = re.findall(r"^│ ([a-z][a-z-]+) ", shown("rollout"), re.MULTILINE)
    assert sorted(offered) == sorted(("start", *CHANGES, *LOOKS))


@pytest.mark.parametrize("command", ["start", *CHANGES, *LOOKS])
def test_every_command_answers_in_json_and_asks_any_server(command: str) -> None:
    text = shown("rollout", command)
    assert "--json" in text
    assert "--server" in text


@pytest.mark.parametrize("command", CHANGES)
def test_every_change_has_an_actor_a_reason_and_an_epoch(command: str) -> None:
    text = shown("rollout", command)
    for option in ("--actor", "--reason", "--epoch"):
        assert option in text


def test_a_rollback_wants_a_reason() -> None:
    assert re.search(r"\*\s+--reason", shown("rollback"))


@pytest.mark.parametrize("command", ["start", "watch"])
def test_what_waits_says_what_it_ends_with(command: str) -> None:
    text = shown("rollout", command)
    for code in ("0    the candidate became", "1    it was taken back", "130  Ctrl-C"):
        assert code in text
