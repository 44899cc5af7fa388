"""What each command of `turnout rollout` offers."""

import re

import pytest
from typer.testing import CliRunner

from turnout.cli.main import application
from turnout.cli.output import CommandOutput
from turnout.cli.rollout.view import history_rows, overview
from turnout_proto.v1 import rollout_pb2 as pb

CHANGES = ("pause", "resume", "promote", "set-weight", "freeze", "abort", "retry")
LOOKS = ("plan", "status", "history", "explain", "watch", "report", "probe")


def help_text(*command: str) -> str:
    done = CliRunner().invoke(application(), [*command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert done.exit_code == 0, done.output
    return done.output


def test_there_is_a_command_for_all_that_can_be_done() -> None:
    offered = re.findall(r"^│ ([a-z][a-z-]+) ", help_text("rollout"), re.MULTILINE)
    assert sorted(offered) == sorted(("start", *CHANGES, *LOOKS))


@pytest.mark.parametrize("command", ["start", *CHANGES, *LOOKS])
def test_every_command_answers_in_json_and_asks_any_server(command: str) -> None:
    text = help_text("rollout", command)
    assert "--json" in text
    assert "--server" in text


@pytest.mark.parametrize("command", CHANGES)
def test_every_change_has_an_actor_and_a_reason_and_that_of_a_running_rollout_an_epoch(command: str) -> None:
    text = help_text("rollout", command)
    assert "--actor" in text
    assert "--reason" in text
    assert "--epoch" in text


def test_a_rollback_wants_a_reason() -> None:
    assert re.search(r"\*\s+--reason", help_text("rollback"))


@pytest.mark.parametrize("command", ["start", "watch"])
def test_what_waits_says_what_it_ends_with(command: str) -> None:
    text = help_text("rollout", command)
    for code in ("0    the candidate became", "1    it was rolled back", "130  Ctrl-C"):
        assert code in text


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("start", "m", "--to", "1.1.0", "--steps", "5%"), "--steps: expected SHARE:TIME or SHARE:TIME:gate"),
        (("start", "m", "--to", "1.1.0", "--timeout", "5s"), "--timeout: only with --wait"),
        (("start", "m", "--to", "1.1.0", "--wait", "--timeout", "soon"), "expected a time such as 90s"),
        (("watch", "m", "--timeout", "soon"), "expected a time such as 90s"),
        (("start", "m", "--to", "1.1.0", "--plan", "none.toml"), "the plan 'none.toml' is missing"),
        (("set-weight", "m", "much"), "expected a share such as 5%"),
    ],
)
def test_what_no_server_could_take_is_refused_before_one_is_asked(arguments: tuple[str, ...], complaint: str) -> None:
    done = CliRunner().invoke(application(), ["rollout", *arguments, "--server", "127.0.0.1:1"])
    assert done.exit_code == 1
    assert complaint in done.output


@pytest.mark.parametrize(
    ("verdict", "shown"),
    [
        ("1.2.0 is worse than 1.1.0 (errors: 26 of 76, the baseline 0 of 78; E = 25,900)", "1.2.0 is worse than 1.1.0"),
        ("1.1.0 is the baseline: errors 0 of 1,424 against 0 of 848", "1.1.0 is the baseline"),
        ("enough", "enough"),
        ("", ""),
    ],
)
def test_the_history_shows_a_verdict_without_its_numbers(verdict: str, shown: str) -> None:
    (row,) = history_rows([pb.Rollout(attempt=2, candidate="1.2.0", previous="1.1.0", verdict=verdict)])
    assert row[6] == shown


def test_the_status_of_all_models_fits_a_terminal_of_80_columns_whatever_the_reasons(monkeypatch, capsys) -> None:
    """One long reason used to leave the other columns so little that numbers and names were broken."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    reason = "the on-call engineer is at lunch, and nobody else knows whether the store is filled (ann@vm)"
    common = {"candidate": "1.1.0", "previous": "1.0.0", "attempt": 1, "steps": 4, "step": 1, "threshold": 100.0}
    rollouts = [
        pb.Rollout(model="model-01", state="rolled_back", e_value=3.8e9, **common),
        pb.Rollout(model="model-02", state="validating", pauses=[reason], **common),
        pb.Rollout(model="model-03", state="unreadable", verdict="a later release wrote it", **common),
    ]
    CommandOutput(as_json=False).show({}, *overview(rollouts))
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["MODEL", "model-01", "model-02", "model-03"]
    assert max(map(len, lines[:4])) <= 80
    assert "rolled back" in lines[1]
    assert "3.8e9/100" in lines[1]
    assert lines[4:] == [f"model-02: {reason}", "model-03: a later release wrote it"]
