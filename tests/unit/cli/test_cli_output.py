"""JSON for programs, sentences for people."""

import json
import math
import re

import pytest
import typer
from rich.text import Text

from turnout.cli.output import CommandOutput, ServerRefused, facts, reporting, table
from turnout.cli.terminal_text import printable
from turnout.errors import ConfigError, FieldViolation, InvalidTensor
from turnout.text.quantities import size_text


def test_json_output_is_json_whatever_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    body = {"a": [math.nan, math.inf, -math.inf, 1.5], "b": [[1, 2], [3, 4]], "c": [{"d": "ü\n"}], "e": {}, "f": []}
    CommandOutput(as_json=True).show(body, "for people")
    printed = capsys.readouterr().out
    assert json.loads(printed) == body | {"a": ["NaN", "Infinity", "-Infinity", 1.5]}
    assert '"b": [[1, 2], [3, 4]]' in printed
    assert "for people" not in printed


def test_a_cell_is_never_read_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    CommandOutput(as_json=False).show({}, table(("A",), [("[red]x[/red] :smile:",)]), "[bold]plain[/bold]")
    printed = capsys.readouterr().out
    assert "[red]x[/red] :smile:" in printed
    assert "[bold]plain[/bold]" in printed


def test_what_may_be_cut_stays_on_its_line_on_a_narrow_terminal(monkeypatch, capsys) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    CommandOutput(as_json=False).show({}, table(("A", "DIGEST"), [("1.0.0", "sha256:0123456789ab")], cut=("DIGEST",)))
    _, row = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert row == "1.0.0   sha256:0123…"


@pytest.mark.parametrize("width", [80, 100, 140])
def test_every_column_is_seen_on_a_narrow_terminal(monkeypatch, capsys, width: int) -> None:
    """Columns that stay whole used to leave nothing for those behind them, and the verdict of a rollout was one."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    columns = ("ATTEMPT", "STARTED (UTC)", "TOOK", "CANDIDATE", "OVER", "STATE", "VERDICT", "BY", "WHY")
    row = ("4", "2026-11-30 19:26:30", "23m45s", "1.1.0", "1.0.0", Text("deciding, paused"), "worse", "ann@vm", "news")
    CommandOutput(as_json=False).show({}, table(columns, [row], right=("ATTEMPT",), whole=columns[:6]))
    printed = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert {"WHY", "worse", "news", "1.1.0", "deciding,", "paused"} <= set(printed.split())
    assert max(map(len, printed.splitlines())) <= width
    assert ("2026-11-30 19:26:30" in printed) is (width >= 100)


TRICKS = "\x1b]0;title\x07 \x1b[31mred\x1b[0m \x9b31m \rover \u202eesrever\u202c \u2028 \x08"


@pytest.mark.parametrize("is_terminal", [False, True])
def test_nothing_that_others_wrote_is_obeyed_by_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    if is_terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
    output = CommandOutput(as_json=False)
    output.show({}, table(("A",), [(TRICKS,), (Text(TRICKS, "red"),)]), TRICKS, Text(TRICKS), facts([("x", TRICKS)]))
    output.note(TRICKS)
    output.error(ConfigError(TRICKS))
    for printed in capsys.readouterr():
        own = re.sub(r"\x1b\[[0-9;]*m", "", printed)  # rich's own colours
        assert (own != printed) is is_terminal
        assert set(own) - {"\n"} <= {c for c in own if c.isprintable()}
        assert "red" in own
    assert printable("ü 漢字 \u00a0 \u200d e\u0301 \t\n") == "ü 漢字 \u00a0 \u200d e\u0301 \t\n"


def test_what_a_terminal_would_obey_is_escaped_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    CommandOutput(as_json=True).show({TRICKS: [TRICKS], "ü": "\u00a0"})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {TRICKS: [TRICKS], "ü": "\u00a0"}
    assert all(c.isprintable() or c in "\n\u00a0" for c in printed)


def test_where_no_terminal_is_a_row_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    CommandOutput(as_json=False).show({}, table(("A", "B"), [("a" * 150, "b" * 150)]), "c" * 1000)
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_where_no_terminal_is_no_line_ends_with_spaces(capsys: pytest.CaptureFixture[str]) -> None:
    CommandOutput(as_json=False).show({}, table(("A", "B"), [("a", "b" * 9), ("a" * 9, "")]), "c", "d\n\ne")
    printed = capsys.readouterr().out
    assert printed == "A           B\na           bbbbbbbbb\naaaaaaaaa\nc\nd\n\ne\n"


def test_an_error_ends_the_command_with_1_and_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, reporting(as_json=False):
        raise InvalidTensor.at("inputs.x", "expected float32, got int8")
    assert ended.value.exit_code == 1
    assert capsys.readouterr() == ("", "error: inputs.x: expected float32, got int8\n")


def test_several_faults_are_a_sentence_each(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), reporting(as_json=False):
        raise ConfigError("one; two", violations=[FieldViolation("a", "one"), FieldViolation("b", "two")])
    assert capsys.readouterr().err == "error: one\nerror: two\n"


@pytest.mark.parametrize(
    ("error", "kind"), [(ConfigError("no"), "ConfigError"), (ServerRefused("NotFound", "no"), "NotFound")]
)
def test_an_error_is_json_where_json_was_asked_for(
    capsys: pytest.CaptureFixture[str], error: Exception, kind: str
) -> None:
    with pytest.raises(typer.Exit), reporting(as_json=True):
        raise error
    printed = capsys.readouterr()
    assert printed.out == ""
    assert json.loads(printed.err) == {"error": {"kind": kind, "message": "no", "violations": []}}


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (3 << 20, "3.0 MiB"),
        (1 << 40, "1.0 TiB"),
        (1 << 52, "4096.0 TiB"),
    ],
)
def test_sizes_are_told_in_binary_units(size: int, text: str) -> None:
    assert size_text(size) == text
