"""JSON for programs, sentences for people."""

import json
import math

import pytest
import typer

from turnout.cli.output import CommandOutput, ServerRefused, reporting, size_text, table
from turnout.errors import ConfigError, FieldViolation, InvalidTensor


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
